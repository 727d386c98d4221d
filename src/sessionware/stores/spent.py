"""What a purge deletes: each statement finds its batch by itself, so that no id travels."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    LargeBinary,
    Table,
    and_,
    bindparam,
    delete,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from .protocol import PURGE_LEASE
from .schema import Schema
from .statements import Gives, Script, Statement


class _Among(FunctionElement[bool]):
    """A column is among what a subquery finds."""

    name = "among"
    inherit_cache = True


@compiles(_Among)
def _in(element: _Among, compiler: SQLCompiler, **kwargs: Any) -> str:
    column, found = (compiler.process(each, **kwargs) for each in element.clauses)
    return f"{column} IN {found}"


@compiles(_Among, "postgresql")
def _any(element: _Among, compiler: SQLCompiler, **kwargs: Any) -> str:
    # What is IN a subquery may be looked for with a scan of the table, or the subquery be executed
    # several times, each with a LIMIT of its own. An array is made once.
    column, found = (compiler.process(each, **kwargs) for each in element.clauses)
    return f"{column} = ANY (ARRAY{found})"


class Spent:
    """For databases that take a LIMIT in there: MySQL doesn't."""

    def __init__(self, schema: Schema) -> None:
        sessions, retired = schema.sessions.c, schema.retired.c
        now = bindparam("now", type_=BigInteger)
        ended = sessions.expires_at <= now
        due = and_(sessions.purge_after <= now, ended)
        self._due = _deletion(schema.sessions, sessions.id, due, ended, sessions.purge_after)
        self._ended = _deletion(schema.sessions, sessions.id, ended, ended, sessions.id)
        over = retired.until <= now
        others = and_(over, retired.sid_hash != bindparam("lease", type_=LargeBinary))
        self._tombstones = _deletion(schema.retired, retired.sid_hash, others, over)

    def purge(self, now: int, limit: int, exact: bool = False) -> Script[int]:
        """See ``Store.purge``."""
        given = (now, limit, PURGE_LEASE)
        deleted: int = yield self._ended if exact else self._due, given
        yield self._tombstones, given
        return deleted

    def purge_retired(self, now: int, limit: int) -> Script[int]:
        """See ``Store.purge``."""
        deleted: int = yield self._tombstones, (now, limit, PURGE_LEASE)
        return deleted


def _deletion(
    table: Table,
    key: ColumnElement[Any],
    spent: ColumnElement[bool],
    still: ColumnElement[bool],
    order: ColumnElement[Any] | None = None,
) -> Statement:
    """Delete a batch of what is spent, if it still is when it is deleted.

    Rows that somebody else has locked neither hold it up nor count towards the limit: fewer than
    that are deleted only where no others are left.
    """
    # SQLAlchemy gives SQLite an offset that is a parameter, unless there is one.
    chosen = select(key).where(spent).order_by(order).limit(bindparam("limit", type_=Integer))
    chosen = chosen.offset(literal_column("0")).with_for_update(skip_locked=True)
    among = _Among(key, chosen.scalar_subquery())
    return Statement(delete(table).where(among, still), Gives.COUNT, ("now", "limit", "lease"))
