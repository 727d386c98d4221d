"""Expired rows, cleaned away in the background: in batches, jittered, one process at a time."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from . import clock
from .chance import chance
from .errors import StoreUnavailable
from .events import logger
from .flows import Flow, Part, Parts, Pause, T, part_twins
from .pacing import Progress
from .stores.cached import CachedStore
from .stores.protocol import PURGE_LEASE

if TYPE_CHECKING:
    from .manager import SessionManager


_MOST_SKEW_MS: Final = 60_000
"""How far the clocks of two hosts may be apart for one to heed the other's lease."""


_Stage: TypeAlias = tuple[Progress, Callable[[], Flow[int]]]
"""How far it has come, and its next batch."""


class Purges:
    """The part of a manager that deletes expired rows."""

    store: CachedStore

    def run(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    async def arun(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    def claim_purge(self, seconds: float) -> bool:
        """Take the lease on purging; False if another process has it."""
        return self.run(self._claim(seconds))

    async def aclaim_purge(self, seconds: float) -> bool:
        """Take the lease on purging; False if another process has it."""
        return await self.arun(self._claim(seconds))

    def _claim(self, seconds: float) -> Flow[bool]:
        now = clock.now()
        until = now + int(seconds * 1000)
        # What ends later was claimed by a clock that ran ahead, and would stand until that time.
        return self.store.take_over_flow(PURGE_LEASE, now, until, until + _MOST_SKEW_MS)

    def purge_parts(self, *, exact: bool = True) -> Parts[int]:
        """Delete expired rows, a batch a transaction, at rest for most of the time; how many there
        were.

        The index finds each row some time after its end. ``exact`` then looks through the whole
        table for what has expired just now, as far as ``store_timeout`` lets it.
        """
        of_sessions, of_retired = self._stages(exact)
        for progress, flow in (of_sessions, of_retired):
            while not progress.done:
                began, deleted = time.perf_counter(), 0
                with _as_far_as_it_goes(progress.whole):
                    deleted = yield Part(flow())
                yield Pause(progress.note(deleted, time.perf_counter() - began))
        return of_sessions[0].deleted

    purge, apurge = part_twins(purge_parts)

    def _stages(self, exact: bool) -> tuple[_Stage, _Stage]:
        """Sessions, and then what these batches have left of the tombstones."""
        most = self.store.batch
        sessions, retired = Progress(most, exact), Progress(most, exact=False)

        def of_sessions() -> Flow[int]:
            return self.store.purge_flow(clock.now(), sessions.limit, sessions.whole)

        def of_retired() -> Flow[int]:
            return self.store.purge_retired_flow(clock.now(), retired.limit)

        return (sessions, of_sessions), (retired, of_retired)


@contextmanager
def _as_far_as_it_goes(whole: bool) -> Iterator[None]:
    """Reading a whole large table may take too long: what the index found is gone all the same."""
    try:
        yield
    except StoreUnavailable:
        if not whole:
            raise


class Purger:
    """Purges now and then for as long as the manager is in use. An error is logged and survived."""

    def __init__(self, manager: SessionManager, interval: float | None, in_loop: bool) -> None:
        self._stop = threading.Event()
        # A manager that is dropped without shutdown() leaves no thread behind.
        self._manager = weakref.ref(manager, lambda _: self._stop.set())
        self._interval = interval or 0.0
        self._in_loop = in_loop
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start with the first use; cheap to call again."""
        if not self._interval or self._thread is not None:
            return
        if self._in_loop:
            self._start_task()
            return
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(
                target=self._run, args=(self._stop,), name="sessionware-purge", daemon=True
            )
            # The system may have none left: then the next use starts it.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def _start_task(self) -> None:
        task = self._task
        if task is not None and not (task.done() or task.get_loop().is_closed()):
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._task = loop.create_task(self._arun(), name="sessionware-purge")

    def _delay(self) -> float:
        return self._interval * chance.uniform(0.5, 1.5)

    def _lease(self) -> float:
        return self._interval / 2

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._delay()):
            manager = self._manager()
            if manager is None:
                return
            try:
                if manager.claim_purge(self._lease()):
                    manager.purge(exact=False)
            except Exception as error:
                logger.warning("the purge failed, and is tried again: %s", type(error).__name__)
            del manager

    async def _arun(self) -> None:
        while True:
            await asyncio.sleep(self._delay())
            manager = self._manager()
            if manager is None:
                return
            try:
                if await manager.aclaim_purge(self._lease()):
                    await manager.apurge(exact=False)
            except Exception as error:
                logger.warning("the purge failed, and is tried again: %s", type(error).__name__)
            del manager

    def stop(self) -> None:
        """End it; ``start`` begins anew."""
        self._stop.set()
        self._stop = threading.Event()
        self._thread = None
        task, self._task = self._task, None
        if task is not None and not task.get_loop().is_closed():
            task.get_loop().call_soon_threadsafe(task.cancel)
