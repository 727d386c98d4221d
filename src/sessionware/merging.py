"""My delta over their row: how parallel requests of one session each keep the keys they wrote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from marshal import dumps
from typing import Any, Final

# Of these types, and no subclass, equal is the same.
_PLAIN: Final = frozenset({str, int, bool, bytes, type(None)})


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
        if key not in base or key in assigned or not _alike(base[key], value, fingerprint)
    }
    return Delta(frozenset(written), frozenset(base.keys() - mine.keys()))


def _alike(one: Any, other: Any, fingerprint: Callable[[Any], Any]) -> bool:
    """Whether both are stored alike. Most are alike at a glance: the same type, the same bytes."""
    kind = type(one)
    if kind is type(other) and kind in _PLAIN:
        return bool(one == other)
    try:
        if dumps(one, 2) == dumps(other, 2):
            return True
    except ValueError:
        # marshal doesn't know the type.
        pass
    return bool(fingerprint(one) == fingerprint(other))


def merge(delta: Delta, mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Theirs, with mine in place of it for each key that this request wrote or deleted."""
    merged = {key: value for key, value in theirs.items() if key not in delta.deleted}
    merged.update((key, mine[key]) for key in delta.written)
    return merged
