"""Who runs a flow: worker threads for a blocking store, the event loop for an async one.

A flow that has begun runs to its end whatever becomes of the request that asked for it: a cancelled
request leaves neither half a transaction nor a cache that disagrees with the database.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import Future, wait
from typing import Any, Protocol, TypeVar

import anyio
import anyio.from_thread

from .errors import ConfigurationError, Finding, StoreUnavailable
from .flows import Flow, adrive, drive
from .threads import Threads
from .waiting import in_event_loop, wait_for

T = TypeVar("T")


class Runner(Protocol):
    """Runs flows, in both worlds where the store allows it."""

    def run(self, flow: Flow[T], /) -> T: ...
    async def arun(self, flow: Flow[T], /) -> T: ...
    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T: ...
    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T: ...
    def close(self) -> None: ...
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


class ThreadRunner:
    """For a store of plain methods that block: flows run in threads of ours."""

    def __init__(self, store: Any, timeout: float, threads: int) -> None:
        self._store = store
        self._timeout = timeout
        self._threads = Threads(threads, "sessionware-store")
        self._ending = weakref.finalize(self, self._threads.close)
        self._flights = _Flights()

    def _submit(self, flow: Flow[T], begin: Callable[[], None] | None = None) -> Future[T]:
        def job() -> T:
            if begin is not None:
                begin()
            self._store.prepare()
            return drive(flow, self._store)

        return self._threads.submit(job)

    def run(self, flow: Flow[T], /) -> T:
        _refuse_in_event_loop()
        return self._outcome(self._submit(flow))

    async def arun(self, flow: Flow[T], /) -> T:
        return await self._aoutcome(self._submit(flow))

    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        _refuse_in_event_loop()
        while True:
            future, current = self._flights.join(key, lambda begin: self._submit(flow(), begin))
            if current:
                outcome: T = self._outcome(future, shared=True)
                return outcome
            if not wait([future], self._timeout).done:
                raise _too_slow(self._timeout)
            found = cached()
            if found is not None:
                return found

    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        while True:
            future, current = self._flights.join(key, lambda begin: self._submit(flow(), begin))
            if current:
                return await self._aoutcome(future, shared=True)
            if not await wait_for(future, self._timeout):
                raise _too_slow(self._timeout)
            found = cached()
            if found is not None:
                return found

    def _outcome(self, future: Future[T], shared: bool = False) -> T:
        try:
            return future.result(self._timeout)
        except TimeoutError:
            if future.done():
                raise
        if not shared:
            future.cancel()
        raise _too_slow(self._timeout)

    async def _aoutcome(self, future: Future[T], shared: bool = False) -> T:
        if await wait_for(future, self._timeout):
            return future.result()
        if not shared:
            future.cancel()
        raise _too_slow(self._timeout)

    def close(self) -> None:
        """End the threads when they have worked off what is under way; they start again by use."""
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

    def run(self, flow: Flow[T], /) -> T:
        """From a worker thread of the event loop only (a ``def`` endpoint)."""
        begun = False

        async def work() -> T:
            nonlocal begun
            begun = True
            return await self.arun(flow)

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
        return await self._outcome(self._launch(flow))

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
        while True:
            future, current = self._flights.join(key, lambda begin: self._launch(flow(), begin))
            if current:
                return await self._outcome(future)
            if not await wait_for(future, self._timeout):
                raise _too_slow(self._timeout)
            found = cached()
            if found is not None:
                return found

    async def _shielded(self, flow: Flow[T]) -> T:
        with anyio.CancelScope(shield=True), anyio.move_on_after(self._timeout):
            return await self._prepared(flow)
        raise _too_slow(self._timeout)

    async def _outcome(self, future: Future[T]) -> T:
        if await wait_for(future, self._timeout):
            return future.result()
        raise _too_slow(self._timeout)

    def close(self) -> None:
        """Nothing to end: the tasks end with what they do."""

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
        """Nothing to end."""

    def abandon(self) -> None:
        """Nothing of the parent's is touched."""


def runner_for(store: Any, timeout: float) -> Runner:
    """The runner that fits what the store offers; see ``stores.protocol``."""
    if not hasattr(store, "load"):
        return LoopRunner(store, timeout)
    if not getattr(store, "blocking", True):
        return InlineRunner(store)
    return ThreadRunner(store, timeout, getattr(store, "connections", 8))


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refuse_in_event_loop() -> None:
    if in_event_loop():
        raise RuntimeError(
            "this would block the event loop: use the twin with an `a` (`await asave()`)"
        )


def _async_only() -> Finding:
    return Finding(
        "SW020",
        "store",
        "an async driver can't be used from plain threads.",
        "use the sync twin of its URL (postgresql+psycopg, mysql+pymysql, sqlite), or await.",
    )
