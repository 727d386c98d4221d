"""Connections that are kept at hand between statements: a pool's way of lending costs more than a
statement.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from sqlalchemy import Connection, Engine, Pool
from sqlalchemy.exc import SQLAlchemyError

from ..errors import StoreUnavailable
from .arrays import teach_psycopg
from .executing import Straight


class Lent(Straight):
    """A connection of the pool's, straight to the driver."""

    __slots__ = ("connection", "pool")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        raw = connection.connection.driver_connection
        if connection.dialect.driver == "psycopg":
            # Before there is a cursor, which takes over what is known.
            teach_psycopg(raw)
        super().__init__(raw, connection.dialect)
        self.connection = connection
        self.pool = pool


class Lender:
    """The connections of an engine of our own, as many as its pool has; for any number of
    threads.
    """

    def __init__(self, engine: Engine, connections: int, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout
        # At hand; all others that count against the limit are in use.
        self._idle: deque[Lent] = deque()
        self._limit = self._more = connections
        self._changed = threading.Condition()
        self._waiting = 0
        self._closed = False
        self._stopped = False

    def take(self) -> Lent:
        """The connection that was used last, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            pass
        lent = self._wait()
        if lent is not None:
            return lent
        try:
            # Read before: if the pool is another one meanwhile, it counts as outlived.
            pool = self._engine.pool
            return Lent(self._engine.connect(), pool)
        except BaseException:
            self._ended()
            raise

    def give_back(self, lent: Lent) -> None:
        self._idle.append(lent)
        if self._closed or self._stopped or lent.pool is not self._engine.pool:
            self._let_go()
        # Who begins to wait after this looks once more before it does.
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def drop(self, lent: Lent) -> None:
        """It is of no more use."""
        try:
            with suppress(SQLAlchemyError):
                lent.connection.invalidate()
            with suppress(SQLAlchemyError):
                lent.connection.close()
        finally:
            self._ended()

    @contextmanager
    def pooled(self) -> Iterator[Connection]:
        """A connection of the pool's own."""
        try:
            lent: Lent | None = self._idle.pop()
        except IndexError:
            lent = self._wait()
        try:
            if lent is not None:
                self._close(lent.connection, lent.pool)
            pool = self._engine.pool
            connection = self._engine.connect()
            try:
                yield connection
            finally:
                self._close(connection, pool)
        finally:
            self._ended()

    def _wait(self) -> Lent | None:
        """A connection that was given back, or None for leave to open one."""
        deadline = time.monotonic() + self._timeout
        with self._changed:
            self._waiting += 1
            try:
                while self._stopped or (not self._idle and not self._more):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise StoreUnavailable("no free connection in the pool")
                    self._changed.wait(left)
                with suppress(IndexError):
                    return self._idle.pop()
                self._more -= 1
                return None
            finally:
                self._waiting -= 1

    def _ended(self) -> None:
        with self._changed:
            self._more += 1
            # Who stops it waits beside those who want a connection.
            self._changed.notify(self._waiting + 1 if self._stopped else 1)

    def dispose(self) -> None:
        """Close all that are at hand; those in use are closed when they are given back."""
        self._let_go()
        pool = self._engine.pool
        self._engine.dispose()
        # What has gone back to it meanwhile.
        pool.dispose()

    def close(self) -> None:
        """Dispose of them for good."""
        self._closed = True
        self.dispose()

    def stop(self, deadline: float, until: ExitStack) -> bool:
        """Close all and lend none until ``until`` is closed; whether none is open any more by the
        deadline.
        """
        until.callback(self._go_on)
        with self._changed:
            self._stopped = True
        self.dispose()
        with self._changed:
            left = max(0.0, deadline - time.monotonic())
            return self._changed.wait_for(lambda: self._more == self._limit, left)

    def _go_on(self) -> None:
        with self._changed:
            self._stopped = False
            self._changed.notify_all()

    def _let_go(self) -> None:
        with suppress(IndexError):
            while True:
                lent = self._idle.pop()
                try:
                    self._close(lent.connection, lent.pool)
                finally:
                    self._ended()

    def _close(self, connection: Connection, pool: Pool) -> None:
        with suppress(SQLAlchemyError):
            connection.close()
        if self._closed or self._stopped or self._engine.pool is not pool:
            # Nobody else would ever close what has gone back there.
            pool.dispose()

    def forget(self) -> None:
        """In a child process: they are the parent's. Closed by nobody here, not even by chance."""
        _parents.append(self._idle)
        self._idle = deque()


_parents: list[deque[Lent]] = []
