"""My delta over their row: how parallel requests of one session each keep the keys they wrote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Delta:
    """Which top-level keys a request wrote and deleted; their values stay in the encoded
    payload.
    """

    written: frozenset[Any] = frozenset()
    deleted: frozenset[Any] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.written or self.deleted)


def diff(
    base: Mapping[Any, Any],
    mine: Mapping[Any, Any],
    fingerprint: Callable[[Any], Any],
    assigned: Collection[Any] = (),
) -> Delta:
    """What turned ``base`` into ``mine``, nested changes included.

    A key that was ``assigned`` counts as written even with the value it had: the request meant it.
    """
    written = {
        key
        for key, value in mine.items()
        if key not in base or key in assigned or fingerprint(base[key]) != fingerprint(value)
    }
    return Delta(frozenset(written), frozenset(base.keys() - mine.keys()))


def merge(delta: Delta, mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Theirs, with mine in place of it for each key that this request wrote or deleted."""
    merged = {key: value for key, value in theirs.items() if key not in delta.deleted}
    merged.update((key, mine[key]) for key in delta.written)
    return merged
