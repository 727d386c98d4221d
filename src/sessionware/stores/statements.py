"""SQL statements with named parameters, compiled once for each driver; what a script yields."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

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
    """A statement as a driver takes it, and the order of its parameters."""

    text: str
    names: tuple[str, ...]


class Statement:
    """One statement. ``keys`` are the columns of an INSERT without values of its own."""

    __slots__ = ("_compiled", "_keys", "clause", "gives")

    def __init__(
        self, clause: Executable, gives: Gives, keys: tuple[str, ...] | None = None
    ) -> None:
        self.clause = clause
        self.gives = gives
        self._keys = keys
        self._compiled: dict[str, Compiled] = {}

    def compiled(self, dialect: Dialect) -> Compiled:
        """For a dialect's driver."""
        found = self._compiled.get(dialect.driver)
        if found is None:
            found = self._compiled[dialect.driver] = self._compile(dialect)
        return found

    def _compile(self, dialect: Dialect) -> Compiled:
        clause: Any = self.clause
        made = clause.compile(dialect=dialect, column_keys=self._keys)
        if made.positional:
            return Compiled(made.string, tuple(made.positiontup))
        return Compiled(_NAMED.sub("%s", made.string), tuple(_NAMED.findall(made.string)))

    def parameters(self, dialect: Dialect, given: Mapping[str, Any]) -> dict[str, Any]:
        """Of the parameters given those that the statement has: SQLAlchemy takes no others."""
        return {name: given[name] for name in self.compiled(dialect).names}

    def __repr__(self) -> str:
        return f"<Statement that gives {self.gives.value}>"


class Text(NamedTuple):
    """A statement in the driver's own words, with its parameters in order."""

    text: str
    values: tuple[Any, ...] = ()
    gives: Gives = Gives.NOTHING

    def __repr__(self) -> str:
        return f"<Text that gives {self.gives.value}>"


Step: TypeAlias = tuple[Statement, Mapping[str, Any]] | Text
"""What a script wants executed next."""

Script: TypeAlias = Generator[Step, Any, T]
"""An operation: yields the statement it wants executed and is sent what that gives."""
