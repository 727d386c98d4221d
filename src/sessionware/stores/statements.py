"""SQL statements with named parameters, compiled once for each driver; what a script yields."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from enum import Enum
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import Insert
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import Executable

T = TypeVar("T")
_NAMED: Final = re.compile(r"%\((\w+)\)s")


class Gives(Enum):
    """What a statement is executed for."""

    ROW = "the first row, or None"
    ROWS = "all rows"
    COUNT = "how many rows it hit"
    KEY = "the id of the new row"
    NOTHING = "nothing"


class Compiled(NamedTuple):
    """A statement as a driver takes it, and how its parameters come out of those given."""

    text: str
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    names: frozenset[str]


class Statement:
    """One statement. ``keys`` name the values that are given with it, in their order; it may leave
    some of them out.
    """

    __slots__ = ("_compiled", "clause", "gives", "keys")

    def __init__(self, clause: Executable, gives: Gives, keys: tuple[str, ...]) -> None:
        self.clause = clause
        self.gives = gives
        self.keys = keys
        self._compiled: dict[str, Compiled] = {}

    def compiled(self, dialect: Dialect) -> Compiled:
        """For a dialect's driver."""
        found = self._compiled.get(dialect.driver)
        if found is None:
            found = self._compiled[dialect.driver] = self._compile(dialect)
        return found

    def _compile(self, dialect: Dialect) -> Compiled:
        clause: Any = self.clause
        columns = self.keys if isinstance(clause, Insert) else None
        made = clause.compile(dialect=dialect, column_keys=columns)
        if made.positional:
            text, names = made.string, tuple(made.positiontup or ())
        else:
            text = _NAMED.sub("%s", made.string)
            names = tuple(_NAMED.findall(made.string))
        return Compiled(text, _picking(tuple(map(self.keys.index, names))), frozenset(made.params))

    def parameters(self, dialect: Dialect, values: tuple[Any, ...]) -> dict[str, Any]:
        """By name, and none that the statement does not have: SQLAlchemy takes no others."""
        names = self.compiled(dialect).names
        given = zip(self.keys, values, strict=True)
        return {name: value for name, value in given if name in names}

    def __repr__(self) -> str:
        return f"<Statement that gives {self.gives.value}>"


def _picking(places: tuple[int, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(places) == 1:
        (place,) = places
        return lambda values: (values[place],)
    return itemgetter(*places) if places else lambda _: ()


class Text(NamedTuple):
    """A statement in the driver's own words, with its parameters in order."""

    text: str
    values: tuple[Any, ...] = ()
    gives: Gives = Gives.NOTHING

    def __repr__(self) -> str:
        return f"<Text that gives {self.gives.value}>"


Step: TypeAlias = tuple[Statement, tuple[Any, ...]] | Text
"""What a script wants executed next."""


def worded(step: Step, dialect: Dialect) -> tuple[str, tuple[Any, ...], Gives]:
    """A step in the words of a dialect's driver."""
    if isinstance(step, Text):
        return step
    statement, given = step
    text, pick, _ = statement.compiled(dialect)
    return text, pick(given), statement.gives


Script: TypeAlias = Generator[Step, Any, T]
"""An operation: yields the statement it wants executed and is sent what that gives."""
