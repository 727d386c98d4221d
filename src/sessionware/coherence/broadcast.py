"""A channel of messages between processes, run by one thread: the lease's shell.

The thread holds one connection, on which it hears what all processes say and says what this one has
changed: after the commit, gathered for a few milliseconds. It sends a beat now and then, whose
return renews the lease; see ``lease``.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from ..events import logger
from ..flows import Call
from .lease import LEASE_SECONDS
from .line import Line
from .messages import ONCE, Kind, Message

BEAT_SECONDS: Final = LEASE_SECONDS * 0.35
GATHER_SECONDS: Final = 0.002
_LONGEST_PAUSE: Final = 5.0


class Unfit(Exception):
    """This channel can't work here; the text is for a log. It is tried again now and then."""


class Transport(Protocol):
    """A connection that hears and says; used by one thread but for ``wake``.

    Methods raise whatever their driver raises when the connection is lost.
    """

    def connect(self) -> None:
        """Connect and subscribe. From here on, everything that is said is heard, in order."""
        ...

    def prove(self, text: str) -> None:
        """Say a text over another connection, one like those that applications use."""
        ...

    def say(self, text: str) -> None: ...

    def hear(self, seconds: float) -> Iterable[str]:
        """The texts that have come; waits for some, at most so long or until ``wake``."""
        ...

    def wake(self) -> None:
        """End the wait in ``hear``; from any thread."""
        ...

    def disconnect(self) -> None: ...


class Broadcast:
    """The channel: see ``Channel``. It starts with its first use, and again in a child process."""

    def __init__(self, transport: Transport, by_store: Callable[[str], Call] | None = None) -> None:
        self._transport = transport
        self._by_store = by_store
        self.after_fork()

    def after_fork(self) -> None:
        """In a child process: another connection, another sender, nothing trusted."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None
        self._line = Line()
        self._lease = self._line.lease
        self._noted = ""

    def trusts(self, sid_hash: bytes, mark: int | None) -> bool:
        """See ``Channel.trusts``."""
        return self._lease.trusts(sid_hash, mark)

    def mark(self, sid_hash: bytes) -> int | None:
        """See ``Channel.mark``."""
        if self._worker is None:
            self._start()
        return self._lease.mark(sid_hash)

    def ticket(self) -> int | None:
        """See ``Channel.ticket``."""
        return None

    def due(self) -> bool:
        """See ``Channel.due``."""
        return False

    def changed(self, hashes: tuple[bytes, ...] | None) -> Call | None:
        """See ``Channel.changed``. While the connection is in doubt, the store says it too."""
        if self._worker is None:
            self._start()
        self._line.queue(hashes)
        self._transport.wake()
        if self._by_store is None or self._line.sound():
            return None
        return self._by_store(self._line.at_once(hashes))

    @property
    def alive(self) -> bool:
        """Whether rows may be served unasked at this moment."""
        return self._lease.alive

    def close(self) -> None:
        """End the thread and the connection; the next use starts anew."""
        with self._lock:
            worker, self._worker = self._worker, None
            self._stop.set()
            self._stop = threading.Event()
        self._lease.missed()
        self._transport.wake()
        if worker is not None and worker is not threading.current_thread():
            worker.join(2)

    def _start(self) -> None:
        with self._lock:
            if self._worker is not None:
                return
            self._worker = threading.Thread(
                target=_serve,
                args=(weakref.ref(self), self._transport, self._line, self._stop),
                name="sessionware-channel",
                daemon=True,
            )
            self._worker.start()

    def note(self, error: Exception) -> None:
        """One log line for each reason; a driver's text may hold an address, so only its type."""
        reason = str(error) if isinstance(error, Unfit) else type(error).__name__
        if reason != self._noted:
            self._noted = reason
            logger.warning(
                "SW017 coherence: no channel between processes (%s): each hit asks the database "
                "until there is one.",
                reason,
            )


def _serve(
    channel: weakref.ref[Broadcast], transport: Transport, line: Line, stop: threading.Event
) -> None:
    """Keep a connection for as long as the channel is in use."""
    pause = 0.05
    while not stop.is_set():
        try:
            transport.connect()
            line.connected()
            _prove(transport, line)
            pause = 0.05
            _converse(channel, transport, line, stop)
        except Exception as error:
            line.lost()
            alive = channel()
            if alive is None:
                break
            alive.note(error)
            del alive
            pause = 60.0 if isinstance(error, Unfit) else min(pause * 2, _LONGEST_PAUSE)
        finally:
            line.lost()
            transport.disconnect()
        if channel() is None or stop.wait(pause * random.uniform(0.7, 1.3)):
            break


def _prove(transport: Transport, line: Line) -> None:
    """A pooler may take a subscription and lose it: only what really arrives counts."""
    probe = Message(ONCE, random.getrandbits(40) + 1, Kind.BEAT)
    transport.prove(str(probe))
    deadline = time.monotonic() + 2
    while (left := deadline - time.monotonic()) > 0:
        for text in transport.hear(left):
            if text == str(probe):
                return
            line.hear(text)
    raise Unfit("messages do not arrive: is there a pooler in between? Set listen_url")


def _converse(
    channel: weakref.ref[Broadcast], transport: Transport, line: Line, stop: threading.Event
) -> None:
    next_beat = 0.0
    while not stop.is_set() and channel() is not None:
        if line.waiting:
            # More may come within a moment.
            time.sleep(GATHER_SECONDS)
            for text in line.due():
                transport.say(text)
        now = time.monotonic()
        if now >= next_beat or line.beat_wanted:
            next_beat = now + BEAT_SECONDS * random.uniform(0.8, 1.1)
            transport.say(line.next(Kind.BEAT))
        if line.overdue():
            raise ConnectionError
        line.forget_the_silent()
        for text in transport.hear(min(0.5, max(0.0, next_beat - time.monotonic()))):
            line.hear(text)
