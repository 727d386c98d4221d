"""From what a request did with its session to a plan and the change that goes with it: no I/O."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from .chance import eight_bytes
from .codecs import SIXTY_BITS, UNTOLD, encodes_to, snapshot
from .comparing import the_same
from .errors import SerializationError, SessionTooLarge
from .lifetimes import DEFAULT_EXPIRY, as_expiry
from .merging import Delta, diff, merge
from .plans import INSERT, MERGED, NOTHING, Delete, Ending, Plan, Rotate, Touch, plan
from .records import NO_OWNER
from .rows import Change, RowMaker, owner_of
from .session import Session
from .states import SessionState
from .tracking import NOT_ASKED, ONLY_CLEARED
from .users import user_of

_split: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# One of each of these two is made for every write. Frozen they would take four times as long to
# make; nobody alters one.


@dataclass(slots=True)
class Content:
    """A session's content as it would be stored, and whether it differs from what is stored."""

    payload: bytes = field(repr=False)
    rich: bool
    empty: bool
    changed: bool


@dataclass(slots=True)
class Decided:
    """A plan, the change where it writes content, and what the application holds now: its bytes,
    and whether they are rich.
    """

    plan: Plan
    change: Change | None = None
    payload: bytes | None = field(default=None, repr=False)
    rich: bool = False


