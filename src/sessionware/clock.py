"""The clocks: wall time for what is stored, and one that only goes forward for what waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from time import time_ns
from typing import Final


def now() -> int:
    """Milliseconds since the epoch, UTC."""
    return time_ns() // 1_000_000


def _clock() -> Callable[[], float]:
    """A clock that goes on while the machine is suspended, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic
    return partial(time.clock_gettime, boottime)


boot_clock: Final = _clock()
