"""What a request wants of its row, and the row that follows from it: pure, whoever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, TypeAlias

from .codecs import Codec, too_large
from .comparing import Exactly
from .errors import CorruptRecord, SerializationError
from .lifetimes import DEFAULT_EXPIRY, Lifetimes
from .merging import Delta, diff, merge
from .records import NO_OWNER, Expiry, Header, RecordFormat, read_header, read_nonce
from .stores.protocol import Row
from .tuples import make

NOBODY: Final = (None, None)
"""The client of a session that records none: address and user agent."""

# Gives (whether the data was changed, the result); changes the data in place.
Edit: TypeAlias = Callable[[dict[Any, Any]], tuple[bool, Any]]


# One of each of these two is made for every write. Frozen they would take four times as long to
# make; nobody alters one.


@dataclass(slots=True)
class Change:
    """A request's wish, in values that nobody alters any more.

    ``payload`` holds the whole content as the request left it, ``base`` as it was loaded, and
    ``assigned`` the keys that the application has stored something under: what of the content is
    the request's own follows from them, should another request have written meanwhile. A
    ``barrier`` replaces what is there. ``edit`` works on the content as it is in the database
    instead.
    """

    nonce: bytes = field(repr=False)
    now: int
    payload: bytes = field(default=b"", repr=False)
    rich: bool = False
    empty: bool = False
    base: bytes = field(default=b"", repr=False)
    base_rich: bool = False
    assigned: frozenset[Any] = field(default=frozenset(), repr=False)
    barrier: bool = False
    user_changed: bool = False
    user_id: str | None = field(default=None, repr=False)
    login: bool = False
    expiry: Expiry | None = None
    client: tuple[str | None, str | None] | None = field(default=None, repr=False)
    may_renew: bool = True
    edit: Edit | None = None
    new_hash: bytes | None = field(default=None, repr=False)


@dataclass(slots=True)
class Next:
    """Write this row. ``payload`` is its content, ``renewed`` whether its lifetime starts again."""

    row: Row
    payload: bytes = field(repr=False)
    rich: bool
    renewed: bool
    result: Any = field(default=None, repr=False)

    @property
    def header(self) -> Header:
        """That of the row's record."""
        return read_header(self.row.data)