class Endings:
    """Decides how a request's session ends."""

    def __init__(self, rows: RowMaker, user_key: tuple[str, ...], record_client: bool) -> None:
        self._rows = rows
        self.user_key = user_key
        self._record_client = record_client
        # Whether a request that changes nothing ever has to write.
        self._touches = rows.lifetimes.rolling or rows.lifetimes.idle is not None
        self.custom = rows.codec.custom

    def decide(
        self, state: SessionState, session: Session, now: int, *, failed: bool = False
    ) -> Decided:
        """What to do with the session now.

        Raises ``SerializationError`` and ``SessionTooLarge``; then nothing has happened.
        """
        if failed or not session.accessed:
            return self._untouched(state, session, now, failed)
        return self.straight(state, session, now) or self.general(state, session, now)

    def straight(self, state: SessionState, session: Session, now: int) -> Decided | None:
        """What ``general`` decides for the commonest requests, which only assign values, by the
        shortest way; None for all others.
        """
        row, asked = state.row, session.asked
        if (
            not (session.written and state.savable and dict.__len__(session))
            or session.written != session.before.keys()
            or (asked is not NOT_ASKED and (row is not None or asked != ONLY_CLEARED))
        ):
            return None
        rich, user_key = False, self.user_key
        if row is None:
            payload, rich = self._rows.encode(session)
        else:
            if state.rich or session.exposed:
                # Somebody may hold what was loaded, or what was committed since.
                return None
            encoded = self._rows.codec.reencode(session, session.before, state.payload)
            if encoded is None or encoded == state.payload or len(encoded) > self._rows.max_bytes:
                return None
            payload = encoded
        user = None
        # The view, because a session's own methods take note of who asks.
        if user_key and not dict.keys(session).isdisjoint(user_key):
            user = user_of(session, user_key)
        if row is not None and row.user_id != user:
            return None
        login = row is None and user is not None
        change = Change(
            eight_bytes(),
            now,
            payload,
            rich,
            False,
            state.payload,
            state.rich,
            session.written,
            False,
            row is None,
            user,
            login,
            None,
            state.client if login and self._record_client else None,
            not state.started,
        )
        return Decided(INSERT if row is None else MERGED, change, payload, rich)

    def general(self, state: SessionState, session: Session, now: int) -> Decided:
        """What to do with a session that was used and whose request has not failed."""
        content = self.content(state, session)
        asked, exists = session.asked, state.row is not None
        cleared = asked.cleared
        before = after = None if state.row is None else state.row.user_id
        if (content.changed or cleared) and self.user_key:
            after = user_of(session, self.user_key)
            # Whether the content belongs to another user than the one who is logged in now.
            if (
                after is not None
                and exists
                and not cleared
                and self._switched(state, before, after)
            ):
                named = (key for key in self.user_key if dict.get(session, key) is not None)
                drop_unwritten(session, next(named))
                content, cleared = self.content(state, session), True
        decided = plan(
            Ending(
                exists,
                state.savable,
                False,
                content.empty,
                content.changed,
                cleared,
                asked.ended,
                asked.rotation,
                asked.reauthenticated,
                asked.expiry_set and self._expiry_changed(state, session),
                before,
                after,
                self._touches and self._touch_due(state, now),
                session.modified and not content.changed and self._renewal_due(state, now),
            )
        )
        if decided is NOTHING or isinstance(decided, Touch):
            return Decided(decided, None, content.payload, content.rich)
        change = self._change(decided, state, session, content, before, after, now)
        return Decided(decided, change, content.payload, content.rich)

    def is_as_loaded(self, state: SessionState, session: Session) -> bool:
        """Whether nothing was asked for and nothing changed, at a glance: most requests only
        read.
        """
        if session.asking or session.modified:
            return False
        if state.row is None:
            return not dict.__len__(session)
        loaded = state.loaded
        if loaded is None or not session.accessed:
            return loaded is not None
        if not (state.rich or self.custom) and (loaded == UNTOLD or not session.exposed):
            # As JSON it is the same, but for types that are written alike, as a list and a tuple
            # are. Where it is not exposed, nobody who could have changed one for the other got
            # hold of it.
            try:
                same = encodes_to(session, state.payload)
            except Exception:
                return False
            if same and not session.exposed:
                return True
            if not same and loaded == UNTOLD:
                return False
        found = self._loaded(state)
        return found is not None and found == self.number(session)

    def number(self, content: dict[Any, Any]) -> int | None:
        """The snapshot of content, for what ``snapshot`` knows nothing of by what is stored of it;
        None for what a serializer of the application's stores, and for what can't be stored.
        """
        found = snapshot(content)
        if found is None and not self.custom:
            with suppress(SerializationError):
                found = hash(self._rows.codec.encode(content)) & SIXTY_BITS
        return found

    def _loaded(self, state: SessionState) -> int | None:
        """The snapshot of what was loaded, which is made where it is needed for the first time."""
        if state.loaded == UNTOLD:
            found = self.number(self._rows.codec.decode(state.payload, state.rich))
            state.loaded = found
            if state.row is not None:
                state.manager.remember(state.row, found)
        return state.loaded

    def still_holds(self, state: SessionState, session: Session) -> bool:
        """Whether the session holds what it held when the response began."""
        if isinstance(state.sent, tuple):
            return self._encodes_to(session, *state.sent)
        if state.sent == state.loaded:
            if state.row is None:
                return not dict.__len__(session)
            if not (state.rich or self.custom):
                # What is equal as JSON is equal, but for a type that nobody changes that late.
                try:
                    if encodes_to(session, state.payload):
                        return True
                except Exception:
                    return False
        if state.sent == UNTOLD:
            state.sent = self._loaded(state)
        return state.sent is None or self.snapshot(session) == state.sent

    def _encodes_to(self, session: Session, payload: bytes, rich: bool) -> bool:
        """Whether the session would be stored as these bytes; as JSON alone, where nothing was
        assigned since.
        """
        try:
            if not (rich or session.asking or self.custom):
                return encodes_to(session, payload)
            if self._rows.encode(session) == (payload, rich):
                return True
            # A serializer may write the same in other bytes each time.
            return self.custom and the_same(
                dict(dict.items(session)), self._rows.codec.decode(payload, rich)
            )
        except Exception:
            return False

    def sent(self, session: Session, decided: Decided) -> object:
        """What a session that was looked at holds now, for ``still_holds``: the bytes it was just
        encoded to, but a custom serializer's, which may differ each time.
        """
        if decided.payload is None or self._rows.codec.custom:
            return self.snapshot(session)
        return decided.payload, decided.rich

    def snapshot(self, session: Session) -> object:
        """What the session holds now, to be compared with what it holds later; None if it can't be
        stored.
        """
        found = self.number(session)
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
            ended=session.asked.ended,
            touch_due=self._touch_due(state, now),
        )
        decided = plan(ending)
        change = None
        if isinstance(decided, Delete):
            change = Change(nonce=eight_bytes(), now=now, empty=True)
        return Decided(decided, change)

    def content(self, state: SessionState, session: Session) -> Content:
        """Encode the session and compare with what is stored: nested changes are found by their
        bytes.
        """
        payload, rich = self._rows.encode(session)
        empty = not dict.__len__(session)
        if state.row is None:
            changed = not empty
        elif payload == state.payload and rich == state.rich:
            changed = False
        elif self._rows.codec.custom or (rich and state.rich):
            changed = bool(self._differs(state, dict(dict.items(session))))
        elif len(payload) != len(state.payload) or rich != state.rich:
            changed = True
        else:
            # The same keys in another order are no change.
            changed = _by_key(payload) != _by_key(state.payload)
        return Content(payload, rich, empty, changed)

    def delta(self, state: SessionState, session: Session) -> Delta:
        """Which keys of a stored session are this request's own. Raises as ``content`` does."""
        self._rows.encode(session)
        return self._differs(state, dict(dict.items(session)), session.written)

    def _differs(
        self, state: SessionState, mine: dict[Any, Any], assigned: Collection[Any] = ()
    ) -> Delta:
        base = self._rows.codec.decode(state.payload, state.rich)
        return diff(base, mine, self._rows.fingerprint, assigned)

    def show_merged(self, state: SessionState, session: Session, decided: Decided) -> bool:
        """Show the application what a merge has brought in, and keep what it has changed since it
        was decided; whether there was anything to show.
        """
        if decided.payload is None or state.payload == decided.payload:
            return False
        codec = self._rows.codec
        mine = dict(dict.items(session))
        own = diff(codec.decode(decided.payload, decided.rich), mine, codec.fingerprint)
        session.refill(merge(own, mine, codec.decode(state.payload, state.rich)))
        return True

    def stored(self, state: SessionState) -> object:
        """As ``snapshot``, of what is in the store."""
        return self.snapshot(Session(self._rows.codec.decode(state.payload, state.rich)))

    def _switched(self, state: SessionState, before: str | None, after: str) -> bool:
        """Whether data of somebody else's is in the session.

        The owner is remembered over a logout, so that nothing passes from one user to the next in
        two steps either.
        """
        if before is not None:
            return before != after
        owner = NO_OWNER if state.header is None else state.header.owner
        return owner not in (NO_OWNER, owner_of(after))

    def _expiry_changed(self, state: SessionState, session: Session) -> bool:
        stored = DEFAULT_EXPIRY if state.header is None else state.header.expiry
        return as_expiry(session.asked.expiry) != stored

    def _renewal_due(self, state: SessionState, now: int) -> bool:
        """Whether a write that changes nothing is due to renew the lifetime, as any other does."""
        row, header = state.row, state.header
        if row is None or header is None or state.started:
            return False
        renewed = self._rows.renewed(header, row)
        return self._rows.lifetimes.renewal_due(header.expiry, renewed=renewed, now=now)

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
        asked = session.asked
        fresh = state.row is None or asked.ended
        # Without a user_key only the application can say that somebody has logged in.
        proven = asked.reauthenticated and not self.user_key
        login = proven or (isinstance(decided, Rotate) and decided.login)
        if fresh:
            # Of an ended session too the content has been looked at.
            after = after if self.user_key else None
            login = proven or after is not None
        return Change(
            eight_bytes(),
            now,
            content.payload,
            content.rich,
            content.empty,
            state.payload,
            state.rich,
            session.written,
            getattr(decided, "barrier", False),
            fresh or before != after,
            after,
            login,
            as_expiry(asked.expiry) if asked.expiry_set else None,
            state.client if login and self._record_client else None,
            not state.started,
        )


def _by_key(payload: bytes) -> dict[str, Any]:
    """A plain payload with the values as bytes: what compares them without decoding them."""
    parts: dict[str, Any] = _split(payload)
    return parts


def drop_unwritten(session: Session, user_key: str | None = None) -> None:
    """Leave only what this request wrote, and the key that names the user, who may be another one
    by a change inside its value: the rest is another user's.
    """
    kept = session.written | {user_key}
    for key in [key for key in dict.keys(session) if key not in kept]:
        dict.__delitem__(session, key)
