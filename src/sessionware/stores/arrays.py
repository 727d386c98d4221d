"""Columns of values as PostgreSQL's arrays, in the form that each driver sends fastest.

psycopg turns a list into an array value by value in Python, which costs more than the statement: so
it gets the array's bytes, made at once. asyncpg asks of each value whether it is an array itself,
and so gets numbers as text, which the server reads in no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, Final, TypeAlias

Make: TypeAlias = Callable[[str, Sequence[Any]], Any]

# Of the element and of the array, as in pg_type.
_OIDS: Final = {
    "integer": (23, 1007),
    "bigint": (20, 1016),
    "bytea": (17, 1001),
    "text": (25, 1009),
}
_HEADER: Final = Struct(">iiIii")
_LENGTH: Final = Struct(">i")
_NULL: Final = _LENGTH.pack(-1)
_NUMBERS: Final = {"integer": Struct(">ii"), "bigint": Struct(">iq")}


@lru_cache(maxsize=128)
def _whole(kind: str, count: int) -> Struct:
    """So many numbers, each behind its length."""
    return Struct(">" + _NUMBERS[kind].format.lstrip(">") * count)


class Array:
    """An array in PostgreSQL's binary format; there is a class for each type."""

    __slots__ = ("data",)
    oid = 0

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


_CLASSES: Final[dict[str, type[Array]]] = {
    kind: type(f"Array_{kind}", (Array,), {"__slots__": (), "oid": array})
    for kind, (_, array) in _OIDS.items()
}


def as_bytes(kind: str, values: Sequence[Any]) -> Array:
    """The array of a column's values, None among them; for psycopg."""
    nulls = None in values
    head = _HEADER.pack(1, int(nulls), _OIDS[kind][0], len(values), 1)
    parts = [head]
    number = _NUMBERS.get(kind)
    if number is not None and not nulls:
        pairs = [number.size - 4] * (2 * len(values))
        pairs[1::2] = values
        parts.append(_whole(kind, len(values)).pack(*pairs))
    elif number is not None:
        size, pack = number.size - 4, number.pack
        parts += [_NULL if value is None else pack(size, value) for value in values]
    else:
        for value in values:
            if value is None:
                parts.append(_NULL)
                continue
            raw = value.encode() if kind == "text" else value
            parts.append(_LENGTH.pack(len(raw)))
            parts.append(raw)
    return _CLASSES[kind](b"".join(parts))


def as_text_or_list(kind: str, values: Sequence[Any]) -> str | list[Any]:
    """The same for asyncpg: of numbers the array as text, which ``place_of`` casts."""
    if kind not in _NUMBERS:
        return list(values)
    texts = ["NULL" if value is None else str(value) for value in values]
    return "{" + ",".join(texts) + "}"


def place_of(kind: str, number: int) -> str:
    """Where the parameter of that number stands, as asyncpg wants it."""
    return f"${number}{'::text' if kind in _NUMBERS else ''}::{kind}[]"


def teach_psycopg(connection: Any) -> None:
    """Let a psycopg connection know what to do with an ``Array``."""
    from psycopg.adapt import Dumper, PyFormat
    from psycopg.errors import ProgrammingError
    from psycopg.pq import Format

    adapters = connection.adapters
    try:
        adapters.get_dumper(_CLASSES["bytea"], PyFormat.BINARY)
    except ProgrammingError:
        for kind, known in _CLASSES.items():
            ready = {"format": Format.BINARY, "oid": known.oid, "dump": lambda _, array: array.data}
            adapters.register_dumper(known, type(f"{kind}Dumper", (Dumper,), ready))
