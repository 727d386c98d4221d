"""Random numbers of the operating system's, for jitter and for names that never come back.

The ``random`` module's own state is the application's: who seeds it must not be disturbed, and a
forked child would repeat what its parent draws.
"""

from __future__ import annotations

import os
from random import SystemRandom
from typing import Final

chance: Final = SystemRandom()

_AT_ONCE: Final = 512
_drawn: list[bytes] = []


def eight_bytes() -> bytes:
    """Eight random bytes, for what has to be unique but is no secret.

    Drawn from the operating system many at a time: each call there lets go of the interpreter, and
    a busy thread gets it back only when another one is done.
    """
    try:
        return _drawn.pop()
    except IndexError:
        pool = os.urandom(8 * _AT_ONCE)
        first, *rest = [pool[at : at + 8] for at in range(0, len(pool), 8)]
        _drawn.extend(rest)
        return first


def forget() -> None:
    """In a child: it must not draw what its parent draws."""
    _drawn.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
