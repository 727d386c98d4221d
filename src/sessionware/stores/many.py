"""Many saves in one statement, for SQLite: one trip into it, however many there are.

Each trip lets go of the interpreter, and gets it back only when a busy event loop has come to rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy.dialects import sqlite

from .grouping import Operation
from .protocol import Row
from .saving import SAVED, changes, is_current, saved
from .schema import Schema
from .statements import Gives, Script, Text

# RETURNING says which rows were hit.
_ABLE: Final = sqlite3.sqlite_version_info >= (3, 35, 0)
_LEAST: Final = 2
# Beyond this many the powers of two have to do: each number is a statement to be prepared and kept.
_ANY: Final = 16


class ManySaves:
    """The statements for one table."""

    def __init__(self, schema: Schema) -> None:
        self._table = sqlite.dialect().identifier_preparer.format_table(schema.sessions)
        self._texts: dict[tuple[int, bool], str] = {}

    def parts(self, operations: Sequence[Operation]) -> list[list[int]]:
        """See ``Steps.in_one_statement``."""
        alike: dict[bool, dict[int, int]] = {}
        for place, (method, args, _) in enumerate(operations):
            if method == "replace" and _ABLE:
                alike.setdefault(_moves_purge(args), {}).setdefault(args[0].id, place)
        found: list[list[int]] = []
        for chosen in map(list, map(dict.values, alike.values())):
            while len(chosen) >= _LEAST:
                size = len(chosen)
                if size > _ANY:
                    size = 1 << (size.bit_length() - 1)
                found.append(chosen[:size])
                del chosen[:size]
        return found

    def replace(self, saves: Sequence[tuple[Row, Row, int]]) -> Script[list[bool]]:
        """See ``Steps.replace_many``."""
        moves = _moves_purge(saves[0])
        values: list[Any] = []
        for old, new, now in saves:
            values += saved(old, new, now)
            if moves:
                values.append(new.purge_after)
        found = yield Text(self._text(len(saves), moves), tuple(values), Gives.ROWS)
        hit = {row[0] for row in found}
        return [old.id in hit for old, _, _ in saves]

    def _text(self, count: int, moves: bool) -> str:
        text = self._texts.get((count, moves))
        if text is None:
            text = self._texts[count, moves] = self._made(count, moves)
        return text

    def _made(self, count: int, moves: bool) -> str:
        names = (*SAVED, "purge_after") if moves else SAVED
        given = {name: f"v.column{number}" for number, name in enumerate(names, 1)}
        rows = ", ".join([f"({', '.join('?' * len(names))})"] * count)
        purge = f", purge_after = {given['purge_after']}" if moves else ""
        return (
            f"UPDATE {self._table} AS s SET {changes(given, 'max')}{purge} "
            f"FROM (VALUES {rows}) AS v WHERE {is_current(given)} RETURNING id"
        )


def _moves_purge(save: tuple[Row, Row, int]) -> bool:
    """SQLite rewrites an index for a column that is only named."""
    return save[0].purge_after != save[1].purge_after
