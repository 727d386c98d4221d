"""What is said and heard on a channel of messages, and what follows for the lease: no I/O.

Messages of one sender are numbered, so that a gap shows, and whoever falls silent is noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from ..clock import boot_clock
from .lease import LEASE_SECONDS, Lease
from .messages import (
    MOST_PREFIXES,
    ONCE,
    PREFIX_BYTES,
    Kind,
    Message,
    batches,
    new_nonce,
    new_sender,
    parse,
)

# After so long without a message of our own coming back, the connection is taken for dead.
_OVERDUE: Final = 0.4
_DOUBTFUL_SECONDS: Final = 1.0
# Beyond this many, "any row may have changed" is the shorter message.
_MOST_PENDING: Final = 20_000
_MOST_SENDERS: Final = 10_000


class _Sent(NamedTuple):
    at: float
    kind: Kind
    nonce: str


class Line:
    """One process's end of the channel, over one connection after the other.

    All but ``queue``, ``sound`` and ``at_once`` is for the one thread that holds the connection.
    """

    def __init__(
        self, seconds: float = LEASE_SECONDS, clock: Callable[[], float] = boot_clock
    ) -> None:
        self.seconds = seconds
        self.lease = Lease(seconds, clock)
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: dict[bytes, None] = {}
        self._all = False
        self._proven = False
        self._sender = new_sender()
        self._sequence = 0
        # Not yet come back.
        self._sent: dict[int, _Sent] = {}
        self._oldest = float("inf")
        # Nothing is trusted before a message of our own that is sent from now on comes back.
        self.beat_wanted = False
        # Of each other sender: its last number, and when it came.
        self._heard: dict[str, tuple[int, float]] = {}

    # What is to be said; from any thread.

    def queue(self, hashes: tuple[bytes, ...] | None) -> bool:
        """Have it said with the next message (None: any row may have changed); whether nothing
        else was waiting to be said.
        """
        with self._lock:
            first = not (self._pending or self._all)
            if hashes is None or len(self._pending) > _MOST_PENDING:
                self._all = True
            else:
                for each in hashes:
                    self._pending[each[:PREFIX_BYTES]] = None
            return first

    def sound(self) -> bool:
        """Whether what is said now is known to be heard."""
        return self._proven and not self._unreturned_for(_DOUBTFUL_SECONDS)

    def at_once(self, hashes: tuple[bytes, ...] | None) -> str:
        """The text that says it apart from the connection, with what was not said before."""
        with self._lock:
            prefixes, everything = dict(self._pending), self._all
        prefixes.update(dict.fromkeys(each[:PREFIX_BYTES] for each in hashes or ()))
        if everything or hashes is None or len(prefixes) > MOST_PREFIXES:
            return str(Message(ONCE, 1, Kind.ALL))
        return str(Message(ONCE, 1, Kind.CHANGED, tuple(prefixes)))

    @property
    def waiting(self) -> bool:
        """Whether there is something to say."""
        return bool(self._pending or self._all)

    @property
    def unheard(self) -> bool:
        """Whether something said has not come back yet."""
        return self._oldest < float("inf")

    # The connection.

    def connected(self) -> None:
        """A new connection: what was said between the last one and this was not heard."""
        self._sender, self._sequence = new_sender(), 0
        self._heard.clear()
        self._missed()

    def proven(self) -> None:
        """The connection hears what applications say: from now on it is the way to say things."""
        self._proven = True

    def lost(self) -> None:
        """No connection. What was said last may have been heard by nobody: say it again."""
        self._proven = False
        self.lease.lost()
        if any(sent.kind is not Kind.BEAT for sent in self._sent.values()):
            self.queue(None)
        self._sent.clear()
        self._note_oldest()

    def overdue(self) -> bool:
        """Whether messages of our own do not come back."""
        return self._unreturned_for(_OVERDUE * self.seconds)

    def _unreturned_for(self, seconds: float) -> bool:
        return self._clock() - self._oldest > seconds

    def _note_oldest(self) -> None:
        """For other threads, which must not go through a dict that changes."""
        self._oldest = min((sent.at for sent in self._sent.values()), default=float("inf"))

    # Saying and hearing.

    def next(self, kind: Kind, prefixes: tuple[bytes, ...] = ()) -> str:
        """The next numbered text, about to be sent."""
        self.beat_wanted = False
        self._sequence += 1
        nonce = new_nonce()
        self._sent[self._sequence] = _Sent(self._clock(), kind, nonce)
        self._note_oldest()
        return str(Message(self._sender, self._sequence, kind, prefixes, nonce))

    def due(self) -> list[str]:
        """The texts that say what has changed since the last time."""
        with self._lock:
            prefixes, everything = list(self._pending), self._all
            self._pending, self._all = {}, False
        if everything:
            return [self.next(Kind.ALL)]
        return [self.next(Kind.CHANGED, part) for part in batches(prefixes)]

    def hear(self, text: str) -> None:
        """A text has come, from anybody."""
        message = parse(text)
        if message is None:
            return
        if message.sender == self._sender:
            self._returned(message.sequence, message.nonce)
            return
        if message.sender != ONCE:
            self._count(message.sender, message.sequence)
        if message.kind is Kind.ALL:
            self.lease.move_all()
        self.lease.move(message.prefixes)

    def _count(self, sender: str, sequence: int) -> None:
        last, _ = self._heard.get(sender, (0, 0.0))
        if sequence > last + 1 or len(self._heard) > _MOST_SENDERS:
            self._missed()
        if len(self._heard) > _MOST_SENDERS:
            self._heard.clear()
        if sequence > last:
            self._heard[sender] = (sequence, self._clock())

    def _returned(self, sequence: int, nonce: str) -> None:
        sent = self._sent.get(sequence)
        if sent is None or sent.nonce != nonce:
            return
        del self._sent[sequence]
        older = [number for number in self._sent if number < sequence]
        kinds = {self._sent.pop(number).kind for number in older}
        if kinds - {Kind.BEAT}:
            self.queue(None)
        self._note_oldest()
        if older:
            # They never came back: nor, perhaps, did what others said at that time.
            self._missed()
        else:
            self.lease.returned(sent.at)

    def _missed(self) -> None:
        self.lease.missed()
        self.beat_wanted = True

    def forget_the_silent(self) -> None:
        """A sender that says nothing for the time of a lease has ended, or is not heard."""
        latest = self._clock() - self.seconds
        silent = [sender for sender, (_, at) in self._heard.items() if at < latest]
        for sender in silent:
            del self._heard[sender]
            self.lease.move_all()
