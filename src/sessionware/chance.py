"""Random numbers of the operating system's, for jitter and for names that never come back.

The ``random`` module's own state is the application's: who seeds it must not be disturbed, and a
forked child would repeat what its parent draws.
"""

from __future__ import annotations

from random import SystemRandom
from typing import Final

chance: Final = SystemRandom()
