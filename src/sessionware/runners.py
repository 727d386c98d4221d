"""Who runs a flow: worker threads for a blocking store, the event loop for an async one.

A flow that has begun runs to its end whatever becomes of the request that asked for it: a cancelled
request leaves neither half a transaction nor a cache that disagrees with the database.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import anyio
import anyio.from_thread

from .errors import ConfigurationError, Finding, StoreUnavailable
from .flows import Flow, adrive, drive
from .threads import Threads
from .waiting import in_event_loop, wait_for

T = TypeVar("T")


class Runner(Protocol):
    """Runs flows, in both worlds where the store allows it.

    ``run_shared`` waits wherever it is called: Flask runs an ``async def`` view in an event loop of
    its own, in a thread that nobody else waits for. ``refuse_event_loop`` is for everybody else.
    """

    def refuse_event_loop(self) -> None: ...
    def run(self, flow: Flow[T], /) -> T: ...
    async def arun(self, flow: Flow[T], /) -> T: ...
    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T: ...
    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T: ...
    def close(self) -> None: ...
    async def aclose(self) -> None: ...
    def abandon(self) -> None: ...


class _Flight:
    """A load under way. ``begun`` once it may have read the database."""

    __slots__ = ("begun", "future")

    def __init__(self) -> None:
        self.future: Future[Any]
        self.begun = False


class _Flights:
    """One load a key at a time.

    Who comes before it has begun to read shares its outcome. Who comes later waits for it too, but
    must not take its outcome for current: a change may have been acknowledged since it read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, _Flight] = {}

    def join(
        self, key: Hashable, launch: Callable[[Callable[[], None]], Future[Any]]
    ) -> tuple[Future[Any], bool]:
        """The flight's future, and whether its outcome is current for the caller."""
        with self._lock:
            flight = self._under_way.get(key)
            if flight is not None:
                return flight.future, not flight.begun
            flight = self._under_way[key] = _Flight()

            def begin() -> None:
                flight.begun = True

            try:
                flight.future = launch(begin)
            except BaseException:
                del self._under_way[key]
                raise
        flight.future.add_done_callback(lambda _: self._landed(key))
        return flight.future, True

    def _landed(self, key: Hashable) -> None:
        with self._lock:
            self._under_way.pop(key, None)


def _too_slow(timeout: float) -> StoreUnavailable:
    return StoreUnavailable(f"the store did not answer within {timeout:g} seconds (store_timeout)")


# How often threads that hang are replaced while the store gives no sign of life.
_MOST_CREWS = 4


class ThreadRunner:
    """For a store of plain methods that block: flows run in threads of ours."""

    def __init__(self, store: Any, timeout: float, threads: int) -> None:
        self._store = store
        self._timeout = timeout
        self._threads = Threads(threads, "sessionware-store")
        self._under_way: set[Future[Any]] = set()
        self._last_sign = time.monotonic()
        self._crews = 1
        self._ending = weakref.finalize(self, self._threads.close)
        self._flights = _Flights()

    def _submit(self, flow: Flow[T], begin: Callable[[], None] | None = None) -> Future[T]:
        def job() -> T:
            if begin is not None:
                begin()
            self._store.prepare()
            return drive(flow, self._store)

        future = self._threads.submit(job)
        self._under_way.add(future)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[Any]) -> None:
        self._under_way.discard(future)
        if not future.cancelled():
            self._last_sign = time.monotonic()
            self._crews = 1

    def _given_up(self) -> StoreUnavailable:
        """A wait was in vain. Where nothing at all comes back, threads and connections may hang for
        good, as behind a network that drops packets: go on with new ones.
        """
        now = time.monotonic()
        silence = now - self._last_sign
        hanging = silence > 3 * self._timeout and any(map(Future.running, list(self._under_way)))
        if hanging and self._crews < _MOST_CREWS:
            self._last_sign = now
            self._crews += 1
            self._threads.close()
            self._flights = _Flights()
            if hasattr(self._store, "renew"):
                self._threads.submit(self._store.renew)
        return _too_slow(self._timeout)

    def refuse_event_loop(self) -> None:
        """Raise ``RuntimeError`` where waiting would block an event loop."""
        if in_event_loop():
            raise RuntimeError(
                "this would block the event loop: use the twin with an `a` (`await asave()`)"
            )

    def run(self, flow: Flow[T], /) -> T:
        self.refuse_event_loop()
        return self._outcome(self._submit(flow), self._timeout)

    async def arun(self, flow: Flow[T], /) -> T:
        return await self._aoutcome(self._submit(flow), self._timeout)

    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        deadline = time.monotonic() + self._timeout
        while True:
            future, current = self._flights.join(key, lambda begin: self._submit(flow(), begin))
            left = deadline - time.monotonic()
            if current:
                outcome: T = self._outcome(future, left, shared=True)
                return outcome
            if not wait([future], left).done:
                raise self._given_up()
            found = cached()
            if found is not None:
                return found

    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        deadline = time.monotonic() + self._timeout
        while True:
            future, current = self._flights.join(key, lambda begin: self._submit(flow(), begin))
            left = deadline - time.monotonic()
            if current:
                return await self._aoutcome(future, left, shared=True)
            if not await wait_for(future, left):
                raise self._given_up()
            found = cached()
            if found is not None:
                return found

    def _outcome(self, future: Future[T], timeout: float, shared: bool = False) -> T:
        try:
            return future.result(max(0, timeout))
        except TimeoutError:
            if future.done():
                raise
        if not shared:
            future.cancel()
        raise self._given_up()

    async def _aoutcome(self, future: Future[T], timeout: float, shared: bool = False) -> T:
        if await wait_for(future, timeout):
            return future.result()
        if not shared:
            future.cancel()
        raise self._given_up()

    def close(self) -> None:
        """Let what is under way come to its end, close the store, end the threads."""
        wait(list(self._under_way), self._timeout)
        _close(self._store)
        self._threads.close()

    async def aclose(self) -> None:
        """Let what is under way come to its end, close the store, end the threads."""
        for future in list(self._under_way):
            await wait_for(future, self._timeout)
        await wait_for(self._threads.submit(lambda: _close(self._store)), self._timeout)
        self._threads.close()

    def abandon(self) -> None:
        """In a child process: the threads are not there, and their lock may be held for ever."""
        self._ending.detach()


