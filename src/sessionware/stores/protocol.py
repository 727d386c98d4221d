"""What a store must do, to the edge. ``sessionware.testing`` has the suite that proves it.

A store keeps rows. It decides nothing: expiry, merging and identity are the core's. All times are
milliseconds since the epoch, UTC; ``now`` is always the caller's. A store offers the plain methods
(``Store``, run in worker threads under ASGI), or coroutines with an ``a`` before each name
(``AsyncStore``), or both. Errors are those of ``sessionware.errors``:

- ``StoreUnavailable``: it could not be done, and was not done.
- ``Contention``: other writers were in the way (deadlock, lock timeout); not done; worth another
try.
- ``OutcomeUnknown``: the connection broke meanwhile; it may or may not have been done.
- ``DuplicateKey``: an insert found the key taken.

Whatever else a method raises is taken for a defect, not for a failing database.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable


class Row(NamedTuple):
    """One stored session. ``id`` is 0 until it is inserted and survives a rotation."""

    id: int
    sid_hash: bytes
    version: int
    epoch: int
    user_id: str | None
    data: bytes
    created_at: int
    authenticated_at: int | None
    last_seen: int
    expires_at: int
    purge_after: int
    ip: str | None = None
    user_agent: str | None = None

    def __repr__(self) -> str:
        return f"<Row {self.id} version {self.version} epoch {self.epoch}>"


class Stamp(NamedTuple):
    """What tells whether a cached row still holds, and its times, which move without a version."""

    version: int
    epoch: int
    last_seen: int
    expires_at: int
    id: int


class Removed(NamedTuple):
    """What ``remove_some`` did: how many rows it deleted, and the last id that it has seen to."""

    deleted: int
    reached: int


PURGE_LEASE: Final = bytes(32)
"""The key of the lease on purging; no SHA-256 of an ID is known to be all zeros."""


class Retired(Enum):
    """The answer for an ID that a rotation replaced lately."""

    RETIRED = "retired"


RETIRED: Final = Retired.RETIRED

Found: TypeAlias = Row | Retired | None
Decision: TypeAlias = Callable[[Row | None], tuple[Row | Literal["delete"] | None, Any]]


@runtime_checkable
class Store(Protocol):
    """A store of plain methods, safe to call from many threads."""

    def prepare(self) -> None:
        """Make ready: connect, create or check the tables. Idempotent; called before the first
        use.
        """
        ...

    def load(self, sid_hash: bytes, now: int) -> Found:
        """The row under this hash, expired ones too; ``RETIRED`` if it was rotated away and its
        tombstone stands (``until > now``); None if it is unknown. One statement for a row that is
        there.
        """
        ...

    def reload(self, row_id: int) -> Row | None:
        """The row with this id, as committed now, whatever its hash."""
        ...

    def stamp(self, sid_hash: bytes) -> Stamp | None:
        """The stamp of the row under this hash, as committed now."""
        ...

    def insert(self, row: Row) -> int:
        """Insert and return the new id; ``row.id`` is ignored. Raises ``DuplicateKey``. Never
        replaces. An id is never used again, not even that of a row deleted long ago: a late writer
        would find somebody else's session under it.
        """
        ...

    def replace(self, old: Row, new: Row, now: int) -> bool:
        """Write ``new`` where id, version and epoch are those of ``old`` and it has not expired.

        True if a row was hit. The hash stays; ``created_at`` stays. Never inserts.
        """
        ...

    def rotate(self, old: Row, new: Row, now: int, retired_until: int) -> bool:
        """As ``replace``, with the new hash, and the old hash set down as retired, in one
        transaction.

        Raises ``DuplicateKey`` if the new hash is taken; then nothing has changed.
        """
        ...

    def alter(self, row: Row, decide: Decision, now: int, retired_until: int) -> Any:
        """Read the row with this one's id under a lock, ask ``decide`` and carry out its answer,
        all in one transaction.

        ``decide(the row as it is now, or None)`` gives (new row, result): the new row is written
        whatever the version, with a tombstone if its hash differs; ``"delete"`` deletes the row;
        None writes nothing. Returns the result. The way to certain progress where ``replace`` keeps
        losing.
        """
        ...

    def touch(self, old: Row, new: Row, now: int) -> bool:
        """Write the three times of ``new`` where id, hash and version are those of ``old``, it has
        not expired, and ``last_seen`` is below the new one. No version moves."""
        ...

    def remove(self, row: Row, version: int | None = None, epoch: int | None = None) -> bool:
        """Delete the row with this one's id if its version and epoch are these, where given.

        True if it was there.
        """
        ...

    def user_rows(self, user_id: str, now: int) -> list[Row]:
        """The unexpired rows of a user, latest seen first."""
        ...

    def remove_user(self, user_id: str, keep: int | None = None) -> list[bytes]:
        """Delete a user's rows but the one with the id ``keep``; the hashes of those deleted, as
        they were last.
        """
        ...

    def remove_all(self) -> int:
        """Delete every row; how many there were.

        A store for which that may take long also has ``last_id()``, the highest id there is or 0,
        and ``remove_some(after, last, limit)``, which deletes ``limit`` rows, those with the
        lowest ids above ``after`` and up to ``last``, and gives a ``Removed``. ``last`` is reached
        when none of them is left.
        """
        ...

    def count(self, now: int) -> int:
        """How many unexpired rows there are."""
        ...

    def claim(self, key: bytes, now: int, until: int) -> bool:
        """Take the lease with this key (32 bytes) until then; False if somebody holds it.

        A store may also have ``take_over(key, now, until, latest)``, for which a lease that ends
        after ``latest`` is nobody's.
        """
        ...

    def release(self, key: bytes, until: int) -> bool:
        """Give back a lease that was taken until then; False if it is not held so any more."""
        ...

    def purge(self, now: int, limit: int, exact: bool = False) -> int:
        """Delete up to ``limit`` rows that are past ``purge_after`` and ``expires_at``, and spent
        tombstones; how many rows were deleted. ``exact``: past ``expires_at`` is enough.

        All tombstones that are spent, however many; or, where the store also has
        ``purge_retired(now, limit)``, which deletes some too and says how many, up to ``limit``.
        """
        ...

    def close(self) -> None:
        """Let go of connections and threads. The store can be used again afterwards."""
        ...


@runtime_checkable
class AsyncStore(Protocol):
    """The same as coroutines; for the meaning of each see ``Store``."""

    async def aprepare(self) -> None: ...
    async def aload(self, sid_hash: bytes, now: int) -> Found: ...
    async def areload(self, row_id: int) -> Row | None: ...
    async def astamp(self, sid_hash: bytes) -> Stamp | None: ...
    async def ainsert(self, row: Row) -> int: ...
    async def areplace(self, old: Row, new: Row, now: int) -> bool: ...
    async def arotate(self, old: Row, new: Row, now: int, retired_until: int) -> bool: ...
    async def aalter(self, row: Row, decide: Decision, now: int, retired_until: int) -> Any: ...
    async def atouch(self, old: Row, new: Row, now: int) -> bool: ...
    async def aremove(
        self, row: Row, version: int | None = None, epoch: int | None = None
    ) -> bool: ...
    async def auser_rows(self, user_id: str, now: int) -> list[Row]: ...
    async def aremove_user(self, user_id: str, keep: int | None = None) -> list[bytes]: ...
    async def aremove_all(self) -> int: ...
    async def acount(self, now: int) -> int: ...
    async def aclaim(self, key: bytes, now: int, until: int) -> bool: ...
    async def arelease(self, key: bytes, until: int) -> bool: ...
    async def apurge(self, now: int, limit: int, exact: bool = False) -> int: ...
    async def aclose(self) -> None: ...
