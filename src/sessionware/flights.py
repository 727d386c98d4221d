"""Loads under way: one a key at a time, however many wait for it."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from .waiting import Outcome, Waiter, tell_all


class Flight:
    """A load under way. ``begun`` once it may have read the database."""

    __slots__ = ("begun", "waiters")

    def __init__(self) -> None:
        self.begun = False
        self.waiters: list[Waiter] = []

    def begin(self) -> None:
        self.begun = True


class Flights:
    """One load a key at a time.

    Who comes before it has begun to read shares its outcome. Who comes later waits for it too, but
    must not take its outcome for current: a change may have been acknowledged since it read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, Flight] = {}

    def join(self, key: Hashable, waiter: Waiter) -> tuple[Flight, bool, bool]:
        """The flight for which ``waiter`` waits from now on, whether its outcome is current for
        it, and whether it has to be launched.
        """
        with self._lock:
            flight = self._under_way.get(key)
            if flight is not None:
                flight.waiters.append(waiter)
                return flight, not flight.begun, False
            flight = self._under_way[key] = Flight()
            flight.waiters.append(waiter)
            return flight, True, True

    def land(self, key: Hashable, flight: Flight, outcome: Outcome) -> None:
        """Tell all who wait for it."""
        with self._lock:
            self._under_way.pop(key, None)
            waiters = flight.waiters
        tell_all([(waiter, outcome) for waiter in waiters])
