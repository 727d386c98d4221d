"""Wait for a connection and for a nudge from other threads at the same time."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import Any

# Not select(), which takes no file number above 1,023; Windows has nothing else.
_Selector: Any = getattr(selectors, "PollSelector", selectors.SelectSelector)


def ready(seconds: float, *files: Any, to_write: bool = False) -> set[Any]:
    """Those of the files that can be read (or written), once there are some or the time is over."""
    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if to_write else 0)
    with _Selector() as selector:
        for file in files:
            selector.register(file, wanted)
        return {key.fileobj for key, _ in selector.select(max(0.0, seconds))}


class Waker:
    """A pair of sockets, one end of which is waited for. Opened anew for each connection."""

    def __init__(self) -> None:
        # Whoever closes must not overtake who writes: the file's number may be another's by then.
        # Reentrant, since a garbage collection may nudge.
        self._lock = threading.RLock()
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def open(self) -> None:
        """Begin to take nudges."""
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        self.close()
        with self._lock:
            self._ends = ends

    def close(self) -> None:
        """Take no more nudges."""
        with self._lock:
            ends, self._ends = self._ends, None
            for end in ends or ():
                end.close()

    def wake(self) -> None:
        """End the wait; from any thread, and harmless at any time."""
        with self._lock:
            if self._ends is not None:
                # Full means that it is awake already.
                with suppress(OSError):
                    self._ends[1].send(b"!")

    def wait(self, connection: Any, seconds: float) -> None:
        """Until the connection (its ``fileno``) can be read, a nudge, or the time is over."""
        assert self._ends is not None
        mine = self._ends[0]
        if mine in ready(seconds, connection, mine):
            with suppress(BlockingIOError):
                mine.recv(4096)
