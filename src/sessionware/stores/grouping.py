"""Which calls to a store may share a commit, and how their answers are sorted out: no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..batches import ALONE
from ..coherence.slots import new_number
from ..errors import OutcomeUnknown, apart
from ..flows import Call

# What moves the stamps of the rows it changes. A touch changes nothing that a cache must know.
MOVES: Final = frozenset(
    {"replace", "rotate", "alter", "remove", "remove_user", "remove_all", "remove_range"}
)
BULK: Final = frozenset({"insert", "replace", "touch"})
"""Of which many are one statement on PostgreSQL."""
_ON_SQLITE: Final = frozenset({"insert", "replace", "rotate", "touch", "remove"})


def methods_of(backend: str, driver: str) -> frozenset[str]:
    """The methods that share commits on a database.

    SQLite has one writer at a time, who takes them all. On PostgreSQL what is most frequent goes in
    one statement. The others commit side by side, and their servers group that by themselves.
    """
    if backend == "sqlite":
        return _ON_SQLITE
    return BULK if driver in ("psycopg", "asyncpg") else frozenset()


def moved(calls: Sequence[Call]) -> tuple[tuple[bytes, ...], list[int]]:
    """The hashes whose stamps move, and the new number of each."""
    moving = [call for call in calls if call.method in MOVES]
    hashes = tuple([call.args[0].sid_hash for call in moving])
    return hashes, [call.ticket or new_number() for call in moving]


def after_failure(error: Exception, begun: bool, count: int) -> list[Any]:
    """The answers where a batch was not done, or nobody knows: ``begun`` is False if the database
    was not free for it at all.

    One bad row must not fail the others: each is tried by itself.
    """
    if begun and not isinstance(error, OutcomeUnknown):
        return [ALONE] * count
    return [apart(error) for _ in range(count)]
