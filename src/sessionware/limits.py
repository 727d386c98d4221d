"""``max_sessions_per_user``: how many sessions one user may have at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Literal

from . import clock
from .errors import Contention, SessionLimitReached, StoreUnavailable
from .events import EventSink
from .flows import Flow, Pause
from .records import handle_of
from .rows import Lost, Verdict, started
from .states import SessionState
from .stores.cached import CachedStore

# Longer than a login takes; what a killed worker held is free again after it.
_HOLD_MS = 5_000
_PATIENCE_SECONDS = 1.5


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
            yield from self._end_oldest(user_id)
        return verdict

    def _end_oldest(self, user_id: str) -> Flow[None]:
        rows = yield from self._store.user_rows_flow(user_id, clock.now())
        newest_first = sorted(rows, key=lambda row: (started(row), row.id), reverse=True)
        for row in newest_first[self._most :]:
            if (yield from self._store.remove_flow(row)):
                self._events.emit("ended", handle_of(row.data), "the user has logged in elsewhere")

    def _one_at_a_time(
        self, user_id: str, state: SessionState, login: Callable[[], Flow[Verdict]]
    ) -> Flow[Verdict]:
        key = sha256(b"sessionware user " + user_id.encode("utf-8", "surrogatepass")).digest()
        until = yield from self._claim(key)
        # No `finally`: a flow that is closed can't ask for anything more; the lease ends by itself.
        try:
            yield from self._count(user_id, state)
            verdict = yield from login()
        except Exception:
            yield from self._release(key, until)
            raise
        yield from self._release(key, until)
        return verdict

    def _count(self, user_id: str, state: SessionState) -> Flow[None]:
        rows = yield from self._store.user_rows_flow(user_id, clock.now())
        own = None if state.row is None else state.row.id
        if sum(row.id != own for row in rows) >= self._most:
            raise SessionLimitReached(
                f"this user has {self._most} sessions already (max_sessions_per_user)"
            )

    def _release(self, key: bytes, until: int) -> Flow[None]:
        with suppress(StoreUnavailable):
            yield from self._store.release_flow(key, until)

    def _claim(self, key: bytes) -> Flow[int]:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            now = clock.now()
            if (yield from self._store.claim_flow(key, now, now + _HOLD_MS)):
                return now + _HOLD_MS
            if time.monotonic() >= deadline:
                raise Contention("other logins of this user are under way")
            yield Pause(random.uniform(0.002, 0.01))
