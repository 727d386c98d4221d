"""The one place that reads the wall clock."""

from __future__ import annotations

import time


def now() -> int:
    """Milliseconds since the epoch, UTC."""
    return int(time.time() * 1000)
