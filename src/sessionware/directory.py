"""The sessions of a user, and ending them: for device lists, password changes and operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from . import clock
from .errors import OutcomeUnknown
from .events import EventSink
from .flows import Flow, Parts, T, part_twins, patiently, twins
from .records import handle_of
from .session import Session, as_datetime
from .states import state_of
from .stores.cached import CachedStore
from .stores.protocol import Row
from .users import user_name


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session of a user, as a device list shows it. Times are aware, UTC.

    ``ip`` and ``user_agent`` are those of the last login, kept only with ``record_client``.
    """

    handle: str
    created_at: datetime
    last_seen: datetime
    expires_at: datetime
    ip: str | None = field(repr=False)
    user_agent: str | None = field(repr=False)
    current: bool


class Directory:
    """The part of a manager that looks over all sessions (OWASP ASVS 5.0 7.4.2 to 7.5.2)."""

    store: CachedStore
    events: EventSink

    def run(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    async def arun(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    def _rows_of(self, user_id: Any) -> Flow[list[Row]]:
        """None is nobody, and has no sessions."""
        if user_id is None:
            return []
        return (yield from self.store.user_rows_flow(user_name(user_id), clock.now()))

    def list_sessions_flow(
        self, user_id: Any, current: Session | None = None
    ) -> Flow[list[SessionInfo]]:
        """The live sessions of a user, latest seen first; ``current`` marks the one given."""
        return self._listed(user_id, _loaded_row(current))

    def _listed(self, user_id: Any, own: Row | None) -> Flow[list[SessionInfo]]:
        rows = yield from self._rows_of(user_id)
        listed = []
        for row in rows:
            handle = handle_of(row.data)
            if handle is not None:
                is_current = own is not None and own.id == row.id
                listed.append(_info(row, handle, is_current))
        return listed

    def revoke_flow(self, handle: str, *, user_id: Any) -> Flow[bool]:
        """End the session with this handle if it is this user's; whether there was one.

        The user must be named, so that a handle from a form can't end somebody else's session.
        """
        rows = yield from self._rows_of(user_id)
        ended = False
        # Several, where a first save that was given up was carried out after all.
        for row in rows:
            if handle_of(row.data) == handle:
                end = partial(self._end, row)
                ended = (yield from self._once_more(end, (row.sid_hash,))) or ended
        if ended:
            self.events.emit("ended", handle, "revoked")
        return ended

    def _end(self, row: Row) -> Flow[bool]:
        """End this session as long as it is its user's: another may have logged in in it since."""
        current: Row | None = row
        while current is not None and current.user_id == row.user_id:
            if (yield from self.store.remove_flow(current, None, current.epoch)):
                return True
            current = yield from self.store.reload_flow(row.id)
        return False

    def revoke_user_flow(self, user_id: Any, keep: Session | None = None) -> Flow[int]:
        """End every session of a user, but ``keep`` where given; how many were ended."""
        return self._revoke_all_of(user_id, _loaded_row(keep))

    def _revoke_all_of(self, user_id: Any, kept: Row | None) -> Flow[int]:
        kept_id = None if kept is None else kept.id
        if user_id is None:
            return 0
        name = user_name(user_id)
        remove = partial(self.store.remove_user_flow, name, kept_id)
        hashes = yield from self._once_more(remove, None)
        for _ in hashes:
            self.events.emit("ended", None, "revoked with all of the user's")
        return len(hashes)

    def _once_more(self, flow: Callable[[], Flow[T]], hashes: tuple[bytes, ...] | None) -> Flow[T]:
        """Ending what has ended already does no harm, so a lost answer is asked for again;
        ``hashes`` are those of what may have been ended (None: any row's).
        """
        try:
            return (yield from patiently(flow))
        except OutcomeUnknown:
            pass
        answer = yield from patiently(flow)
        yield from self.store.telling_late(hashes)
        return answer

    def revoke_all_parts(self) -> Parts[int]:
        """End every session of everybody; how many there were. One that begins meanwhile may stay.

        In batches: after an error some have ended, and calling it again goes on.
        """
        removed = yield from self.store.remove_all_parts()
        self.events.emit("ended", None, f"all {removed} sessions were revoked")
        return removed

    list_sessions, alist_sessions = twins(list_sessions_flow)
    revoke, arevoke = twins(revoke_flow)
    revoke_user, arevoke_user = twins(revoke_user_flow)
    revoke_all, arevoke_all = part_twins(revoke_all_parts)


def _loaded_row(session: Session | None) -> Row | None:
    """The row of a session, loaded in the caller's thread where it is still to be loaded: the flow
    runs in a worker thread, which must not wait for another one.
    """
    if session is None:
        return None
    session.mark_accessed()
    return state_of(session).row


def _info(row: Row, handle: str, current: bool) -> SessionInfo:
    created, seen, expires = map(as_datetime, (row.created_at, row.last_seen, row.expires_at))
    assert created is not None
    assert seen is not None
    assert expires is not None
    return SessionInfo(handle, created, seen, expires, row.ip, row.user_agent, current)
