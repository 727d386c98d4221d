"""A channel of messages between processes, run by one thread: the lease's shell.

The thread holds one connection, on which it hears what all processes say and says what this one has
changed: after the commit, and gathered for a few milliseconds where more and more changes. It sends
a beat now and then, whose return renews the lease; see ``lease``.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from ..chance import chance
from ..errors import StoreUnavailable
from ..events import logger
from ..flows import Call
from .lease import LEASE_SECONDS
from .line import Line
from .messages import ONCE, Kind, Message, new_nonce

# Of the lease's seconds.
BEAT: Final = 0.35
GATHER_SECONDS: Final = 0.005
"""Between two messages about changes: the first after a silence is not held back."""
_PROOF_SECONDS: Final = 2.0
_LONGEST_PAUSE: Final = 5.0
_UNFIT_PAUSE: Final = 60.0


_BEGINNING_SECONDS: Final = 0.25
_NAME: Final = "sessionware-channel"


class Unfit(Exception):
    """This channel can't work here; the text is for a log. It is tried again less and less."""


class Transport(Protocol):
    """A connection that hears and says; used by one thread but for ``wake``.

    Methods raise whatever their driver raises when the connection is lost, and none but ``hear``
    waits for longer than a few seconds.
    """

    def connect(self) -> None:
        """Connect and subscribe. From here on, everything that is said is heard, in order."""
        ...

    def prove(self, text: str) -> None:
        """Say a text over another connection, one like those that applications use. Where the
        store can say it too, from any thread.
        """
        ...

    def say(self, text: str) -> None: ...

    def hear(self, seconds: float) -> Iterable[str]:
        """The texts that have come; waits for some, at most so long or until ``wake``."""
        ...

    def wake(self) -> None:
        """End the wait in ``hear``; from any thread."""
        ...

    def disconnect(self) -> None: ...


class _Service:
    """What one thread works with. No two threads share a line or a transport, not even one that
    hangs and the one that came after it.
    """

    def __init__(self, transport: Transport, line: Line, proves_apart: bool) -> None:
        self.transport = transport
        self._proves_apart = proves_apart
        self.line = line
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None
        self.failed = False
        self._since = time.monotonic()

    def is_beginning(self) -> bool:
        """Whether the first connection is under way: what is queued will be said in a moment, and
        otherwise said if that fails.
        """
        return not self.failed and time.monotonic() - self._since < _BEGINNING_SECONDS

    def end(self, patience: float | None = None) -> None:
        """Let the thread end; without ``patience`` wait for it only if it has something to say."""
        if patience is None:
            patience = 0.5 if self.line.waiting or self.line.unheard else 0
        self.stop.set()
        self.transport.wake()
        thread = self.thread
        if thread is None or thread is threading.current_thread():
            return
        deadline = time.monotonic() + patience
        thread.join(min(patience, _BEGINNING_SECONDS))
        if thread.is_alive() and self._proves_apart:
            self._say_instead(deadline)
        thread.join(max(0.0, deadline - time.monotonic()))

    def _say_instead(self, deadline: float) -> None:
        """Say what the thread does not come to say: it waits for a connection, or for an answer."""
        line = self.line
        if line.waiting or line.unheard:
            text = line.at_once(None if line.unheard else ())
            # In one more thread, since nothing may answer there either.
            saying = threading.Thread(
                target=_say_apart, args=(self.transport, text), name=_NAME, daemon=True
            )
            with suppress(RuntimeError):
                saying.start()
                saying.join(max(0.0, deadline - time.monotonic()))


