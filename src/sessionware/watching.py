"""``Session.on_ended``: tell an open connection that its session has ended.

One thread for all that is watched. It compares marks, which cost nothing, and asks the store about
a session whose mark has moved; where there is no channel, about each one every two seconds.
"""

from __future__ import annotations

import inspect
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final

from . import clock
from .errors import StoreUnavailable
from .events import logger
from .flows import Flow, T
from .homes import Home, InThread, home_here, home_of_thread, note_failure
from .runners import LoopRunner
from .session import Session
from .states import SessionState, state_of
from .stores.cached import CachedStore

_LOOK_SECONDS: Final = 0.05
_ASK_SECONDS: Final = 2.0
# The thread sleeps so many times longer than it works.
_IDLE: Final = 9
_REST_SECONDS: Final = 1.0
_NEVER: Final = float("-inf")


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
        state = state_of(session)
        if state.row is None:
            return lambda: None
        return self._watcher.watch(state, callback)

    def unwatch(self, session: Session) -> None:
        """Call off all that ``on_ended`` was asked for with this session: for adapters, when the
        connection is over.
        """
        self._watcher.forget(session.link())


class _Watch:
    """One session, watched for one callback.

    ``mark`` is that of the last answer of the store, ``asked`` when it was asked for. ``asking``
    says that an event loop is at it.
    """

    def __init__(self, state: SessionState, callback: Callable[[], Any], in_loop: bool) -> None:
        home = home_here()
        if home is None and inspect.iscoroutinefunction(callback):
            raise TypeError("an on_ended callback that is a coroutine function needs an event loop")
        assert state.row is not None
        self.state = state
        # Not its data, which may be large.
        self.row = state.row._replace(data=b"")
        self.mark: int | None = None
        self.asked = _NEVER
        self.asking = False
        self.asker = home or (home_of_thread() if in_loop else InThread())
        self._home: Home = home or InThread()
        self._callback: Callable[[], Any] | None = callback
        self._context = copy_context()

    def call_off(self) -> None:
        self._callback = None

    def fire(self) -> None:
        # Closed, and with the event loop the connection.
        with suppress(RuntimeError):
            self._home.soon(self._context, self._call)

    def _call(self) -> None:
        # It may have been called off since.
        callback, self._callback = self._callback, None
        if callback is None:
            return
        try:
            result = callback()
            if inspect.isawaitable(result):
                self._home.spawn(self._context, result)
        except Exception as error:
            note_failure(error)


