"""Many saves in one statement, for SQLite: one trip into it, however many there are.

Each trip lets go of the interpreter, and gets it back only when a busy event loop has come to rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy.dialects import sqlite

from ..flows import Call
from .protocol import Row
from .saving import (
    PLAIN,
    SAVED,
    changes,
    is_current,
    is_plain,
    plain_changes,
    plainly_saved,
    saved,
)
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

    def parts(self, calls: Sequence[Call]) -> list[list[int]]:
        """See ``Steps.in_one_statement``."""
        alike: dict[bool, dict[int, int]] = {}
        for place, (method, args, _) in enumerate(calls):
            if method == "replace" and _ABLE:
                old, new, _ = args
                alike.setdefault(is_plain(old, new), {}).setdefault(old.id, place)
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
        plain = is_plain(*saves[0][:2])
        values: list[Any] = []
        for old, new, now in saves:
            if plain:
                values += plainly_saved(old, new)
            else:
                # Names purge_after, though SQLite rewrites an index for that: there are few of
                # these, and so there are few different statements.
                values += saved(old, new, now)
        if plain:
            # The latest. Whose session has ended by it, and not by his own, tries once more.
            values.append(max(now for _, _, now in saves))
        found = yield Text(self._text(len(saves), plain), tuple(values), Gives.ROWS)
        hit = {row[0] for row in found}
        return [old.id in hit for old, _, _ in saves]

    def _text(self, count: int, plain: bool) -> str:
        text = self._texts.get((count, plain))
        if text is None:
            text = self._texts[count, plain] = self._made(count, plain)
        return text

    def _made(self, count: int, plain: bool) -> str:
        names = PLAIN if plain else SAVED
        given = {name: f"v.column{number}" for number, name in enumerate(names, 1)}
        rows = ", ".join([f"({', '.join('?' * len(names))})"] * count)
        if plain:
            changed, given["now"] = plain_changes(given, "max"), "?"
        else:
            changed = changes(given, "max")
        return (
            f"UPDATE {self._table} AS s SET {changed} "
            f"FROM (VALUES {rows}) AS v WHERE {is_current(given)} RETURNING id"
        )
