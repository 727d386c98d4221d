"""Loads under way: one a key at a time, however many wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable

from .waiting import Outcome, Waiter, failed, tell_all


class Flight:
    """A load under way. ``begun`` once it may have read the database, and ``since`` when."""

    __slots__ = ("begun", "since", "waiters")

    def __init__(self) -> None:
        self.begun = False
        self.since = 0.0
        self.waiters: list[Waiter] = []

    def begin(self) -> None:
        self.since = time.monotonic()
        self.begun = True


class Flights:
    """One load a key at a time.

    Who comes before it has begun to read shares its outcome. Who comes later waits for it too, but
    must not take its outcome for current: a change may have been acknowledged since it read.

    One that is under way for longer than ``patience`` (seconds) may hang for good.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
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

    def give_up(self, key: Hashable, flight: Flight) -> None:
        """A wait for it was in vain. If it may hang for good, the next to come begins another."""
        with self._lock:
            if flight.begun and time.monotonic() - flight.since > self._patience:
                self._forget(key, flight)

    def land(self, key: Hashable, flight: Flight, outcome: Outcome) -> None:
        """Tell all who wait for it."""
        with self._lock:
            self._forget(key, flight)
            waiters = flight.waiters
        error = outcome[1]
        if error is None:
            tell_all([(waiter, outcome) for waiter in waiters])
        else:
            tell_all(failed(waiters, error))

    def _forget(self, key: Hashable, flight: Flight) -> None:
        if self._under_way.get(key) is flight:
            del self._under_way[key]
