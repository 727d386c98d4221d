"""Slots: numbers that move when rows change, one for all hashes that begin with the same two bytes.

A cached row remembers its slot's number, its *mark*, as of before it was read. While the slot still
has that number, nobody has changed the row since; if it has moved, the database is asked. Two
sessions that share a slot can only cost each other a question.
"""

from __future__ import annotations

from typing import Final, Protocol

from ..chance import eight_bytes
from ..flows import Call

SLOTS: Final = 65_536
_EVEN: Final = 2**60 - 2


class Channel(Protocol):
    """How this process learns that another one has changed a row. Nothing here does I/O."""

    def trusts(self, sid_hash: bytes, mark: int | None) -> bool:
        """Whether a row that was cached with this mark may be served without asking the store."""
        ...

    def mark(self, sid_hash: bytes) -> int | None:
        """Taken before a row is read; None if what is read now may not be trusted later."""
        ...

    def ticket(self) -> int | None:
        """The mark that a write is about to make, where the store itself moves the slots."""
        ...

    def changed(self, hashes: tuple[bytes, ...] | None) -> Call | None:
        """Let others know of a commit (None: of every row); what the store has to do for that."""
        ...

    def due(self) -> bool:
        """Whether the store has to look after the channel before the next answer."""
        ...

    @property
    def alive(self) -> bool:
        """Whether rows are served unasked at this moment."""
        ...

    def close(self) -> None:
        """Let go of connections and threads; the next use makes them anew."""
        ...

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is used any more."""
        ...


def slot_of(sid_hash: bytes) -> int:
    """The index of a hash's slot; of the hash only the first two bytes matter."""
    return sid_hash[0] << 8 | sid_hash[1]


def new_number() -> int:
    """A number that no slot has had: even, and random, because counting up would need a lock that
    outlives its holder. Each cached row keeps one, and of 60 bits they take less memory.
    """
    return int.from_bytes(eight_bytes(), "little") & _EVEN


class Quiet:
    """The parts of a channel that has nothing to say: a base for those that need few of them."""

    def mark(self, sid_hash: bytes) -> int | None:
        return None

    def ticket(self) -> int | None:
        return None

    def changed(self, hashes: tuple[bytes, ...] | None) -> Call | None:
        return None

    def due(self) -> bool:
        return False

    @property
    def alive(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to let go of."""

    def after_fork(self) -> None:
        """Nothing that a child could share."""
