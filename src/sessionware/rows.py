"""What a request wants of its row, and the row that follows from it: pure, whoever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

from .codecs import Codec
from .errors import CorruptRecord, SessionTooLarge
from .lifetimes import DEFAULT_EXPIRY, Lifetimes
from .merging import Delta, merge
from .records import NO_OWNER, Expiry, Header, RecordFormat, read_header, read_nonce
from .stores.protocol import Row

# Gives (whether the data was changed, the result); changes the data in place.
Edit: TypeAlias = Callable[[dict[Any, Any]], tuple[bool, Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """A request's wish, in values that nobody can alter any more.

    ``payload`` holds the whole content as the request left it, ``delta`` which keys of it are the
    request's own. A ``barrier`` replaces what is there. ``edit`` works on the content as it is in
    the database instead.
    """

    nonce: bytes = field(repr=False)
    now: int
    payload: bytes = field(default=b"", repr=False)
    rich: bool = False
    empty: bool = False
    delta: Delta = field(default=Delta(), repr=False)
    barrier: bool = False
    edit: Edit | None = None
    new_hash: bytes | None = field(default=None, repr=False)
    user_changed: bool = False
    user_id: str | None = field(default=None, repr=False)
    login: bool = False
    expiry: Expiry | None = None
    client: tuple[str | None, str | None] | None = field(default=None, repr=False)
    may_renew: bool = True


@dataclass(frozen=True, slots=True)
class Next:
    """Write this row. ``payload`` is its content, ``renewed`` whether its lifetime starts again."""

    row: Row
    header: Header
    payload: bytes = field(repr=False)
    rich: bool
    renewed: bool
    result: Any = field(default=None, repr=False)


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
        header = Header(
            nonce=change.nonce,
            handle=handle,
            owner=owner_of(change.user_id),
            renewed=change.now,
            expiry=change.expiry or DEFAULT_EXPIRY,
        )
        ip, user_agent = change.client or (None, None)
        row = Row(
            id=0,
            sid_hash=sid_hash,
            version=1,
            epoch=0,
            user_id=change.user_id,
            data=b"",
            created_at=change.now,
            authenticated_at=change.now if change.login else None,
            last_seen=change.now,
            expires_at=0,
            purge_after=0,
            ip=ip,
            user_agent=user_agent,
        )
        return self._finished(row, header, change.payload, change.rich, renewed=True)

    def following(self, change: Change, loaded: Row, current: Row | None) -> Verdict:
        """The row after ``current``, for a request that had loaded ``loaded``.

        Only the version moved: the request's keys over theirs. The epoch moved: another identity or
        a replaced content, into which no key of the old one may go.
        """
        if current is None:
            return Lost("the session had ended")
        try:
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
        if current is loaded and change.edit is None:
            # It was read, and authenticated if it is sealed, when the request began.
            return self._written(change, current, read_header(current.data))
        record = self.records.read(current.data, sid_hash=current.sid_hash)
        if change.barrier or (current.version == loaded.version and change.edit is None):
            return self._written(change, current, record.header)
        theirs = self.codec.decode(record.payload, record.rich)
        result = None
        if change.edit is not None:
            content = theirs
            edited, result = change.edit(content)
            if not edited:
                return Done(current, result)
        else:
            content = merge(change.delta, self.codec.decode(change.payload, change.rich), theirs)
        if not content:
            return Emptied(result)
        payload, rich = self.encode(content)
        return self._row(change, current, record.header, payload, rich, result)

    def _written(self, change: Change, current: Row, header: Header) -> Verdict:
        if change.empty:
            return Emptied()
        return self._row(change, current, header, change.payload, change.rich, None)

    def _row(
        self,
        change: Change,
        current: Row,
        old: Header,
        payload: bytes,
        rich: bool,
        result: Any,
    ) -> Next:
        expiry = old.expiry if change.expiry is None else change.expiry
        effective = self.renewed(old, current)
        renewed = (
            change.new_hash is not None
            or expiry != old.expiry
            or self.lifetimes.renewal_due(expiry, renewed=effective, now=change.now)
            or (self.lifetimes.rolling and self._touch_due(expiry, effective, current, change.now))
        )
        # With rolling lifetimes last_seen says when the cookie was last renewed.
        seen = current.last_seen if self.lifetimes.rolling and not renewed else change.now
        renewed = renewed and change.may_renew
        row = current._replace(version=current.version + 1, last_seen=max(seen, current.last_seen))
        if change.new_hash is not None:
            row = row._replace(sid_hash=change.new_hash)
        if change.new_hash is not None or change.barrier:
            row = row._replace(epoch=current.epoch + 1)
        if change.user_changed:
            row = row._replace(user_id=change.user_id, authenticated_at=None)
        if change.login:
            row = row._replace(authenticated_at=change.now)
            if change.client is not None:
                row = row._replace(ip=change.client[0], user_agent=change.client[1])
        # What is kept over a logout remains the data of who logged out.
        kept = row.user_id is None and not change.barrier
        header = Header(
            nonce=change.nonce,
            handle=old.handle,
            owner=old.owner if kept else owner_of(row.user_id),
            renewed=change.now if renewed else effective,
            expiry=expiry,
        )
        return self._finished(row, header, payload, rich, renewed=renewed, result=result)

    def _finished(
        self,
        row: Row,
        header: Header,
        payload: bytes,
        rich: bool,
        *,
        renewed: bool,
        result: Any = None,
    ) -> Next:
        expires_at = self.lifetimes.expires_at(
            header.expiry,
            renewed=header.renewed,
            last_seen=row.last_seen,
            started=started(row),
        )
        data = self.records.write(header, payload, rich, sid_hash=row.sid_hash)
        row = row._replace(data=data, expires_at=expires_at)
        row = row._replace(purge_after=self._purge_after(row))
        return Next(row, header, payload, rich, renewed, result)

    def touched(self, row: Row, header: Header, now: int) -> Row:
        """The row with its times renewed and nothing else."""
        renewed = now if self.lifetimes.rolling else header.renewed
        expires_at = self.lifetimes.expires_at(
            header.expiry, renewed=renewed, last_seen=now, started=started(row)
        )
        row = row._replace(last_seen=now, expires_at=expires_at)
        return row._replace(purge_after=self._purge_after(row))

    def touch_due(self, row: Row, header: Header, now: int) -> bool:
        """Whether a request that changed nothing has to write the times."""
        return self._touch_due(header.expiry, self.renewed(header, row), row, now)

    def _touch_due(self, expiry: Expiry, renewed: int, row: Row, now: int) -> bool:
        return self.lifetimes.touch_due(expiry, renewed=renewed, last_seen=row.last_seen, now=now)

    def renewed(self, header: Header, row: Row) -> int:
        """When the lifetime last started again."""
        return max(header.renewed, row.last_seen) if self.lifetimes.rolling else header.renewed

    def _purge_after(self, row: Row) -> int:
        due = self.lifetimes.purge_after(
            created_at=row.created_at, last_seen=row.last_seen, expires_at=row.expires_at
        )
        # The old mark will do while it is not early and not much too late.
        slack = row.purge_after - row.expires_at
        return row.purge_after if 0 <= slack <= due - row.expires_at else due

    def encode(self, content: dict[Any, Any]) -> tuple[bytes, bool]:
        """Content as it is stored. Raises ``SessionTooLarge`` and ``SerializationError``."""
        payload, rich = self.codec.encode(content)
        if len(payload) > self.max_bytes:
            sizes = ((str(key), len(self.codec.fingerprint(content[key]))) for key in content)
            largest = sorted(sizes, key=lambda pair: pair[1], reverse=True)[:3]
            raise SessionTooLarge(len(payload), self.max_bytes, largest)
        return payload, rich


def started(row: Row) -> int:
    """What the absolute timeout counts from: the login, or the creation where nobody is logged
    in.
    """
    return row.created_at if row.authenticated_at is None else row.authenticated_at


def owner_of(user_id: str | None) -> bytes:
    """A short hash of the user a session's data belongs to, kept after the logout."""
    if user_id is None:
        return NO_OWNER
    return sha256(b"sessionware owner" + user_id.encode("utf-8", "surrogatepass")).digest()[:8]
