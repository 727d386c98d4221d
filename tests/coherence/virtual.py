"""A clock that the test moves, and hashes in slots of their own."""

from __future__ import annotations


class Seconds:
    """A virtual clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


def hash_of(number: int) -> bytes:
    """Of a row; rows of different numbers share no slot."""
    return number.to_bytes(2, "big") + bytes([number % 251]) * 30
