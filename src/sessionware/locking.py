"""``Session.lock``: one handler at a time for one session, over all workers.

A lock is a lease in the database: it ends by itself when its holder dies. Who waits for it asks
again and again, and holds neither a thread nor a connection meanwhile.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import anyio

from . import clock
from .errors import LockTimeout, StoreUnavailable
from .events import EventSink
from .flows import Flow, T
from .session import Session
from .states import state_of
from .stores.cached import CachedStore
from .stores.protocol import Row


class Locks:
    """The part of a manager that takes and gives back session locks."""

    store: CachedStore
    events: EventSink

    def run(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    async def arun(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    def refresh(self, session: Session) -> None:
        raise NotImplementedError

    async def arefresh(self, session: Session) -> None:
        raise NotImplementedError

    def save(self, session: Session) -> None:
        raise NotImplementedError

    async def asave(self, session: Session) -> None:
        raise NotImplementedError

    def lock(self, session: Session, timeout: float, hold: float) -> SessionLock:
        """See ``Session.lock``."""
        return SessionLock(self, session, timeout, hold)


class SessionLock:
    """What ``with session.lock()`` and ``async with session.alock()`` enter."""

    def __init__(self, manager: Locks, session: Session, timeout: float, hold: float) -> None:
        for name, value in (("timeout", timeout), ("hold", hold)):
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a number of seconds")
        self._manager = manager
        self._session = session
        self._timeout = timeout
        self._hold_ms = max(1, int(hold * 1000))
        self._row: Row | None = None
        self._until = 0

    def __enter__(self) -> Session:
        manager, row = self._manager, self._begin()
        if row is None:
            return self._session
        for pause in self._tries():
            if manager.run(self._claim(row)):
                break
            time.sleep(pause)
        try:
            manager.refresh(self._session)
        except BaseException:
            manager.run(self._release())
            raise
        return self._session

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        manager = self._manager
        if self._row is None:
            return
        try:
            if kind is None:
                self._check_still_held()
                manager.save(self._session)
        finally:
            manager.run(self._release())

    async def __aenter__(self) -> Session:
        manager, row = self._manager, self._begin()
        if row is None:
            return self._session
        for pause in self._tries():
            if await manager.arun(self._claim(row)):
                break
            await anyio.sleep(pause)
        try:
            await manager.arefresh(self._session)
        except BaseException:
            await self._arelease()
            raise
        return self._session

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        manager = self._manager
        if self._row is None:
            return
        try:
            if kind is None:
                self._check_still_held()
                await manager.asave(self._session)
        finally:
            await self._arelease()

    async def _arelease(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._manager.arun(self._release())

    def _begin(self) -> Row | None:
        """The row to lock; None if nobody else can know the session yet."""
        self._session.mark_accessed()
        state = state_of(self._session)
        if state.locked:
            raise RuntimeError("this request holds the session's lock already")
        return state.row

    def _tries(self) -> Iterator[float]:
        """Seconds to wait after each try. Raises ``LockTimeout`` when the time is over."""
        deadline = time.monotonic() + self._timeout
        pause = 0.004
        while True:
            yield random.uniform(0.5, 1.0) * pause
            if time.monotonic() >= deadline:
                raise LockTimeout(
                    f"another request has held the session's lock for {self._timeout:g} seconds"
                )
            pause = min(pause * 1.5, 0.1)

    def _claim(self, row: Row) -> Flow[bool]:
        now = clock.now()
        until = now + self._hold_ms
        claimed = yield from self._manager.store.claim_flow(_key(row), now, until)
        if claimed:
            self._row, self._until = row, until
            state_of(self._session).locked = True
        return claimed

    def _check_still_held(self) -> None:
        if clock.now() >= self._until:
            raise LockTimeout("the lock was held for longer than its `hold`: nothing was saved")

    def _release(self) -> Flow[Any]:
        row, self._row = self._row, None
        state_of(self._session).locked = False
        if row is None:
            return
        try:
            yield from self._manager.store.release_flow(_key(row), self._until)
        except StoreUnavailable as error:
            # It ends by itself.
            self._manager.events.emit("store_error", detail=f"a lock was not given back: {error}")


def _key(row: Row) -> bytes:
    """The id survives a rotation."""
    return sha256(b"sessionware lock %d" % row.id).digest()
