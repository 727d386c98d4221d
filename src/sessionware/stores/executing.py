"""Executing scripts on a connection: straight by the driver's cursor, or through SQLAlchemy.

SQLAlchemy's way to the cursor costs more than a statement of ours itself. So on an engine of our
own, statements go straight to the driver; whoever listens to the engine, or logs what it executes,
still sees every one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from .arrays import teach_psycopg
from .statements import Gives, Script, Step, T, Text, worded

# Whose cursors have been seen to give what SQLAlchemy's rows hold: bytes for bytes, str for text.
DRIVERS: Final = frozenset({"pysqlite", "psycopg"})
# Of an application's engine, while it is ours. Rows that come by and by take a transaction.
OPTIONS: Final = {"isolation_level": "AUTOCOMMIT", "stream_results": False, "yield_per": None}
# The server learns after hours that a client has gone without a word, and its locks keep others
# waiting for as long. Said in each transaction, for a pooler gives the connection to others.
SHORT: Final = "SET LOCAL idle_in_transaction_session_timeout = '5s'"
BEGIN: Final = f"BEGIN ISOLATION LEVEL READ COMMITTED; {SHORT}"


class Executor(Protocol):
    """A connection in AUTOCOMMIT, as scripts need it."""

    @property
    def dialect(self) -> Dialect: ...
    def perform(self, step: Step) -> Any:
        """Execute a step and give what it is executed for; raises SQLAlchemy's exceptions."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commits at its end, and rolls back what raises."""
        ...


def run_script(script: Script[T], executor: Executor) -> T:
    """Run a script to its end in this thread."""
    perform = executor.perform
    answer: Any = None
    failure: Exception | None = None
    while True:
        # Not while the exception is handled: it may hold data, and is no context of what follows.
        try:
            step = script.send(answer) if failure is None else script.throw(failure)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        answer = failure = None
        try:
            answer = perform(step)
        except Exception as error:
            failure = error


def goes_straight(engine: Engine, drivers: frozenset[str] = DRIVERS) -> bool:
    """Whether an engine's driver is one of these, and nobody listens."""
    dialect = engine.dialect
    if dialect.driver not in drivers or engine.logger.isEnabledFor(logging.INFO):
        return False
    # Set with the first listener, of the engine itself or of all engines, and for good.
    if not getattr(engine, "_has_events", True) and not getattr(dialect, "_has_events", True):
        return True
    events: Any = engine.dispatch
    more: Any = getattr(dialect, "dispatch", None)
    return not (
        events.before_cursor_execute
        or events.after_cursor_execute
        or events.before_execute
        or events.after_execute
        or more.do_execute
        or more.do_execute_no_params
        or more.handle_error
    )


def may_begin(engine: Engine) -> bool:
    """Whether somebody hears of each transaction, and may begin one in spite of AUTOCOMMIT: as
    SQLAlchemy's documentation has it for SQLite, and perhaps for all engines of the process.
    """
    events: Any = engine.dispatch
    return bool(events.begin)


def run_committed(work: Callable[[Connection], T], connection: Connection) -> T:
    """Run it on a connection of an engine that ``may_begin``, and commit what was begun."""
    try:
        result = work(connection)
        connection.commit()
    except BaseException:
        if getattr(connection.dialect, "skip_autocommit_rollback", False):
            # The pool would not roll back, and lend it with the transaction still open.
            connection.invalidate()
        raise
    return result


class Straight:
    """By the driver's own cursor."""

    __slots__ = ("_cursor", "_errors", "dialect", "raw")

    def __init__(self, raw: Any, dialect: Dialect) -> None:
        self.raw = raw
        self.dialect = dialect
        self._errors = dialect.loaded_dbapi.Error
        # Of psycopg's, one cursor for all statements: making one takes a third of a statement.
        self._cursor = raw if dialect.name == "sqlite" else raw.cursor()

    def perform(self, step: Step) -> Any:
        text, values, gives = worded(step, self.dialect)
        try:
            cursor = self._cursor.execute(text, values)
            if gives is Gives.COUNT:
                return cursor.rowcount
            if gives is Gives.ROW:
                return cursor.fetchone()
            if gives is Gives.KEY:
                return cursor.fetchone()[0] if cursor.description else cursor.lastrowid
            return cursor.fetchall() if gives is Gives.ROWS else None
        except self._errors as error:
            failure = self._as_sqlalchemys(error)
        raise failure

    def _begin(self) -> None:
        try:
            # Two statements, which can't be prepared.
            self._cursor.execute(BEGIN, prepare=False)
            return
        except self._errors as error:
            failure = self._as_sqlalchemys(error)
        raise failure

    def _as_sqlalchemys(self, error: Any) -> DBAPIError:
        """The exception that SQLAlchemy would have raised, but for statement and parameters."""
        failure = DBAPIError.instance(
            "",
            {},
            error,
            self._errors,
            hide_parameters=True,
            connection_invalidated=self.dialect.is_disconnect(error, self.raw, None),
            dialect=self.dialect,
        )
        assert isinstance(failure, DBAPIError)
        return failure

    @contextmanager
    def transaction(self) -> Iterator[None]:
        # A deferred transaction of SQLite's can fail on its first write (SQLITE_BUSY_SNAPSHOT).
        sqlite = self.dialect.name == "sqlite"
        if sqlite:
            self.perform(Text("BEGIN IMMEDIATE"))
        try:
            if not sqlite:
                self._begin()
            yield
            self.perform(Text("COMMIT"))
        except BaseException:
            # SQLite may have rolled back by itself, and the connection may be lost.
            with suppress(DBAPIError):
                self.perform(Text("ROLLBACK"))
            raise


class Through:
    """Through SQLAlchemy."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def dialect(self) -> Dialect:
        return self.connection.dialect

    def perform(self, step: Step) -> Any:
        connection = self.connection
        if isinstance(step, Text):
            if step.values and connection.dialect.driver == "psycopg":
                teach_psycopg(connection.connection.driver_connection)
            result = connection.exec_driver_sql(step.text, step.values or None)
            gives = step.gives
        else:
            statement, given = step
            parameters = statement.parameters(connection.dialect, given)
            result = connection.execute(statement.clause, parameters)
            gives = statement.gives
        match gives:
            case Gives.ROW:
                found = result.first()
                return None if found is None else tuple(found)
            case Gives.ROWS:
                return [tuple(row) for row in result]
            case Gives.COUNT:
                return result.rowcount
            case Gives.KEY:
                key = result.inserted_primary_key
                return int(key[0]) if key is not None else 0
            case _:
                return None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        connection = self.connection
        if connection.dialect.name == "sqlite":
            # An application's engine may begin one by itself, as SQLAlchemy's documentation has it.
            if not connection.in_transaction():
                connection.begin()
            if getattr(connection.connection.driver_connection, "in_transaction", False):
                connection.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(DBAPIError):
                    connection.exec_driver_sql("ROLLBACK")
                raise
            return
        if connection.in_transaction():
            connection.rollback()
        connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            if connection.dialect.name == "postgresql":
                _shorten(connection)
            yield


def _shorten(connection: Connection) -> None:
    """By the driver's cursor: whoever listens to the engine has not asked for it."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(SHORT)
    finally:
        cursor.close()
