"""How far a purge has come, how many rows it takes next, and how long it rests before."""

from __future__ import annotations

from typing import Final

TARGET: Final = 0.01
"""Seconds that a batch should take: on SQLite others wait for its end."""
FIRST: Final = 200
LEAST: Final = 100
HASTY_TARGET: Final = 0.05
"""The same where somebody waits for the end of it."""
REST: Final = 8.0
"""How many times as long as a batch took the database is the others'."""
MOST_REST: Final = 0.05
"""Seconds of that at the most: a database that is slow all the time is to be purged as well."""
LEAST_REST: Final = 0.01


class Pace:
    """How many rows a batch has, so that it takes about as long as it should."""

    def __init__(self, most: int, target: float = TARGET) -> None:
        self._most = most
        self._target = target
        self.size = min(FIRST, most)

    def note(self, seconds: float) -> None:
        """Take down how long a full batch took."""
        if seconds > self._target:
            self.size = max(self.size // 2, min(LEAST, self._most))
        elif seconds < self._target / 2:
            self.size = min(self.size * 2, self._most)


class Progress:
    """A purge, batch by batch: of what the index finds, and then of the ``whole`` table."""

    def __init__(self, most: int, exact: bool) -> None:
        self._most = most
        self._exact = exact
        self._pace = Pace(most)
        self.whole = False
        self.done = False
        self.deleted = 0

    @property
    def limit(self) -> int:
        """How many rows the next batch may have."""
        # Each of those looks through the table anew: the fewer there are, the better.
        return self._most if self.whole else self._pace.size

    def note(self, deleted: int, seconds: float) -> float:
        """Take down what a batch deleted and how long it took; seconds to wait before the next."""
        self.deleted += deleted
        if deleted < self.limit:
            self.done = self.whole or not self._exact
            self.whole = True
            return 0.0
        self._pace.note(seconds)
        # Never less than the batch took, so that at least half of the time is the others'.
        return max(seconds, LEAST_REST, min(seconds * REST, MOST_REST))
