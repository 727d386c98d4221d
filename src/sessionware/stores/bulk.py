"""Many sessions in one statement, for PostgreSQL: one round trip, one commit.

The rows of a batch that were hit are returned; who is not among them has been overtaken, as with a
statement of its own. A row that somebody else has locked must not hold up the others: the
statement fails after a moment, and each is tried by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy.engine import Dialect

from ..errors import DuplicateKey
from ..flows import Call
from .arrays import Make, as_bytes, as_text_or_list, place_of
from .grouping import BULK
from .protocol import Row
from .saving import (
    PLAIN,
    SAVED,
    TIMES,
    changes,
    is_current,
    is_plain,
    moved_purge,
    plain_changes,
    plainly_saved,
    saved,
)
from .schema import Schema
from .statements import Gives, Script, Text

_PATIENCE_MS: Final = 50
_HEADER: Final = f"(SELECT set_config('lock_timeout', '{_PATIENCE_MS}', true)) IS NOT NULL"
_KINDS: Final = {
    "sid_hash": "bytea",
    "version": "integer",
    "epoch": "integer",
    "user_id": "text",
    "data": "bytea",
    "ip": "text",
    "user_agent": "text",
    "old_version": "integer",
    "old_epoch": "integer",
    "grows": "integer",
}
_TOUCHED: Final = ("id", "sid_hash", "old_version", "now", *TIMES, "purge_after")
_INSERTED: Final = Row._fields[1:]


class _Form(NamedTuple):
    """One kind of call: the columns of its arrays, and its statement around their places."""

    columns: tuple[str, ...]
    text: Callable[[str, str], str]
    """Of the table's name and the values, which are ``v``."""
    values: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    """Of a call's arguments, in the order of the columns."""
    key: Callable[[tuple[Any, ...]], Any]
    """Of a call's arguments: what the statement returns of each row that was hit."""
    timed: bool = False
    """Whether one time is given for all, ``batch.now``."""


def _replace_text(table: str, values: str) -> str:
    given = {name: f"v.{name}" for name in SAVED}
    return (
        f"UPDATE {table} AS s SET {changes(given, 'GREATEST')} "
        f"FROM {values} WHERE {_HEADER} AND {is_current(given)} RETURNING s.id"
    )


def _plain_text(table: str, values: str) -> str:
    given = {name: f"v.{name}" for name in PLAIN} | {"now": "batch.now"}
    return (
        f"UPDATE {table} AS s SET {plain_changes(given, 'GREATEST')} "
        f"FROM {values} WHERE {_HEADER} AND {is_current(given)} RETURNING s.id"
    )


def _touch_text(table: str, values: str) -> str:
    return (
        f"UPDATE {table} AS s SET last_seen = v.last_seen, expires_at = v.expires_at, "
        f"purge_after = COALESCE(v.purge_after, s.purge_after) FROM {values} "
        f"WHERE {_HEADER} AND s.id = v.id AND s.sid_hash = v.sid_hash "
        "AND s.version = v.old_version AND s.last_seen < v.last_seen AND s.expires_at > v.now "
        "RETURNING s.id"
    )


def _insert_text(table: str, values: str) -> str:
    names = ", ".join(_INSERTED)
    return (
        f"INSERT INTO {table} ({names}) SELECT {names} FROM {values} "
        "ON CONFLICT DO NOTHING RETURNING sid_hash, id"
    )


def _touch_values(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    old, new, now = arguments
    times = new.last_seen, new.expires_at
    return old.id, old.sid_hash, old.version, now, *times, moved_purge(old, new)


_FORMS: Final = {
    "plain": _Form(
        PLAIN,
        _plain_text,
        lambda given: plainly_saved(given[0], given[1]),
        lambda given: given[0].id,
        timed=True,
    ),
    "replace": _Form(SAVED, _replace_text, lambda given: saved(*given), lambda given: given[0].id),
    "touch": _Form(_TOUCHED, _touch_text, _touch_values, lambda given: given[0].id),
    "insert": _Form(
        _INSERTED, _insert_text, lambda given: given[0][1:], lambda given: given[0].sid_hash
    ),
}

assert frozenset(_FORMS) == BULK | {"plain"}


def _form_of(call: Call) -> str:
    method, arguments, _ = call
    plain = method == "replace" and is_plain(arguments[0], arguments[1])
    return "plain" if plain else method


class Bulk:
    """The statements for one table and driver."""

    def __init__(self, schema: Schema, dialect: Dialect) -> None:
        table = dialect.identifier_preparer.format_table(schema.sessions)
        numbered = dialect.driver == "asyncpg"
        self._array: Make = as_text_or_list if numbered else as_bytes
        self._texts: dict[str, str] = {}
        for kind, form in _FORMS.items():
            kinds = [_KINDS.get(name, "bigint") for name in form.columns]
            places = [f"%s::{each}[]" for each in kinds]
            if numbered:
                places = [place_of(each, number) for number, each in enumerate(kinds, 1)]
            values = f"unnest({', '.join(places)}) AS v ({', '.join(form.columns)})"
            if form.timed:
                now = f"${len(form.columns) + 1}" if numbered else "%s"
                values += f" CROSS JOIN (SELECT {now}::bigint AS now) AS batch"
            self._texts[kind] = form.text(table, values)

    def together(self, calls: Sequence[Call]) -> Script[list[Any]]:
        """Carry out calls of ``in_bulk``; the answer to each."""
        kind = _form_of(calls[0])
        form = _FORMS[kind]
        columns = zip(*(form.values(each.args) for each in calls), strict=True)
        arrays: tuple[Any, ...] = tuple(
            self._array(_KINDS.get(name, "bigint"), column)
            for name, column in zip(form.columns, columns, strict=True)
        )
        if form.timed:
            # The latest. Whose session has ended by it, and not by his own, tries once more.
            arrays = (*arrays, max(each.args[2] for each in calls))
        found = yield Text(self._texts[kind], arrays, Gives.ROWS)
        keys = [form.key(each.args) for each in calls]
        if kind != "insert":
            hit = {row[0] for row in found}
            return [key in hit for key in keys]
        ids = {bytes(row[0]): row[1] for row in found}
        return [ids[key] if key in ids else _taken() for key in keys]


def in_bulk(calls: Sequence[Call]) -> list[list[int]]:
    """Which calls go into one statement each, by their places, and no two for one row in any;
    who is in none goes alone.
    """
    taken: dict[Any, int] = {}
    for place, (method, arguments, _) in enumerate(calls):
        taken.setdefault((method, _FORMS[method].key(arguments)), place)
    statements: dict[str, list[int]] = {}
    for place in taken.values():
        statements.setdefault(_form_of(calls[place]), []).append(place)
    return list(statements.values())


def _taken() -> DuplicateKey:
    return DuplicateKey("a session with this key exists")