class Watcher:
    """The thread, while there is something to watch."""

    def __init__(self, manager: Watches) -> None:
        self._lock = threading.Lock()
        self._watched: dict[_Watch, bool] = {}
        # The same by the request that asked for them.
        self._of_request: dict[int, list[_Watch]] = {}
        self._thread: threading.Thread | None = None
        self._changes: deque[tuple[bytes, ...] | None] = deque()
        self._rested = _NEVER
        # A store may serve several managers, one after the other too.
        self._listeners = manager.store.listeners
        self._listens = False
        self._manager = weakref.ref(manager, self._stop_listening)

    def watch(self, state: SessionState, callback: Callable[[], Any]) -> Callable[[], None]:
        manager = self._manager()
        assert manager is not None
        watch = _Watch(state, callback, isinstance(manager.store.runner, LoopRunner))
        with self._lock:
            if not self._listens:
                self._listens = True
                self._listeners.append(self._changed)
            self._watched[watch] = True
            self._of_request.setdefault(id(state), []).append(watch)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="sessionware-watch", daemon=True)
                thread.start()
                self._thread = thread
        return lambda: self._call_off(watch)

    # Without the lock: a child process may find it held for ever.

    def _take(self, watch: _Watch) -> bool:
        """Whether it was watched until now: nobody else gets it."""
        taken = self._watched.pop(watch, False)
        of_request = self._of_request.get(id(watch.state), [])
        with suppress(ValueError):
            of_request.remove(watch)
        if not of_request:
            self._of_request.pop(id(watch.state), None)
        return taken

    def _call_off(self, watch: _Watch) -> None:
        self._take(watch)
        watch.call_off()

    def forget(self, state: object) -> None:
        """Watch nothing any more for the request with this state."""
        for watch in list(self._of_request.get(id(state), ())):
            self._call_off(watch)

    def stop(self) -> None:
        """Watch nothing any more."""
        for watch in list(self._watched):
            self._call_off(watch)

    def _stop_listening(self, _: object) -> None:
        with suppress(ValueError):
            self._listeners.remove(self._changed)

    def _changed(self, hashes: tuple[bytes, ...] | None) -> None:
        """A change of this process's own: a channel need not tell us of those."""
        if self._watched:
            self._changes.append(hashes)

    # The thread.

    def _run(self) -> None:
        while (manager := self._still_needed()) is not None:
            began = time.thread_time()
            try:
                self._look(manager)
            except Exception as error:
                self._rest(error)
            del manager
            time.sleep(max(_LOOK_SECONDS, _IDLE * (time.thread_time() - began)))

    def _still_needed(self) -> Watches | None:
        with self._lock:
            manager = self._manager() if self._watched else None
            if manager is None:
                self._thread = None
            return manager

    def _look(self, manager: Watches) -> None:
        self._note_changes()
        if time.monotonic() - self._rested < _REST_SECONDS:
            return
        store = manager.store
        in_loop = isinstance(store.runner, LoopRunner)
        if store.channel.due() and not in_loop:
            with suppress(StoreUnavailable):
                store.run(store.look_after_flow())
        due = [watch for watch in list(self._watched) if self._is_due(store, watch)]
        for watch in due:
            if watch.asker.is_closed():
                self._call_off(watch)
        if in_loop:
            self._have_asked(due)
        else:
            self._ask_all(manager, due)

    def _note_changes(self) -> None:
        changed: set[bytes] = set()
        everything = False
        while self._changes:
            hashes = self._changes.popleft()
            everything = everything or hashes is None
            changed.update(hashes or ())
        if changed or everything:
            for watch in list(self._watched):
                if everything or watch.row.sid_hash in changed:
                    watch.asked = _NEVER

    def _is_due(self, store: CachedStore, watch: _Watch) -> bool:
        if watch.asking:
            return watch.asker.is_closed()
        row = watch.row
        mark = store.channel.mark(row.sid_hash)
        if row.expires_at <= clock.now() or mark != watch.mark:
            return True
        age = time.monotonic() - watch.asked
        if age < _ASK_SECONDS:
            return False
        # A worker may have been killed between its commit and the message.
        return (
            mark is None or age >= store.cache.ttl or not store.channel.trusts(row.sid_hash, mark)
        )

    def _ask_all(self, manager: Watches, due: Iterable[_Watch]) -> None:
        for watch in due:
            if watch in self._watched and manager.run(self._has_ended(manager, watch)):
                self._end(watch)

    def _have_asked(self, due: Iterable[_Watch]) -> None:
        """Each event loop asks about its own."""
        by_loop: dict[Home, list[_Watch]] = {}
        for watch in due:
            if watch in self._watched:
                watch.asking = True
                by_loop.setdefault(watch.asker, []).append(watch)
        for loop, watches in by_loop.items():
            with suppress(RuntimeError):
                loop.soon(Context(), partial(self._ask_in, loop, watches))

    def _ask_in(self, loop: Home, watches: list[_Watch]) -> None:
        loop.spawn(Context(), self._aask_all(watches))

    async def _aask_all(self, watches: list[_Watch]) -> None:
        manager = self._manager()
        try:
            for watch in watches:
                if manager is None or watch not in self._watched:
                    continue
                if await manager.arun(self._has_ended(manager, watch)):
                    self._end(watch)
        except Exception as error:
            self._rest(error)
        finally:
            for watch in watches:
                watch.asking = False

    def _rest(self, error: Exception) -> None:
        """Ask again in a while. A failing store has been reported; anything else is a defect."""
        self._rested = time.monotonic()
        if not isinstance(error, StoreUnavailable):
            logger.error("sessions can't be watched: %s", type(error).__name__)

    def _has_ended(self, manager: Watches, watch: _Watch) -> Flow[bool]:
        store, before = manager.store, watch.row
        watch.asked = time.monotonic()
        if store.channel.due():
            yield from store.look_after_flow()
        mark = store.channel.mark(before.sid_hash)
        row = yield from store.reload_flow(before.id)
        if row is None or row.expires_at <= clock.now() or row.user_id != before.user_id:
            return True
        watch.row = row._replace(data=b"")
        watch.mark = mark
        if row.sid_hash != before.sid_hash:
            # The mark under its new hash has to be taken before the next answer.
            watch.asked = _NEVER
        return False

    def _end(self, watch: _Watch) -> None:
        if self._take(watch):
            watch.fire()
