"""A bar on stderr, where that is a terminal; a line now and then where it is not."""

from __future__ import annotations

import sys
from time import monotonic

_WIDTH = 30


class Progress:
    def __init__(self, total: int) -> None:
        self._total = max(1, total)
        self._done = 0
        self._begun = self._shown = monotonic()
        self._terminal = sys.stderr.isatty()

    def step(self, what: str, by: int = 1) -> None:
        self._done += by
        now = monotonic()
        if now - self._shown < (0.1 if self._terminal else 15) and self._done < self._total:
            return
        self._shown = now
        share = min(1.0, self._done / self._total)
        left = (now - self._begun) * (1 - share) / share if share else 0
        bar = "#" * round(share * _WIDTH)
        line = f"[{bar:.<{_WIDTH}}] {share:4.0%}  {left:4.0f} s left  {what:<48.48}"
        print(f"\r{line}" if self._terminal else line, end="" if self._terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def say(self, text: str) -> None:
        print(f"\r{text:<96}" if self._terminal else text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            print(f"\r{'':<100}\r", end="", file=sys.stderr, flush=True)