@dataclass(frozen=True, slots=True)
class Emptied:
    """Nothing is left in it: delete the row."""

    result: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Lost:
    """The row is not the one that the request loaded any more: drop the change."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """The change is in the row already, or there was none to make."""

    row: Row
    result: Any = field(default=None, repr=False)


Verdict: TypeAlias = Next | Emptied | Lost | Done


class RowMaker:
    """Makes the row that follows from a change."""

    def __init__(
        self, codec: Codec, records: RecordFormat, lifetimes: Lifetimes, max_bytes: int
    ) -> None:
        self.codec = codec
        self.records = records
        self.lifetimes = lifetimes
        self.max_bytes = max_bytes

    def first(self, change: Change, sid_hash: bytes, handle: bytes) -> Next:
        """The row of a new session; its id is the store's to give."""
        now = change.now
        expiry = change.expiry or DEFAULT_EXPIRY
        expires_at = self.lifetimes.expires_at(expiry, renewed=now, last_seen=now, started=now)
        owner = owner_of(change.user_id)
        data = self.records.pack(
            change.nonce, handle, owner, now, expiry, change.payload, change.rich, sid_hash
        )
        ip, user_agent = change.client or NOBODY
        row = Row(
            0,
            sid_hash,
            1,  # version
            0,  # epoch
            change.user_id,
            data,
            now,  # created_at
            now if change.login else None,  # authenticated_at
            now,  # last_seen
            expires_at,
            self.lifetimes.purge_after(created_at=now, last_seen=now, expires_at=expires_at),
            ip,
            user_agent,
        )
        return Next(row, change.payload, change.rich, True)

    def following(self, change: Change, loaded: Row, current: Row | None) -> Verdict:
        """The row after ``current``, for a request that had loaded ``loaded``.

        Only the version moved: the request's keys over theirs. The epoch moved: another identity or
        a replaced content, into which no key of the old one may go.
        """
        if current is None:
            return Lost("the session had ended")
        try:
            if current is loaded and change.edit is None:
                # As it was read, and authenticated if it is sealed, when the request began. The
                # nonce was made later.
                if current.expires_at <= change.now:
                    return Lost("the session had expired")
                if change.empty:
                    return Emptied()
                old = read_header(current.data)
                return self._row(change, current, old, change.payload, change.rich)
            if read_nonce(current.data) == change.nonce:
                return Done(current)
            if current.created_at != loaded.created_at:
                return Lost("the session had ended, and its id was used again")
            if current.expires_at <= change.now:
                return Lost("the session had expired")
            if current.epoch != loaded.epoch:
                return Lost("the session had been rotated or replaced")
            return self._merged(change, loaded, current)
        except CorruptRecord:
            return Lost("the stored record can't be read")

    def _merged(self, change: Change, loaded: Row, current: Row) -> Verdict:
        record = self.records.read(current.data, sid_hash=current.sid_hash)
        if change.barrier or (current.version == loaded.version and change.edit is None):
            if change.empty:
                return Emptied()
            return self._row(change, current, record.header, change.payload, change.rich)
        theirs = self.codec.decode(record.payload, record.rich)
        result = None
        if change.edit is not None:
            content = theirs
            edited, result = change.edit(content)
            if not edited:
                return Done(current, result)
        else:
            mine = self.codec.decode(change.payload, change.rich)
            content = merge(self.delta(change, mine), mine, theirs)
        if not content:
            return Emptied(result)
        payload, rich = self.encode(content)
        return self._row(change, current, record.header, payload, rich, result)

    def delta(self, change: Change, mine: dict[Any, Any]) -> Delta:
        """Which keys of ``mine``, the change's content, are the request's own."""
        base = self.codec.decode(change.base, change.base_rich)
        return diff(base, mine, self.fingerprint, change.assigned)

    def _row(
        self,
        change: Change,
        current: Row,
        old: Header,
        payload: bytes,
        rich: bool,
        result: Any = None,
    ) -> Next:
        (
            row_id,
            sid_hash,
            version,
            epoch,
            user_id,
            _,
            created_at,
            authenticated_at,
            seen,
            _,
            purge_after,
            ip,
            user_agent,
        ) = current
        _, handle, owner, effective, expiry = old
        lifetimes, now = self.lifetimes, change.now
        renewed = change.new_hash is not None
        if change.expiry is not None and change.expiry != expiry:
            expiry, renewed = change.expiry, True
        if lifetimes.rolling:
            effective = max(effective, seen)
            renewed = renewed or self._touch_due(expiry, effective, current, now)
        renewed = renewed or lifetimes.renewal_due(expiry, renewed=effective, now=now)
        # With rolling lifetimes last_seen says when the cookie was last renewed.
        if now > seen and (renewed or not lifetimes.rolling):
            seen = now
        renewed = renewed and change.may_renew
        if renewed:
            # Another request may have renewed it since this one began.
            effective = max(effective, now)
        if change.new_hash is not None:
            sid_hash = change.new_hash
        if change.new_hash is not None or change.barrier:
            epoch += 1
        if change.user_changed:
            user_id, authenticated_at = change.user_id, None
        if change.login:
            authenticated_at = now
            if change.client is not None:
                ip, user_agent = change.client
        # What is kept over a logout remains the data of who logged out.
        if user_id is not None or change.barrier:
            owner = owner_of(user_id)
        began = created_at if authenticated_at is None else authenticated_at
        expires_at = lifetimes.expires_at(expiry, renewed=effective, last_seen=seen, started=began)
        data = self.records.pack(
            change.nonce, handle, owner, effective, expiry, payload, rich, sid_hash
        )
        purge_after = lifetimes.purge_after(
            created_at=created_at, last_seen=seen, expires_at=expires_at, mark=purge_after
        )
        following = (
            row_id,
            sid_hash,
            version + 1,
            epoch,
            user_id,
            data,
            created_at,
            authenticated_at,
            seen,
            expires_at,
            purge_after,
            ip,
            user_agent,
        )
        return Next(make(Row, following), payload, rich, renewed, result)

    def touched(self, row: Row, header: Header, now: int) -> Row:
        """The row with its times renewed and nothing else."""
        renewed = now if self.lifetimes.rolling else header.renewed
        expires_at = self.lifetimes.expires_at(
            header.expiry, renewed=renewed, last_seen=now, started=started(row)
        )
        purge_after = self.lifetimes.purge_after(
            created_at=row.created_at, last_seen=now, expires_at=expires_at, mark=row.purge_after
        )
        return row._replace(last_seen=now, expires_at=expires_at, purge_after=purge_after)

    def touch_due(self, row: Row, header: Header, now: int) -> bool:
        """Whether a request that changed nothing has to write the times."""
        return self._touch_due(header.expiry, self.renewed(header, row), row, now)

    def _touch_due(self, expiry: Expiry, renewed: int, row: Row, now: int) -> bool:
        return self.lifetimes.touch_due(expiry, renewed=renewed, last_seen=row.last_seen, now=now)

    def renewed(self, header: Header, row: Row) -> int:
        """When the lifetime last started again."""
        return max(header.renewed, row.last_seen) if self.lifetimes.rolling else header.renewed

    def fingerprint(self, value: Any) -> Any:
        """What is equal for two values that are stored alike. A custom serializer may write the
        same value in other bytes each time.
        """
        return Exactly(value) if self.codec.custom else self.codec.fingerprint(value)

    def encode(self, content: dict[Any, Any]) -> tuple[bytes, bool]:
        """Content as it is stored. Raises ``SessionTooLarge`` and ``SerializationError``."""
        try:
            payload, rich = self.codec.encode(content)
        except SerializationError as error:
            refused = error
        else:
            if len(payload) <= self.max_bytes:
                return payload, rich
            size = len(payload)
            # Tools that show the variables of a traceback must not find session data in ours.
            del payload
            raise too_large(self.codec, content, size, self.max_bytes)
        raise refused.with_traceback(None)


def started(row: Row) -> int:
    """What the absolute timeout counts from: the login, or the creation where nobody is logged
    in.
    """
    return row.created_at if row.authenticated_at is None else row.authenticated_at


@lru_cache(maxsize=1024)
def owner_of(user_id: str | None) -> bytes:
    """A short hash of the user a session's data belongs to, kept after the logout."""
    if user_id is None:
        return NO_OWNER
    return sha256(b"sessionware owner" + user_id.encode("utf-8", "surrogatepass")).digest()[:8]
