"""``max_sessions_per_user``: how many sessions one user may have at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Literal

from . import clock
from .chance import chance
from .errors import Contention, SessionLimitReached, StoreUnavailable
from .events import EventSink
from .flows import Flow, Pause
from .leases import Lease, claim, release
from .records import handle_of
from .rows import Lost, Verdict, started
from .states import SessionState
from .stores.cached import CachedStore
from .stores.protocol import Row

# Longer than a login takes; what a killed worker held is free again after it.
_HOLD_MS = 5_000
_PATIENCE_SECONDS = 1.5
_TRIES = 5


class UserLimit:
    """Keeps to the limit with each login, exactly also under parallel ones.

    ``end_oldest`` ends a user's earliest logins after the new one: whoever comes last sees all.
    ``refuse`` counts first, one login of a user at a time.
    """

    def __init__(
        self,
        store: CachedStore,
        events: EventSink,
        most: int,
        action: Literal["end_oldest", "refuse"],
    ) -> None:
        self._store = store
        self._events = events
        self._most = most
        self._refuses = action == "refuse"

    def around(
        self, user_id: str, state: SessionState, login: Callable[[], Flow[Verdict]]
    ) -> Flow[Verdict]:
        """Carry out a login within the limit. Raises ``SessionLimitReached``; then nothing has
        changed.
        """
        if self._refuses:
            return (yield from self._one_at_a_time(user_id, state, login))
        verdict = yield from login()
        if not isinstance(verdict, Lost):
            try:
                yield from self._end_oldest(user_id)
            except StoreUnavailable as error:
                # The login is done, and its cookie has to go out. The next one ends them.
                detail = f"a user's oldest sessions were not ended: {error}"
                self._events.emit("store_error", state.handle, detail)
        return verdict

    def _end_oldest(self, user_id: str) -> Flow[None]:
        rows = yield from self._store.user_rows_flow(user_id, clock.now())
        newest_first = sorted(rows, key=lambda row: (started(row), row.id), reverse=True)
        for row in newest_first[self._most :]:
            if (yield from self._end(row)):
                self._events.emit("ended", handle_of(row.data), "the user has logged in elsewhere")

    def _end(self, row: Row) -> Flow[bool]:
        """End this login of the user's: not another one that the session has had since."""
        current: Row | None = row
        for attempt in range(1, _TRIES + 1):
            if current is None or _login(current) != _login(row):
                return False
            try:
                if (yield from self._store.remove_flow(current, None, current.epoch)):
                    return True
            except Contention:
                if attempt == _TRIES:
                    raise
                yield Pause(chance.uniform(0.002, 0.01) * attempt)
            current = yield from self._store.reload_flow(row.id)
        return False

    def _one_at_a_time(
        self, user_id: str, state: SessionState, login: Callable[[], Flow[Verdict]]
    ) -> Flow[Verdict]:
        lease = yield from self._claim(user_id)
        # No `finally`: a flow that is closed can't ask for anything more; the lease ends by itself.
        try:
            yield from self._count(user_id, state)
            if clock.now() >= lease.until:
                raise Contention("counting the user's sessions took too long")
            verdict = yield from login()
        except Exception:
            yield from self._release(lease)
            raise
        yield from self._release(lease)
        return verdict

    def _count(self, user_id: str, state: SessionState) -> Flow[None]:
        rows = yield from self._store.user_rows_flow(user_id, clock.now())
        # By its name, for another task of this request may have stored it a moment ago.
        if sum(handle_of(row.data) != state.handle for row in rows) >= self._most:
            raise SessionLimitReached(
                f"this user has {self._most} sessions already (max_sessions_per_user)"
            )

    def _release(self, lease: Lease) -> Flow[None]:
        with suppress(StoreUnavailable):
            yield from release(self._store, lease)

    def _claim(self, user_id: str) -> Flow[Lease]:
        key = sha256(b"sessionware user " + user_id.encode("utf-8", "surrogatepass")).digest()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            now = clock.now()
            lease = Lease(key, now + _HOLD_MS + chance.randrange(100))
            if (yield from claim(self._store, lease, now)):
                return lease
            if time.monotonic() >= deadline:
                raise Contention("other logins of this user are under way")
            yield Pause(chance.uniform(0.002, 0.01))


def _login(row: Row) -> tuple[str | None, int]:
    return row.user_id, started(row)
