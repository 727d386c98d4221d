"""What a driver's exception means for us. Nothing of its text reaches a message: it may hold
data.
"""

from __future__ import annotations

from sqlalchemy.engine import Dialect
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import (
    TimeoutError as PoolTimeout,
)

from ..errors import Contention, OutcomeUnknown, StoreUnavailable

# PostgreSQL SQLSTATEs: deadlock, serialization failure, lock not available.
_UNDONE = "40001"
_CONTENTION_STATES = {"40P01", _UNDONE, "55P03"}
# MySQL error numbers: lock wait timeout, deadlock.
_CONTENTION_NUMBERS = {1205, 1213}
# Failover: the server went read-only or is shutting down. The connection is of no more use.
_STALE_STATES = {"25006", "57P01", "57P02", "57P03"}
_STALE_NUMBERS = {1290, 1053, 1836}
# Each connection of an application's pool finds out for itself.
_MOST_OUTDATED = 16


def sqlstate(error: DBAPIError) -> str | None:
    """The SQLSTATE that the driver gave, if it did."""
    origin = error.orig
    state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
    return state if isinstance(state, str) else None


def _number(error: DBAPIError) -> int | None:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def connection_is_stale(error: DBAPIError) -> bool:
    """Whether the connection answers, but no longer as the primary, or with outdated plans."""
    outdated = _plan_is_outdated(error)
    return outdated or sqlstate(error) in _STALE_STATES or _number(error) in _STALE_NUMBERS


def _plan_is_outdated(error: DBAPIError) -> bool:
    """Whether the statement, prepared before a column was altered, was not begun because of that.
    psycopg would use it for as long as the connection lasts.
    """
    origin = error.orig
    if type(origin).__name__ == "InvalidCachedStatementError":
        return True
    # As asyncpg tells it: the message may be in any language.
    refused_by = getattr(getattr(origin, "diag", None), "source_function", None)
    return sqlstate(error) == "0A000" and refused_by == "RevalidateCachedQuery"


def is_undone(error: Exception) -> bool:
    """Whether PostgreSQL undid it for the sake of other transactions, as it does even with a read
    where the default is SERIALIZABLE. READ COMMITTED never is: a transaction says so for itself,
    since a pooler would give a connection with another default to others.
    """
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    return sqlstate(error) == _UNDONE


def repeats(error: Exception, reading: bool, whole: bool, lost: tuple[type[Exception], ...]) -> int:
    """How often an operation that failed so is worth another try at once.

    ``reading`` says that it changes nothing, ``whole`` that what failed of it did nothing at all.
    """
    if isinstance(error, DBAPIError):
        if _plan_is_outdated(error):
            return _MOST_OUTDATED if reading or whole else 0
        if is_undone(error):
            return 1 if reading or whole else 0
        broke = error.connection_invalidated
    else:
        broke = isinstance(error, lost)
    return 1 if reading and broke else 0


def is_locked(error: Exception) -> bool:
    """Whether SQLite did not get to it, because somebody else was writing."""
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def table_is_missing(error: Exception) -> bool:
    """Whether a table is not there (any more)."""
    if not isinstance(error, DBAPIError):
        return False
    lost = sqlstate(error) == "42P01" or _number(error) == 1146
    return lost or "no such table" in str(error.orig)


# Words of a driver's message -> what they say, without what else the message may hold.
_HINTS = {
    "refused": "connection refused",
    "authentication failed": "wrong user or password",
    "no password supplied": "no password given",
    "Access denied": "wrong user or password",
    "permission denied": "the database user lacks a privilege",
    "command denied": "the database user lacks a privilege",
    "Unknown database": "no such database",
    "unable to open": "the file can't be opened",
    "translate host name": "unknown host",
    "too many clients": "too many connections",
    "Too many connections": "too many connections",
    "connection slots": "too many connections",
    "timeout": "no answer in time",
    "timed out": "no answer in time",
    "max_statement_time": "no answer in time",
}
# What "does not exist" is another thing once there is a statement: a table, for example.
_HINTS_OF_CONNECTING = {"does not exist": "no such database or user"}


def _why(error: DBAPIError) -> str:
    """The driver's words for it as far as they are known to hold no data."""
    parts = [type(error.orig).__name__]
    state = sqlstate(error)
    if state:
        parts.append(f"SQLSTATE {state}")
    name = getattr(error.orig, "sqlite_errorname", None)
    if isinstance(name, str):
        parts.append(name)
    text = str(error.orig)
    hints = _HINTS if error.statement is not None else _HINTS | _HINTS_OF_CONNECTING
    parts.extend(dict.fromkeys(hint for words, hint in hints.items() if words in text))
    return ", ".join(parts)


def broken(dialect: Dialect) -> tuple[type[Exception], ...]:
    """What comes through SQLAlchemy unwrapped when a connection breaks, as while it is switched to
    another isolation level.
    """
    return (OSError, TimeoutError, dialect.loaded_dbapi.Error)


def translate(error: Exception, lost: tuple[type[Exception], ...] = (OSError,)) -> Exception:
    """The error of ours that says what ``error`` means; ``error`` itself if it is none of the
    store's. ``lost`` are the types that stand for a broken connection, see ``broken``.
    """
    if isinstance(error, PoolTimeout):
        return StoreUnavailable("no free connection in the pool")
    if isinstance(error, lost) and not isinstance(error, SQLAlchemyError):
        return OutcomeUnknown(f"the connection failed ({type(error).__name__})")
    if not isinstance(error, DBAPIError):
        if isinstance(error, SQLAlchemyError):
            return StoreUnavailable(f"SQLAlchemy refused ({type(error).__name__})")
        return error
    state = sqlstate(error)
    name = _why(error)
    if error.connection_invalidated:
        return OutcomeUnknown(f"the database connection was lost ({name})")
    if state in _CONTENTION_STATES or _number(error) in _CONTENTION_NUMBERS:
        return Contention(f"other writers were in the way ({name})")
    if isinstance(error, OperationalError | InterfaceError) and error.statement is None:
        return StoreUnavailable(f"the database can't be reached ({name})")
    if table_is_missing(error):
        return StoreUnavailable(f"a table of the sessions is missing ({name})")
    return StoreUnavailable(f"the database refused ({name})")
