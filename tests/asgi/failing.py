"""A store that fails when the test says so."""

from __future__ import annotations

import threading
from typing import Any

from sessionware import MemoryStore, StoreUnavailable


class FailingStore:
    """A store whose methods raise while they are listed in ``down``; ``"*"`` is all but close.

    With ``block`` each waits until it is set.
    """

    blocking = True

    def __init__(self) -> None:
        self.rows = MemoryStore()
        self.down: set[str] = set()
        self.error: Exception = StoreUnavailable("the host db.internal does not answer")
        self.calls: list[str] = []
        self.block: threading.Event | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.rows, name)
        if not callable(method) or name.startswith("a"):
            return method

        def call(*args: Any) -> Any:
            self.calls.append(name)
            if self.block is not None:
                self.block.wait(10)
            if name in self.down or ("*" in self.down and name != "close"):
                raise self.error
            return method(*args)

        return call