class Broadcast:
    """The channel: see ``Channel``. It starts with its first use, and again in a child process."""

    def __init__(
        self,
        transport: Callable[[], Transport],
        by_store: Callable[[str], Call] | None = None,
        seconds: float = LEASE_SECONDS,
    ) -> None:
        self._transport = transport
        self._by_store = by_store
        self._seconds = seconds
        self._ending: weakref.finalize[..., Broadcast] | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """In a child process: another connection, another sender, nothing trusted."""
        if self._ending is not None:
            self._ending.detach()
        self._lock = threading.Lock()
        self._noted: set[str] = set()
        self._renew()

    def _renew(self) -> None:
        self._service: _Service | None = None
        self._ending = None
        self._line = Line(self._seconds)
        self._lease = self._line.lease
        # Asked at each hit: no call in between.
        self.trusts = self._lease.trusts

    def mark(self, sid_hash: bytes) -> int | None:
        """See ``Channel.mark``."""
        if self._service is None:
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
        service = self._service or self._start()
        if service.line.queue(hashes):
            # Else its thread has been woken, and has not taken what waits yet.
            service.transport.wake()
        if self._by_store is None or service.line.sound() or service.is_beginning():
            return None
        return self._by_store(service.line.at_once(hashes))

    @property
    def alive(self) -> bool:
        """Whether rows may be served unasked at this moment."""
        return self._lease.alive

    def close(self) -> None:
        """End the thread and the connection; the next use starts anew."""
        with self._lock:
            service, ending = self._service, self._ending
            if service is None:
                return
            self._renew()
        if ending is not None:
            ending.detach()
        service.end(patience=2)

    def _start(self) -> _Service:
        with self._lock:
            if self._service is None:
                service = _Service(self._transport(), self._line, self._by_store is not None)
                service.thread = threading.Thread(
                    target=_serve,
                    args=(weakref.ref(self), service),
                    name=_NAME,
                    daemon=True,
                )
                try:
                    service.thread.start()
                except RuntimeError as error:
                    raise StoreUnavailable("no thread can be started for the channel") from error
                # Dropped, or at the end of the process: what was changed last is still said.
                self._ending = weakref.finalize(self, service.end)
                self._service = service
            return self._service

    def note(self, error: Exception) -> None:
        """One log line for each reason; a driver's text may hold an address, so only its type."""
        reason = str(error) if isinstance(error, Unfit) else type(error).__name__
        if reason not in self._noted:
            self._noted.add(reason)
            logger.warning(
                "SW017 coherence: no channel between processes (%s): each hit asks the database "
                "until there is one.",
                reason,
            )


def _serve(channel: weakref.ref[Broadcast], service: _Service) -> None:
    """Keep a connection for as long as the channel is in use."""
    line, transport, pause = service.line, service.transport, 0.05
    while not service.stop.is_set():
        try:
            transport.connect()
            line.connected()
            _prove(service)
            line.proven()
            pause = 0.05
            _converse(service)
        except Exception as error:
            line.lost()
            service.failed = True
            _say_otherwise(service)
            alive = None if service.stop.is_set() else channel()
            if alive is not None:
                alive.note(error)
            del alive
            # A slow network looks the same at first.
            longest = _UNFIT_PAUSE if isinstance(error, Unfit) else _LONGEST_PAUSE
            pause = min(pause * 2, longest)
        finally:
            line.lost()
            transport.disconnect()
        service.stop.wait(pause * chance.uniform(0.7, 1.3))


def _say_otherwise(service: _Service) -> None:
    """What still waits to be said, over another connection: nobody may change anything more for
    the store to say it with.
    """
    if service.line.waiting:
        _say_apart(service.transport, service.line.at_once(()))


def _say_apart(transport: Transport, text: str) -> None:
    with suppress(Exception):
        transport.prove(text)


def _prove(service: _Service) -> None:
    """A pooler may take a subscription and lose it: only what really arrives counts."""
    transport, line = service.transport, service.line
    probe = Message(ONCE, 1, Kind.BEAT, nonce=new_nonce())
    transport.prove(str(probe))
    deadline = time.monotonic() + _PROOF_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        for text in transport.hear(min(left, _BEGINNING_SECONDS)):
            if text == str(probe):
                return
            line.hear(text)
        _say_otherwise(service)
    raise Unfit("messages do not arrive: is there a pooler before PostgreSQL? Set listen_url")


def _converse(service: _Service) -> None:
    line, transport = service.line, service.transport
    next_beat = said = 0.0
    while not service.stop.is_set():
        if line.waiting:
            # Where much changes, more comes meanwhile.
            time.sleep(max(0.0, said + GATHER_SECONDS - time.monotonic()))
            _say_what_waits(service)
            said = time.monotonic()
        now = time.monotonic()
        if now >= next_beat or line.beat_wanted:
            next_beat = now + BEAT * line.seconds * chance.uniform(0.8, 1.1)
            transport.say(line.next(Kind.BEAT))
        if line.overdue():
            raise ConnectionError
        line.forget_the_silent()
        for text in transport.hear(min(0.5, max(0.0, next_beat - time.monotonic()))):
            line.hear(text)
    _say_what_waits(service)


def _say_what_waits(service: _Service) -> None:
    if service.line.waiting:
        for text in service.line.due():
            service.transport.say(text)
