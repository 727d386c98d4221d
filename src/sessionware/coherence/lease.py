"""The trust lease: when what was heard over a channel of messages is known to be all there was.

Pure: a message that this process sent itself comes back to it behind every message sent before, so
its return proves that all of those have arrived. Until ``seconds`` after it was *sent*, cached rows
are served unasked: a row may be stale that long after its change was announced, however messages
are lost, delayed or repeated, and however long this process or the network stood still.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Final

from ..chance import chance
from ..clock import boot_clock
from .slots import SLOTS, slot_of

LEASE_SECONDS: Final = 10.0
_EPOCH: Final = 1 << 40


class Lease:
    """One process's view of the channel: slots, an epoch, and until when they may be trusted.

    Written by one thread, read by all.
    """

    def __init__(
        self, seconds: float = LEASE_SECONDS, clock: Callable[[], float] = boot_clock
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._slots = array("Q", bytes(8 * SLOTS))
        # A mark of an earlier lease, from before a shutdown, means nothing to this one.
        self._epoch = chance.getrandbits(60) * _EPOCH
        self._until = float("-inf")

    def trusts(self, sid_hash: bytes, mark: int | None) -> bool:
        """See ``Channel.trusts``."""
        return (
            mark == self._slots[sid_hash[0] << 8 | sid_hash[1]] + self._epoch
            and self._clock() < self._until
        )

    def mark(self, sid_hash: bytes) -> int:
        """See ``Channel.mark``."""
        return self._slots[slot_of(sid_hash)] + self._epoch

    @property
    def alive(self) -> bool:
        return self._clock() < self._until

    def move(self, prefixes: Iterable[bytes]) -> None:
        """Rows whose hashes begin so were changed by somebody else."""
        for prefix in prefixes:
            self._slots[slot_of(prefix)] += 1

    def returned(self, sent_at: float) -> None:
        """A message of our own has come back that was sent at this time of our clock."""
        self._until = max(self._until, sent_at + self._seconds)

    def move_all(self) -> None:
        """Any row may have been changed: every one is asked for once."""
        self._epoch += _EPOCH

    def missed(self) -> None:
        """Something may have gone unheard (a new connection, a gap): every row is asked for once,
        and nothing is trusted before the next message of our own has come back.
        """
        self.move_all()
        self.lost()

    def lost(self) -> None:
        """The connection is gone: trust nothing until it is back."""
        self._until = float("-inf")
