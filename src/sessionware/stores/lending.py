"""Connections that are kept at hand between statements: a pool's way of lending costs more than a
statement.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ..errors import StoreUnavailable
from .arrays import teach_psycopg
from .executing import Straight


class Lent(Straight):
    """A connection of the pool's, straight to the driver."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.connection.driver_connection, connection.dialect)
        self.connection = connection
        if connection.dialect.driver == "psycopg":
            teach_psycopg(self.raw)


class Lender:
    """The connections of an engine of our own, as many as its pool has; for any number of
    threads.
    """

    def __init__(self, engine: Engine, connections: int, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout
        self._free = threading.Semaphore(connections)
        self._idle: deque[Lent] = deque()

    @contextmanager
    def pooled(self) -> Iterator[Connection]:
        """A connection of the pool's own."""
        self._wait()
        try:
            self._spare()
            with self._engine.connect() as connection:
                yield connection
        finally:
            self._free.release()

    def take(self) -> Lent:
        """The connection that was used last, or a new one."""
        self._wait()
        try:
            return self._idle.pop()
        except IndexError:
            pass
        try:
            return Lent(self._engine.connect())
        except BaseException:
            self._free.release()
            raise

    def give_back(self, lent: Lent) -> None:
        self._idle.append(lent)
        self._free.release()

    def drop(self, lent: Lent) -> None:
        """It is of no more use."""
        try:
            with suppress(SQLAlchemyError):
                lent.connection.invalidate()
            with suppress(SQLAlchemyError):
                lent.connection.close()
        finally:
            self._free.release()

    def _wait(self) -> None:
        if not self._free.acquire(timeout=self._timeout):
            raise StoreUnavailable("no free connection in the pool")

    def _spare(self) -> None:
        with suppress(IndexError, SQLAlchemyError):
            self._idle.pop().connection.close()

    def close(self) -> None:
        """Give the pool back all that are at hand."""
        while self._idle:
            self._spare()

    def forget(self) -> None:
        """In a child process: they are the parent's. Closed by nobody here, not even by chance."""
        _parents.append(self._idle)
        self._idle = deque()


_parents: list[deque[Lent]] = []
