"""Who else changed this: whether a cached row may be served without asking the database."""

from __future__ import annotations

from typing import Protocol

from .bounded import Bounded
from .validate import Validate


class Coherence(Protocol):
    """One way to know. ``trusts`` is asked at each hit and does no I/O."""

    def trusts(self) -> bool:
        """Whether a cached row may be served without asking the store."""
        ...


MODES: dict[str, type[Coherence]] = {"validate": Validate, "bounded": Bounded}

__all__ = ["MODES", "Bounded", "Coherence", "Validate"]
