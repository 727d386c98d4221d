"""What the stores for threads and for coroutines know of their database alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypedDict

from sqlalchemy import URL, Connection, SingletonThreadPool, StaticPool

from ..coherence.stampfile import file_of
from ..coherence.stamps import StampFile
from ..errors import ConfigurationError, Contention, Finding
from ..flows import Call, Flow
from ..store_checks import check_sql_store
from .bulk import Bulk
from .executing import Through
from .grouping import methods_of
from .protocol import Removed
from .schema import Schema
from .scripts import Scripts
from .steps import Steps

Operable: TypeAlias = str | Callable[..., Any]
"""The name of a method of ``Steps`` or ``Scripts``, or a function of a ``Scripts`` and a
connection.
"""

_NO_FILE: Final = frozenset({"", ":memory:"})
# Ids in one statement: that is also how long others wait on SQLite.
_AT_ONCE: Final = 250


class SQLOptions(TypedDict, total=False):
    """What both SQL stores take besides the database; times are seconds or a ``timedelta``."""

    table_name: str
    create_table: bool
    timeout: float | timedelta
    connections: int


class SQLBase:
    """What both stores know of their database."""

    _url: URL

    def __init__(
        self,
        *,
        table_name: str = "sessions",
        create_table: bool = True,
        timeout: float | timedelta = 2.0,
        connections: int = 8,
    ) -> None:
        table_name, timeout = check_sql_store(
            table_name=table_name,
            create_table=create_table,
            timeout=timeout,
            connections=connections,
        )
        self.steps = Steps(Schema(table_name))
        self.scripts = Scripts(self.steps)
        self.timeout = timeout
        self.table_name = table_name
        self._create_table = create_table
        self._connections = connections
        self.stamps: StampFile | None = None
        self._grouped: frozenset[str] = frozenset()
        self._bulk: Bulk | None = None

    @property
    def url(self) -> URL:
        """Which database it is."""
        return self._url

    @property
    def file(self) -> str | None:
        """The SQLite file, if it is one."""
        return None if self.stamps is None else self.stamps.database

    @property
    def _address(self) -> URL:
        """The URL for an engine. Where that is made anew, in a child or another event loop for
        example, a relative path still means the file that was used first.
        """
        file, url = self.file, self._url
        if file is None or not os.path.isabs(file) or "uri" in url.query:
            return url
        return url.set(database=file)

    def _take_url(self, url: URL) -> None:
        self._url = url
        backend = url.get_backend_name()
        self._grouped = methods_of(backend, url.get_driver_name())
        if backend == "sqlite":
            file = file_of(url.database, url.query)
            self.stamps = None if file is None else StampFile(file)
        elif self._grouped:
            self._bulk = Bulk(self.steps.schema, url.get_dialect()())

    @property
    def shares_commits(self) -> bool:
        """Whether there are calls that ``group`` takes."""
        return bool(self._grouped)

    @property
    def commits_at_once(self) -> int:
        """How many commits can be under way at once: all others would wait in a thread each."""
        return 1 if self._url.get_backend_name() == "sqlite" else self._connections

    def takes(self, call: Call) -> bool:
        """Whether this call may share a commit with others; see ``group``."""
        return call.method in self._grouped

    @property
    def purge_batch(self) -> int:
        """How many rows a purge deletes at a time at the most."""
        return 5000 if self._url.get_backend_name() == "postgresql" else 1000

    def _purge_flow(self, now: int, limit: int, exact: bool) -> Flow[int]:
        backend = self._url.get_backend_name()
        if backend == "postgresql" or (backend == "sqlite" and not exact):
            return (yield from self._deleting("purge", now, limit, exact))
        # MySQL can't find and delete at once; and while SQLite looks through the whole table,
        # others shall be able to write.
        spent: list[int] = yield Call("execute", ("spent", now, limit, exact))
        deleted = 0
        for start in range(0, max(1, len(spent)), _AT_ONCE):
            part = spent[start : start + _AT_ONCE]
            deleted += yield Call("execute", ("delete_spent", part, now, limit))
            if part and backend == "sqlite":
                yield Call("execute", ("checkpoint",))
        return deleted

    def _purge_retired_flow(self, now: int, limit: int) -> Flow[int]:
        backend = self._url.get_backend_name()
        method = "purge_retired" if backend in ("postgresql", "sqlite") else "delete_retired"
        return (yield from self._deleting(method, now, limit))

    def _remove_some_flow(self, after: int, last: int, limit: int) -> Flow[Removed]:
        reached: int = yield Call("execute", ("next_id", after, last, limit))
        return Removed((yield from self._deleting("remove_range", after, reached)), reached)

    def _deleting(self, *wanted: Any) -> Flow[int]:
        """Have many rows deleted, and SQLite's WAL copied into the file after that."""
        deleted: int = yield Call("execute", wanted)
        if deleted and self._url.get_backend_name() == "sqlite":
            yield Call("execute", ("checkpoint",))
        return deleted

    def make_tables(self, connection: Connection) -> None:
        if self._create_table:
            self.scripts.create(connection)
        else:
            self.scripts.check(connection)

    def on_connection(
        self,
        method: Operable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        plain: Connection,
        isolated: bool = False,
    ) -> Any:
        """Call a method of ``Scripts``, or any function of one and a connection; ``isolated`` from
        what the database's default may do to it, in a transaction.
        """
        call = getattr(Scripts, method) if isinstance(method, str) else method
        with Through(plain).transaction() if isolated else nullcontext():
            return call(self.scripts, plain, *args, **kwargs)


def refuse_engine(database: Any, url: URL, schema: str | None) -> None:
    """An application's engine that can't be shared, or that means another table than we name."""
    pool = getattr(database, "pool", None)
    if isinstance(pool, StaticPool | SingletonThreadPool):
        raise _refused(
            "this engine has one connection for everybody, or for each thread: our commits would "
            "commit the application's transactions.",
            "give a URL, or an engine whose pool lends connections (QueuePool, NullPool).",
        )
    is_sqlite = url.get_backend_name() == "sqlite"
    if pool is not None and is_sqlite and (url.database or "") in _NO_FILE:
        raise _refused(
            "this engine's URL names no file: each connection has a database of its own, or a "
            "file that we don't know of, and so other processes would not see what changes in it.",
            'name the file in the URL too: create_engine("sqlite:////path/to.db", creator=...).',
        )
    options: Any = getattr(database, "get_execution_options", dict)()
    if schema in (options.get("schema_translate_map") or ()):
        raise _refused(
            "this engine's schema_translate_map renames the schema of the sessions, but not where "
            "many of them share a statement: they would be in two tables.",
            'set table_name="schema.name", and give '
            "engine.execution_options(schema_translate_map=None).",
        )


def _refused(risk: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Finding("SW022", "store", risk, fix)])


def held_by_others() -> Contention:
    """Another process has been writing all the time."""
    return Contention("the database is locked")