class LoopRunner:
    """For a store of coroutines: flows run in the event loop.

    On asyncio as tasks of their own; on trio, which has none, shielded in the request's.
    """

    def __init__(self, store: Any, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._flights = _Flights()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._shielded_flows = 0

    async def _prepared(self, flow: Flow[T], begin: Callable[[], None] | None = None) -> T:
        if begin is not None:
            begin()
        await self._store.aprepare()
        return await adrive(flow, self._store)

    def _launch(self, flow: Flow[T], begin: Callable[[], None] | None = None) -> Future[T]:
        future: Future[T] = Future()

        async def work() -> None:
            try:
                result = await self._prepared(flow, begin)
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                future.set_result(result)

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    def refuse_event_loop(self) -> None:
        """``run`` says it with the fix."""

    def run(self, flow: Flow[T], /) -> T:
        """From a worker thread of the event loop only (a ``def`` endpoint)."""
        return self._from_thread(lambda: self.arun(flow))

    def _from_thread(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        begun = False

        async def work() -> T:
            nonlocal begun
            begun = True
            return await call()

        if not in_event_loop():
            try:
                return anyio.from_thread.run(work)
            except RuntimeError:
                if begun:
                    raise
        raise ConfigurationError([_async_only()])

    async def arun(self, flow: Flow[T], /) -> T:
        if not _on_asyncio():
            return await self._shielded(flow)
        return await self._outcome(self._launch(flow), self._timeout)

    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        return self.run(flow())

    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        if not _on_asyncio():
            return await self._shielded(flow())
        key = (asyncio.get_running_loop(), key)
        deadline = time.monotonic() + self._timeout
        while True:
            future, current = self._flights.join(key, lambda begin: self._launch(flow(), begin))
            left = deadline - time.monotonic()
            if current:
                return await self._outcome(future, left)
            if not await wait_for(future, left):
                raise _too_slow(self._timeout)
            found = cached()
            if found is not None:
                return found

    async def _shielded(self, flow: Flow[T]) -> T:
        self._shielded_flows += 1
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._timeout):
                return await self._prepared(flow)
        finally:
            self._shielded_flows -= 1
        raise _too_slow(self._timeout)

    async def _outcome(self, future: Future[T], timeout: float) -> T:
        if await wait_for(future, timeout):
            return future.result()
        raise _too_slow(self._timeout)

    def close(self) -> None:
        """From a worker thread of the event loop only, as ``run``."""
        with suppress(ConfigurationError):
            self._from_thread(self.aclose)

    async def aclose(self) -> None:
        """Let what is under way come to its end, and close the store."""
        loop = _running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if tasks:
            await asyncio.wait(tasks, timeout=self._timeout)
        with anyio.move_on_after(self._timeout):
            while self._shielded_flows:
                await anyio.sleep(0.01)
        if hasattr(self._store, "aclose"):
            await self._store.aclose()

    def abandon(self) -> None:
        """Nothing of the parent's is touched."""


class _Awaited:
    """A store of plain methods as one of coroutines."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self._store, name.removeprefix("a"))

        async def call(*args: Any) -> Any:
            return method(*args)

        return call


class InlineRunner:
    """For a store that never blocks: flows run right where they are asked for."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._awaited = _Awaited(store)

    def refuse_event_loop(self) -> None:
        """Nothing ever waits here."""

    def run(self, flow: Flow[T], /) -> T:
        return drive(flow, self._store)

    async def arun(self, flow: Flow[T], /) -> T:
        return await adrive(flow, self._awaited)

    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        return drive(flow(), self._store)

    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        return await adrive(flow(), self._awaited)

    def close(self) -> None:
        """Close the store; nothing is under way."""
        _close(self._store)

    async def aclose(self) -> None:
        """Close the store; nothing is under way."""
        _close(self._store)

    def abandon(self) -> None:
        """Nothing of the parent's is touched."""


def runner_for(store: Any, timeout: float) -> Runner:
    """The runner that fits what the store offers; see ``stores.protocol``."""
    if not hasattr(store, "load"):
        return LoopRunner(store, timeout)
    if not getattr(store, "blocking", True):
        return InlineRunner(store)
    return ThreadRunner(store, timeout, getattr(store, "connections", 8))


def _close(store: Any) -> None:
    """A store that has nothing to close may leave the method out."""
    if hasattr(store, "close"):
        store.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _on_asyncio() -> bool:
    return _running_loop() is not None


def _async_only() -> Finding:
    return Finding(
        "SW020",
        "store",
        "an async driver can't be used from plain threads.",
        "use the sync twin of its URL (postgresql+psycopg, mysql+pymysql, sqlite), or await.",
    )
