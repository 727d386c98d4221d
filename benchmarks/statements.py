"""Counts the SQL statements of this process, whichever library sends them: at the drivers."""

# pyright: reportMissingImports=false
from __future__ import annotations

import sqlite3
import sqlite3.dbapi2
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

_ASYNCPG = ("execute", "executemany", "fetch", "fetchrow", "fetchval")


class _Connection(sqlite3.Connection):
    """The same, but that it can be referred to weakly."""


_connections: weakref.WeakSet[sqlite3.Connection] = weakref.WeakSet()
_connect = sqlite3.connect
_notes: list[list[str]] = []
"""Where statements are noted at the moment."""


def _noting(*args: Any, **kwargs: Any) -> Any:
    kwargs.setdefault("factory", _Connection)
    # Tracing is switched on from another thread than the connection's.
    kwargs["check_same_thread"] = False
    connection = _connect(*args, **kwargs)
    # Of a class in Python, whoever chose it.
    _connections.add(connection)
    for texts in _notes:
        connection.set_trace_callback(texts.append)
    return connection


def watch() -> None:
    """Note every connection to SQLite from now on; nothing is slower for that."""
    sqlite3.connect = sqlite3.dbapi2.connect = _noting


@contextmanager
def counted() -> Iterator[list[str]]:
    """The texts of all statements that are executed meanwhile."""
    texts: list[str] = []
    with ExitStack() as stack:
        _notes.append(texts)
        stack.callback(_trace, None)
        stack.callback(_notes.clear)
        _trace(texts.append)
        psycopg, asyncpg = sys.modules.get("psycopg"), sys.modules.get("asyncpg")
        if psycopg is not None:
            for kind in (psycopg.Cursor, psycopg.AsyncCursor):
                _replace(stack, kind, "execute", _of_psycopg(kind.execute, texts))
        if asyncpg is not None:
            for name in _ASYNCPG:
                method = getattr(asyncpg.Connection, name)
                _replace(stack, asyncpg.Connection, name, _of_connection(method, texts))
            prepared = asyncpg.prepared_stmt.PreparedStatement
            for name in _ASYNCPG[1:]:
                method = getattr(prepared, name)
                _replace(stack, prepared, name, _of_prepared(method, texts))
        yield texts


def _trace(note: Callable[[str], object] | None) -> None:
    for connection in list(_connections):
        # One that was closed meanwhile has nothing to say.
        with suppress(sqlite3.ProgrammingError):
            connection.set_trace_callback(note)


def selects(texts: list[str]) -> int:
    return sum(text.lstrip().upper().startswith("SELECT") for text in texts)


def _replace(stack: ExitStack, kind: Any, name: str, method: Any) -> None:
    stack.callback(setattr, kind, name, getattr(kind, name))
    setattr(kind, name, method)


def _of_psycopg(execute: Callable[..., Any], texts: list[str]) -> Callable[..., Any]:
    """Of a cursor of either world: what is returned, a coroutine perhaps, is passed on."""

    def noted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        texts.append(query.decode() if isinstance(query, bytes) else str(query))
        return execute(self, query, *args, **kwargs)

    return noted


def _of_connection(
    method: Callable[..., Awaitable[Any]], texts: list[str]
) -> Callable[..., Awaitable[Any]]:
    async def noted(self: Any, query: str, *args: Any, **kwargs: Any) -> Any:
        texts.append(query)
        return await method(self, query, *args, **kwargs)

    return noted


def _of_prepared(
    method: Callable[..., Awaitable[Any]], texts: list[str]
) -> Callable[..., Awaitable[Any]]:
    async def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        texts.append(self.get_query())
        return await method(self, *args, **kwargs)

    return noted
