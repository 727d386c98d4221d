"""``Session.lock``: one handler at a time for one session, over all workers.

A lock is a lease in the database: it ends by itself when its holder dies. Who waits for it asks
again and again, and holds neither a thread nor a connection meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import NamedTuple

import anyio

from . import clock
from .chance import chance
from .codecs import Codec
from .errors import LockTimeout, SessionGone, StoreUnavailable
from .flows import Flow, T
from .leases import Attempt, Lease, Watched, claim, release
from .session import Session
from .states import state_of
from .stores.cached import CachedStore
from .stores.protocol import Row
from .tracking import Intents
from .waiting import in_event_loop

_LONGEST_PAUSE = 0.1


class Locks:
    """The part of a manager that takes and gives back session locks."""

    store: CachedStore
    codec: Codec

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
        if not (isinstance(timeout, int | float) and 0 <= timeout < math.inf):
            raise ValueError("timeout must be a number of seconds")
        if not (isinstance(hold, int | float) and 0 < hold < math.inf):
            raise ValueError("hold must be a number of seconds, more than 0")
        self._manager = manager
        self._session = session
        self._timeout = timeout
        self._hold_ms = max(1, int(hold * 1000))
        self._attempt = Attempt()
        self._entered = False
        self._before: _Before | None = None

    def __enter__(self) -> Session:
        if in_event_loop():
            # Whoever holds the lock may be a task of this very loop.
            raise RuntimeError("this would block the event loop: use `async with session.alock()`")
        manager, row = self._manager, self._begin()
        try:
            if row is not None:
                for pause in self._pauses():
                    self._attempt = Attempt()
                    if manager.run(self._claim(row, self._attempt)):
                        break
                    time.sleep(pause)
                manager.refresh(self._session)
            self._note_content()
        except BaseException:
            self._release()
            raise
        return self._session

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._check_still_held()
                self._manager.save(self._session)
                self._before = None
        finally:
            try:
                self._undo()
            finally:
                self._release()

    async def __aenter__(self) -> Session:
        manager, row = self._manager, self._begin()
        try:
            if row is not None:
                for pause in self._pauses():
                    self._attempt = Attempt()
                    if await manager.arun(self._claim(row, self._attempt)):
                        break
                    await anyio.sleep(pause)
                await manager.arefresh(self._session)
            self._note_content()
        except BaseException:
            await self._arelease()
            raise
        return self._session

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._check_still_held()
                await self._manager.asave(self._session)
                self._before = None
        finally:
            try:
                self._undo()
            finally:
                await self._arelease()

    # Taking and giving back.

    def _begin(self) -> Row | None:
        """The row to lock; None if nobody else can know the session yet."""
        self._session.mark_accessed()
        state = state_of(self._session)
        if state.locked is not None:
            raise RuntimeError("this request holds the session's lock already")
        if not state.savable:
            raise SessionGone("this request came with an ID that was rotated away")
        return state.row

    def _pauses(self) -> Iterator[float]:
        """Seconds to wait after each try. Raises ``LockTimeout`` when the time is over."""
        deadline = time.monotonic() + self._timeout
        longest = 0.004
        while (left := deadline - time.monotonic()) > 0:
            yield min(chance.uniform(0.5, 1.0) * longest, left)
            longest = min(longest * 1.5, _LONGEST_PAUSE)
        yield 0.0
        raise LockTimeout(
            f"another request has held the session's lock for {self._timeout:g} seconds"
        )

    def _claim(self, row: Row, attempt: Attempt) -> Flow[bool]:
        store, now = self._manager.store, clock.now()
        # In the database it lasts longer than for the holder, who may just have begun to save.
        spare = max(int(store.timeout * 1000), self._hold_ms // 10) + 100 + chance.randrange(100)
        lease = Lease(_key(row), now + self._hold_ms + spare)
        if not (yield from claim(store, lease, now)):
            return False
        if attempt.succeed(lease, now + self._hold_ms):
            return True
        # Who asked for it was cancelled or ran out of time, and is not there to give it back.
        yield from release(store, lease)
        return False

    def _check_still_held(self) -> None:
        until = self._attempt.until
        if until is not None and clock.now() >= until:
            raise LockTimeout("the lock was held for longer than its `hold`: nothing was saved")

    def _release(self) -> None:
        if (lease := self._let_go()) is not None:
            with suppress(StoreUnavailable):
                self._manager.run(release(self._manager.store, lease))

    async def _arelease(self) -> None:
        if (lease := self._let_go()) is not None:
            with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
                await self._manager.arun(release(self._manager.store, lease))

    def _let_go(self) -> Lease | None:
        if self._entered:
            self._entered = False
            state_of(self._session).locked = None
        return self._attempt.end()

    def guard(self, flow: Flow[T]) -> Flow[T]:
        """The flow of a write in the block or at its end: it may outlast the block, if the request
        is cancelled or out of time, and then gives the lease back itself. What may still be carried
        out when the flow has ended leaves the lease to end by itself.
        """
        attempt = self._attempt
        if not attempt.begin_write():
            flow.close()
            raise LockTimeout("the lock was given back before this write had begun")
        watched = Watched(flow)
        try:
            answer = yield from watched.run()
        except GeneratorExit:
            # It can't ask for anything more; the block is still to give the lease back.
            attempt.end_write(watched.unsure)
            raise
        except Exception:
            yield from self._give_back(attempt.end_write(watched.unsure))
            raise
        yield from self._give_back(attempt.end_write())
        return answer

    def _give_back(self, lease: Lease | None) -> Flow[None]:
        if lease is not None:
            with suppress(StoreUnavailable):
                yield from release(self._manager.store, lease)

    # The session's content.

    def _note_content(self) -> None:
        state, session = state_of(self._session), self._session
        payload, rich = self._manager.codec.encode(session)
        intents = session.take_intents()
        session.put_back(intents)
        self._before = _Before(_version(state.row), intents, payload, rich)
        self._entered, state.locked = True, self

    def _undo(self) -> None:
        """What the block did must not be saved with the response either, but for a logout."""
        before, self._before = self._before, None
        session, state = self._session, state_of(self._session)
        if before is None or session.asked.ended:
            return
        session.forget_intents()
        if _version(state.row) == before.version:
            session.put_back(before.intents)
            session.refill(self._manager.codec.decode(before.payload, before.rich))
        else:
            # Something was committed in the block.
            session.refill(self._manager.codec.decode(state.payload, state.rich))


class _Before(NamedTuple):
    """The session as the block found it."""

    version: int | None
    intents: Intents
    payload: bytes
    rich: bool

    def __repr__(self) -> str:
        return "<_Before>"


def _version(row: Row | None) -> int | None:
    return None if row is None else row.version


def _key(row: Row) -> bytes:
    """The id survives a rotation."""
    return sha256(b"sessionware lock %d" % row.id).digest()
