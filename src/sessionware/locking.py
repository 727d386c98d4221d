"""``Session.lock``: one handler at a time for one session, over all workers.

A lock is a lease in the database: it ends by itself when its holder dies. Who waits for it asks
again and again, and holds neither a thread nor a connection meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import NamedTuple

import anyio

from . import clock
from .chance import chance
from .codecs import Codec
from .errors import Contention, LockTimeout, OutcomeUnknown, SessionGone, StoreUnavailable
from .flows import Flow, T
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


class Lease(NamedTuple):
    """A lease in the store. ``until`` tells it from the leases of others, before and after."""

    key: bytes
    until: int


def claim(store: CachedStore, lease: Lease, now: int) -> Flow[bool]:
    """Take a lease; False if somebody holds it, or if others were in the way."""
    try:
        return (yield from store.claim_flow(lease.key, now, lease.until))
    except Contention:
        return False
    except OutcomeUnknown:
        pass
    # It may be ours, and nobody would know.
    yield from release(store, lease)
    return False


def release(store: CachedStore, lease: Lease) -> Flow[None]:
    """Give a lease back. Where the store fails it ends by itself."""
    try:
        yield from store.release_flow(lease.key, lease.until)
    except (Contention, OutcomeUnknown):
        # Giving back what is given back already does no harm.
        yield from store.release_flow(lease.key, lease.until)


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
        self._attempt = _Attempt()
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
                    self._attempt = _Attempt()
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
                    self._attempt = _Attempt()
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
        if state.locked:
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

    def _claim(self, row: Row, attempt: _Attempt) -> Flow[bool]:
        store, now = self._manager.store, clock.now()
        # In the database it lasts a little longer than for the holder, who may just be saving.
        spare = max(100, self._hold_ms // 10) + chance.randrange(100)
        lease = Lease(_key(row), now + self._hold_ms + spare)
        if not (yield from claim(store, lease, now)):
            return False
        if attempt.succeed(lease, now + self._hold_ms):
            return True
        # Who asked for it was cancelled or ran out of time, and is not there to give it back.
        yield from release(store, lease)
        return False

    def _check_still_held(self) -> None:
        lease = self._attempt.lease
        if lease is not None and clock.now() >= self._attempt.until:
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
            self._entered = state_of(self._session).locked = False
        return self._attempt.end()

    # The session's content.

    def _note_content(self) -> None:
        state, session = state_of(self._session), self._session
        payload, rich = self._manager.codec.encode(session)
        intents = session.take_intents()
        session.put_back(intents)
        self._before = _Before(_version(state.row), intents, payload, rich)
        self._entered = state.locked = True

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


class _Attempt:
    """One try to take a lock. The flow goes on when the request has given up waiting for it, so one
    of the two has to see to the lease.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self.lease: Lease | None = None
        self.until = 0

    def succeed(self, lease: Lease, until: int) -> bool:
        """Note the lease; False if nobody waits for it any more."""
        with self._lock:
            if not self._ended:
                self.lease, self.until = lease, until
            return not self._ended

    def end(self) -> Lease | None:
        """The lease that has to be given back."""
        with self._lock:
            self._ended = True
            lease, self.lease = self.lease, None
            return lease


def _version(row: Row | None) -> int | None:
    return None if row is None else row.version


def _key(row: Row) -> bytes:
    """The id survives a rotation."""
    return sha256(b"sessionware lock %d" % row.id).digest()
