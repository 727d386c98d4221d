"""From what a request did with its session to a plan and the change that goes with it: no I/O."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .codecs import snapshot
from .errors import SerializationError, SessionTooLarge
from .lifetimes import DEFAULT_EXPIRY, as_expiry
from .merging import Delta, diff
from .plans import NOTHING, Delete, Ending, Plan, Rotate, Touch, plan
from .records import NO_OWNER, NONCE_BYTES
from .rows import Change, RowMaker, owner_of
from .session import INTENTS, Session
from .states import SessionState
from .tags import to_json
from .users import user_of


@dataclass(frozen=True, slots=True)
class Content:
    """A session's content as it would be stored, and how it differs from what is stored."""

    payload: bytes = field(repr=False)
    rich: bool
    empty: bool
    delta: Delta = field(repr=False)
    changed: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """A plan, the change where it writes content, and the payload the application holds now."""

    plan: Plan
    change: Change | None = None
    payload: bytes | None = field(default=None, repr=False)


class Endings:
    """Decides how a request's session ends."""

    def __init__(self, rows: RowMaker, user_key: tuple[str, ...], record_client: bool) -> None:
        self._rows = rows
        self.user_key = user_key
        self._record_client = record_client
        self._custom = rows.codec.custom

    def decide(
        self, state: SessionState, session: Session, now: int, *, failed: bool = False
    ) -> Decided:
        """What to do with the session now.

        Raises ``SerializationError`` and ``SessionTooLarge``; then nothing has happened.
        """
        if not session.accessed or failed:
            return self._untouched(state, session, now, failed)
        content = self.content(state, session)
        before = None if state.row is None else state.row.user_id
        after = before
        if (content.changed or session.cleared) and self.user_key:
            after = user_of(session, self.user_key)
        switched = self._switched(state, session, before, after)
        if switched:
            drop_unwritten(session)
            content = self.content(state, session)
        decided = plan(
            Ending(
                exists=state.row is not None,
                savable=state.savable,
                empty=content.empty,
                changed=content.changed,
                cleared=session.cleared or switched,
                ended=session.ended,
                rotation=session.rotation,
                reauthenticated=session.reauthenticated,
                expiry_changed=self._expiry_changed(state, session),
                user_before=before,
                user_after=after,
                touch_due=self._touch_due(state, now),
            )
        )
        if decided is NOTHING or isinstance(decided, Touch):
            return Decided(decided, None, content.payload)
        change = self._change(decided, state, session, content, before, after, now)
        return Decided(decided, change, content.payload)

    def is_as_loaded(self, state: SessionState, session: Session) -> bool:
        """Whether nothing was asked for and nothing changed, at a glance: most requests only
        read.
        """
        if not INTENTS.isdisjoint(session.__dict__):
            return False
        if state.row is None:
            return not dict.__len__(session)
        loaded = state.loaded
        if loaded is None or not session.accessed:
            return loaded is not None
        if not (session.exposed or state.rich or self._custom):
            # As JSON it is the same, but for types that are written alike, as a list and a tuple
            # are. Nobody who could have changed one for the other got hold of it.
            try:
                if to_json(session) == state.payload:
                    return True
            except Exception:
                return False
        return loaded == snapshot(session)

    def still_holds(self, state: SessionState, session: Session) -> bool:
        """Whether the session holds what it held when the response began."""
        if state.sent == state.loaded:
            if state.row is None:
                return not dict.__len__(session)
            if not (state.rich or self._custom):
                # What is equal as JSON is equal, but for a type that nobody changes that late.
                try:
                    if to_json(session) == state.payload:
                        return True
                except Exception:
                    return False
        return self.snapshot(session) == state.sent

    def snapshot(self, session: Session) -> object:
        """What the session holds now, to be compared with what it holds later; None if it can't be
        stored.
        """
        found = snapshot(session)
        if found is not None:
            return found
        try:
            return self._rows.encode(session)
        except (SerializationError, SessionTooLarge):
            return None

    def _untouched(self, state: SessionState, session: Session, now: int, failed: bool) -> Decided:
        ending = Ending(
            exists=state.row is not None,
            savable=state.savable,
            failed=failed,
            ended=session.ended,
            touch_due=self._touch_due(state, now),
        )
        decided = plan(ending)
        change = None
        if isinstance(decided, Delete):
            change = Change(nonce=os.urandom(NONCE_BYTES), now=now, empty=True)
        return Decided(decided, change)

    def content(self, state: SessionState, session: Session) -> Content:
        """Encode the session and compare with what is stored: nested changes are found by their
        bytes.
        """
        payload, rich = self._rows.encode(session)
        empty = not dict.__len__(session)
        if state.row is None:
            return Content(payload, rich, empty, Delta(frozenset(dict.keys(session))), not empty)
        if payload == state.payload and rich == state.rich and not session.ended:
            delta = Delta(frozenset(session.written & dict.keys(session)))
            return Content(payload, rich, empty, delta, changed=False)
        base = self._rows.codec.decode(state.payload, state.rich)
        mine = dict(dict.items(session))
        # A custom serializer may write the same value in other bytes each time.
        custom = self._rows.codec.custom
        fingerprint = (lambda value: value) if custom else self._rows.codec.fingerprint
        real = diff(base, mine, fingerprint)
        delta = Delta(real.written | (session.written & mine.keys()), real.deleted)
        return Content(payload, rich, empty, delta, changed=bool(real))

    def _switched(
        self, state: SessionState, session: Session, before: str | None, after: str | None
    ) -> bool:
        """Whether the content belongs to another user than the one who is logged in now.

        The owner is remembered over a logout, so that nothing passes from one user to the next in
        two steps either.
        """
        if after is None or session.cleared or state.row is None:
            return False
        if before is not None:
            return before != after
        owner = NO_OWNER if state.header is None else state.header.owner
        return owner not in (NO_OWNER, owner_of(after))

    def _expiry_changed(self, state: SessionState, session: Session) -> bool:
        if not session.expiry_set:
            return False
        stored = DEFAULT_EXPIRY if state.header is None else state.header.expiry
        return as_expiry(session.expiry) != stored

    def _touch_due(self, state: SessionState, now: int) -> bool:
        if state.row is None or state.header is None:
            return False
        return self._rows.touch_due(state.row, state.header, now)

    def _change(
        self,
        decided: Plan,
        state: SessionState,
        session: Session,
        content: Content,
        before: str | None,
        after: str | None,
        now: int,
    ) -> Change:
        fresh = state.row is None or session.ended
        # Without a user_key only the application can say that somebody has logged in.
        proven = session.reauthenticated and not self.user_key
        login = proven or (isinstance(decided, Rotate) and decided.login)
        if fresh:
            after = user_of(session, self.user_key)
            login = proven or after is not None
        barrier = getattr(decided, "barrier", False)
        return Change(
            nonce=os.urandom(NONCE_BYTES),
            now=now,
            payload=content.payload,
            rich=content.rich,
            empty=content.empty,
            delta=content.delta,
            barrier=barrier,
            user_changed=fresh or before != after,
            user_id=after,
            login=login,
            expiry=as_expiry(session.expiry) if session.expiry_set else None,
            client=state.client if login and self._record_client else None,
            may_renew=not state.started,
        )


def drop_unwritten(session: Session) -> None:
    """Leave only what this request wrote: the rest is another user's."""
    for key in [key for key in dict.keys(session) if key not in session.written]:
        dict.__delitem__(session, key)
