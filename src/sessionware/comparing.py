"""Whether two values are the same to the last type, where encoding them does not tell."""

from __future__ import annotations

from datetime import datetime, time
from decimal import Decimal
from typing import Any, Final

# Of these, equal is not the same: 0.0 and -0.0, 1.0 and 1.00, one moment in two time zones.
_BY_TEXT: Final = frozenset({float, complex, Decimal, datetime, time})


def the_same(one: Any, other: Any) -> bool:
    """Whether both are of the same types throughout, and equal; what can't be compared is not."""
    try:
        return _same(one, other)
    except Exception:
        return False


def _same(one: Any, other: Any) -> bool:
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _BY_TEXT:
        return repr(one) == repr(other)
    if kind is dict:
        return len(one) == len(other) and all(map(_same, one.items(), other.items()))
    if kind in (list, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if kind in (set, frozenset):
        # In no order that they have in common: which member is which is found by equality.
        theirs = {each: each for each in other}
        return len(one) == len(other) and all(_same(each, theirs[each]) for each in one)
    return bool(one == other)


class Exactly:
    """A value that equals only one that is the same."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exactly) and the_same(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Exactly a {type(self.value).__name__}>"
