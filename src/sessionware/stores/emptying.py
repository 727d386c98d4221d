"""Deleting every row, a range of ids at a time: no id travels, and no row is looked at twice."""

from __future__ import annotations

from sqlalchemy import Integer, bindparam, delete, func, literal_column, select

from .schema import Schema
from .statements import Gives, Script, Statement


class Emptying:
    """The statements of ``Store.remove_some``."""

    def __init__(self, schema: Schema) -> None:
        key = schema.sessions.c.id
        self._last = Statement(select(func.max(key)), Gives.ROW, ())
        within = (key > bindparam("after"), key <= bindparam("last"))
        following = select(key).where(*within).order_by(key).limit(literal_column("1"))
        following = following.offset(bindparam("skipped", type_=Integer))
        self._next = Statement(following, Gives.ROW, ("after", "last", "skipped"))
        removal = delete(schema.sessions).where(*within)
        self._range = Statement(removal, Gives.COUNT, ("after", "last"))

    def last_id(self) -> Script[int]:
        """The highest id there is, or 0."""
        found = yield self._last, ()
        return int(found[0] or 0)

    def next_id(self, after: int, last: int, limit: int) -> Script[int]:
        """Where a range ends that begins after an id and has so many rows, or the last of all."""
        found = yield self._next, (after, last, limit - 1)
        return last if found is None else int(found[0])

    def remove_range(self, after: int, last: int) -> Script[int]:
        """Delete the rows of a range; how many there were."""
        deleted: int = yield self._range, (after, last)
        return deleted
