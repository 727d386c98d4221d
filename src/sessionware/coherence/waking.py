"""Wait for a connection and for a nudge from other threads at the same time."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import Any


class Waker:
    """A pipe into a ``select``. Made anew for each connection, by the thread that waits."""

    def __init__(self) -> None:
        self._ends: tuple[int, int] | None = None

    def open(self) -> None:
        """Begin to take nudges."""
        self.close()
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        self._ends = ends

    def close(self) -> None:
        """Take no more nudges."""
        ends, self._ends = self._ends, None
        for end in ends or ():
            os.close(end)

    def wake(self) -> None:
        """End the wait; from any thread, and harmless at any time."""
        ends = self._ends
        if ends is not None:
            # Full means that it is awake already; closed, that nobody waits.
            with suppress(OSError):
                os.write(ends[1], b"!")

    def wait(self, connection: Any, seconds: float) -> None:
        """Until the connection (its ``fileno``) can be read, a nudge, or the time is over."""
        assert self._ends is not None
        readable, _, _ = select.select([connection, self._ends[0]], [], [], seconds)
        if self._ends[0] in readable:
            with suppress(BlockingIOError):
                os.read(self._ends[0], 4096)
