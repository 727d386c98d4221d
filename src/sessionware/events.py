"""What happened to sessions, for logs, counters and ``on_event``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger("sessionware")

EventKind = Literal[
    "created",
    "rotated",
    "ended",
    "expired",
    "bad_signature",
    "duplicate",
    "corrupt",
    "conflict",
    "stale_save_dropped",
    "retired_id_used",
    "late_change",
    "store_error",
]

_LEVELS: dict[str, int] = {
    "created": logging.DEBUG,
    "rotated": logging.DEBUG,
    "ended": logging.DEBUG,
    "expired": logging.DEBUG,
    "conflict": logging.DEBUG,
    "bad_signature": logging.INFO,
    "retired_id_used": logging.INFO,
    "stale_save_dropped": logging.INFO,
}


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One thing that happened to a session.

    ``handle`` is the session's public name where it is known; ``detail`` says more in words of this
    library. Neither holds an ID, a cookie, a secret or session data.
    """

    kind: EventKind
    handle: str | None = None
    detail: str = ""


class EventSink:
    """Counts events, logs at most one line a second a kind, and passes each to ``on_event``.

    ``on_event`` runs in whichever thread or event loop the event happened in, mostly without the
    context variables of a request: it must not block. What it raises is logged and goes no further.
    """

    def __init__(self, on_event: Callable[[SessionEvent], object] | None = None) -> None:
        self._on_event = on_event
        self.after_fork()

    def after_fork(self) -> None:
        """In a child process: a lock that nobody holds, and nothing that the parent has counted."""
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._next_line: dict[str, float] = {}

    def emit(self, kind: EventKind, handle: str | None = None, detail: str = "") -> None:
        """Count, log and pass on one event."""
        now = time.monotonic()
        with self._lock:
            count = self._counts[kind] = self._counts.get(kind, 0) + 1
            due = now >= self._next_line.get(kind, now)
            if due:
                self._next_line[kind] = now + 1.0
        if due:
            logger.log(
                _LEVELS.get(kind, logging.WARNING),
                "session event %s session=%s total=%d %s",
                kind,
                handle or "-",
                count,
                detail,
            )
        if self._on_event is not None:
            try:
                self._on_event(SessionEvent(kind, handle, detail))
            except Exception as error:
                # As often as the event itself: one line a second and kind.
                if due:
                    logger.error("on_event raised %s", type(error).__name__)

    def counts(self) -> dict[str, int]:
        """How often each kind has happened in this process."""
        with self._lock:
            return dict(self._counts)
