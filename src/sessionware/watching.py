"""``Session.on_ended``: tell an open connection that its session has ended.

One thread for all that is watched. It compares marks, which cost nothing, and asks the store only
about sessions whose marks have moved, or where there is no channel every two seconds.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from . import clock
from .errors import StoreUnavailable
from .events import logger
from .flows import Flow, T
from .runners import LoopRunner
from .session import Session
from .states import state_of
from .stores.cached import CachedStore
from .stores.protocol import Row

_LOOK_SECONDS: Final = 0.05
_ASK_SECONDS: Final = 2.0


class Watches:
    """The part of a manager that watches sessions for those who hold a connection open."""

    store: CachedStore
    _watcher: Watcher

    def run(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    async def arun(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    def on_ended(self, session: Session, callback: Callable[[], Any]) -> Callable[[], None]:
        """See ``Session.on_ended``."""
        session.mark_accessed()
        row = state_of(session).row
        if row is None:
            return lambda: None
        return self._watcher.watch(row, callback)


class _Watch:
    """One session, watched for one callback."""

    def __init__(self, row: Row, mark: int | None, callback: Callable[[], Any]) -> None:
        self.row = row
        self.mark = mark
        self.asked = time.monotonic()
        self._callback = callback
        self._loop, self._token = _running()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop

    def fire(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._call_in_asyncio)
        elif self._token is not None:
            self._token.run_sync_soon(self._call_in_trio)
        else:
            self._callback()

    def _call_in_asyncio(self) -> None:
        result = self._callback()
        if inspect.iscoroutine(result):
            assert self._loop is not None
            task = self._loop.create_task(result)
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    def _call_in_trio(self) -> None:
        import trio

        if inspect.iscoroutinefunction(self._callback):
            trio.lowlevel.spawn_system_task(_survived, self._callback)
        else:
            self._callback()


_tasks: set[asyncio.Task[Any]] = set()


async def _survived(callback: Callable[[], Any]) -> None:
    """A system task that fails would end the whole of trio."""
    try:
        await callback()
    except Exception as error:
        logger.error("an on_ended callback raised %s", type(error).__name__)


def _running() -> tuple[asyncio.AbstractEventLoop | None, Any]:
    try:
        return asyncio.get_running_loop(), None
    except RuntimeError:
        pass
    try:
        import trio

        return None, trio.lowlevel.current_trio_token()
    except (ImportError, RuntimeError):
        return None, None


class Watcher:
    """The thread, while there is something to watch."""

    def __init__(self, manager: Watches) -> None:
        self._manager = weakref.ref(manager)
        self._lock = threading.Lock()
        self._watched: dict[_Watch, None] = {}
        self._thread: threading.Thread | None = None
        manager.store.listeners.append(self._changed)

    def watch(self, row: Row, callback: Callable[[], Any]) -> Callable[[], None]:
        manager = self._manager()
        assert manager is not None
        watch = _Watch(row, manager.store.channel.mark(row.sid_hash), callback)
        # It may have ended since it was loaded.
        watch.asked = float("-inf")
        with self._lock:
            self._watched[watch] = None
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="sessionware-watch", daemon=True
                )
                self._thread.start()
        return lambda: self._drop(watch)

    def _drop(self, watch: _Watch) -> None:
        with self._lock:
            self._watched.pop(watch, None)

    def stop(self) -> None:
        """Watch nothing any more."""
        with self._lock:
            self._watched.clear()

    def _changed(self, hashes: tuple[bytes, ...] | None) -> None:
        """A change of this process's own: a channel need not tell us of those."""
        if self._watched:
            for watch in list(self._watched):
                if hashes is None or watch.row.sid_hash in hashes:
                    watch.mark = None
                    watch.asked = float("-inf")

    def _run(self) -> None:
        while True:
            with self._lock:
                watched = list(self._watched)
                manager = self._manager()
                if not watched or manager is None:
                    self._thread = None
                    return
            self._look_after_channel(manager)
            for watch in watched:
                if self._is_due(manager, watch):
                    self._ask(manager, watch)
            del manager, watched
            time.sleep(_LOOK_SECONDS)

    def _look_after_channel(self, manager: Watches) -> None:
        """Once for all that is watched, where it is due."""
        if manager.store.channel.due() and not isinstance(manager.store.runner, LoopRunner):
            with suppress(StoreUnavailable):
                manager.run(manager.store.look_after_flow())

    def _is_due(self, manager: Watches, watch: _Watch) -> bool:
        channel, row = manager.store.channel, watch.row
        if row.expires_at <= clock.now():
            return True
        if watch.mark is not None and channel.mark(row.sid_hash) == watch.mark:
            sure = channel.trusts(row.sid_hash, watch.mark)
            return not sure and time.monotonic() - watch.asked >= _ASK_SECONDS
        return watch.mark is not None or time.monotonic() - watch.asked >= _ASK_SECONDS

    def _ask(self, manager: Watches, watch: _Watch) -> None:
        watch.asked = time.monotonic()
        flow = self._look(manager, watch)
        try:
            if not isinstance(manager.store.runner, LoopRunner):
                ended = manager.run(flow)
            elif watch.loop is not None:
                asked = asyncio.run_coroutine_threadsafe(manager.arun(flow), watch.loop)
                ended = asked.result(_ASK_SECONDS)
            else:
                return
        except (StoreUnavailable, TimeoutError):
            return
        except RuntimeError:
            # The event loop is closed, and with it the connection.
            self._drop(watch)
            return
        if ended and watch in self._watched:
            self._drop(watch)
            try:
                watch.fire()
            except Exception as error:
                logger.error("an on_ended callback raised %s", type(error).__name__)

    def _look(self, manager: Watches, watch: _Watch) -> Flow[bool]:
        channel = manager.store.channel
        if channel.due():
            yield from manager.store.look_after_flow()
        mark = channel.mark(watch.row.sid_hash)
        row = yield from manager.store.reload_flow(watch.row.id)
        if row is None or row.expires_at <= clock.now() or row.user_id != watch.row.user_id:
            return True
        # A rotation gave it another hash, whose mark has not been seen yet.
        watch.mark = mark if row.sid_hash == watch.row.sid_hash else None
        if watch.mark is None and mark is not None:
            watch.asked = float("-inf")
        watch.row = row
        return False
