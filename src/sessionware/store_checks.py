"""The checks of what names a store, a table and a way of coherence: for the settings, and for a
store that is made by hand.
"""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from . import checks
from .checks import Report, kind, member, show
from .errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

    from .coherence.slots import Channel

_COHERENCE = ("auto", "stamps", "validate", "notify", "bounded")
_TABLE_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,46}")
# The extra of each tested kind of database, with the drivers that it brings.
_EXTRAS = {
    "sqlite": ("aiosqlite", "sqlite+aiosqlite"),
    "postgresql": ("postgres", "postgresql+psycopg and postgresql+asyncpg"),
    "mysql": ("mysql", "mysql+pymysql and mysql+asyncmy"),
    "mariadb": ("mysql", "mariadb+pymysql and mariadb+asyncmy"),
}


def check_sql_store(
    *, table_name: object, create_table: object, timeout: object, connections: object
) -> tuple[str, float]:
    """The name of the table and the time-out in seconds.

    Raises ``ConfigurationError`` with everything that is wrong with a store in SQL.
    """
    report = Report()
    name = checked_table_name(report, table_name)
    checks.flag(report, "create_table", create_table)
    seconds = checks.seconds(report, "SW042", "timeout", timeout, zero=False, fallback=0.0)
    if not checks.is_whole(connections, 1):
        message = f"{show(connections)} is no number of connections."
        report.refuse("SW042", "connections", message, "pass an int of 1 or more.")
    _raise(report)
    return name, seconds


def check_cached_store(
    store: object,
    *,
    cache_ttl: object,
    cache_max_bytes: object,
    coherence: object,
    store_timeout: object,
) -> tuple[float, int, str | Channel, float]:
    """What is given besides the store, as it is used: times are seconds.

    Raises ``ConfigurationError`` with everything that is wrong with a cache in front of a store.
    """
    report = Report()
    _check_store_object(report, store)
    checked = (
        checks.seconds(report, "SW015", "cache_ttl", cache_ttl, zero=True, fallback=0.0),
        checks.size(report, "SW018", "cache_max_bytes", cache_max_bytes, 0, 2**63 - 1),
        checked_coherence(report, coherence),
        checks.seconds(report, "SW042", "store_timeout", store_timeout, zero=False, fallback=0.0),
    )
    _raise(report)
    return checked


def _raise(report: Report) -> None:
    if report.refused:
        raise ConfigurationError(report.refused)


def checked_coherence(report: Report, value: object) -> str | Channel:
    if isinstance(value, str) and value in _COHERENCE:
        return checks.plain(value)
    if callable(member(value, "trusts")) and not isinstance(value, type):
        return cast("Channel", value)
    name = value[:40].lower() if isinstance(value, str) else ""
    nearest = difflib.get_close_matches(name, _COHERENCE, n=1)
    names = ", ".join(f'"{each}"' for each in _COHERENCE)
    message = f"{show(value)} is no way to keep caches coherent."
    fix = f'did you mean "{nearest[0]}"?' if nearest else f"use one of {names}, or a RedisChannel."
    report.refuse("SW017", "coherence", message, fix)
    return "validate"


def checked_listen_url(report: Report, value: object) -> str | URL | None:
    """A direct connection for LISTEN, where the store's goes through a pooler."""
    if value is None:
        return None
    from sqlalchemy import URL, make_url

    if isinstance(value, str | URL):
        with suppress(Exception):
            if make_url(value).get_backend_name() == "postgresql":
                return value
    fix = 'pass one such as "postgresql+psycopg://user@host/name", or None: the same as the store.'
    report.refuse("SW017", "listen_url", "it is no URL of a PostgreSQL database.", fix)
    return None


def checked_table_name(report: Report, value: object) -> str:
    if isinstance(value, str) and _TABLE_NAME.fullmatch(value):
        return checks.plain(value)
    message = "it must be a plain SQL name of at most 47 characters, a schema before it allowed."
    fix = 'pass ASCII letters, digits and _, such as "sessions" or "auth.sessions".'
    report.refuse("SW042", "table_name", message, fix)
    return "sessions"


def checked_store(report: Report, value: object) -> Any:
    """A URL, an engine or an object with the store protocol: M21, M22, M30, M31."""
    origins = [str(member(base, "__module__")) for base in type(value).__mro__]
    if not (isinstance(value, str) or any(each.startswith("sqlalchemy.") for each in origins)):
        _check_store_object(report, value)
        return value
    from sqlalchemy import URL, Engine

    sync = member(value, "sync_engine") if _is_async_engine(value, origins) else value
    if isinstance(value, str | URL):
        _check_url(report, value)
    elif isinstance(sync, Engine):
        if member(sync, "echo") or not member(sync, "hide_parameters"):
            message = "with echo on or hide_parameters off, session data will reach the log."
            fix = "make it with create_engine(..., echo=False, hide_parameters=True)."
            report.warn("SW030", "store", message, fix)
        url = member(sync, "url")
        if isinstance(url, URL):
            _check_database(report, url)
    else:
        message = f"{kind(value)} is part of the application's own transactions."
        report.refuse("SW031", "store", message, "pass the Engine or AsyncEngine.")
    return value


def _check_store_object(report: Report, value: object) -> None:
    methods = [member(value, name) for name in ("load", "aload")]
    if isinstance(value, type) or not any(map(callable, methods)):
        message = f"{kind(value)} is not a store: it has no load() and no aload()."
        fix = 'pass a URL such as "sqlite:///sessions.db", an Engine, or an instance of a store.'
        report.refuse("SW031", "store", message, fix)


def _is_async_engine(value: object, origins: list[str]) -> bool:
    # Imported only where it is in use already: it needs greenlet.
    if not any(origin.startswith("sqlalchemy.ext.asyncio") for origin in origins):
        return False
    from sqlalchemy.ext.asyncio import AsyncEngine

    return isinstance(value, AsyncEngine)


def _check_url(report: Report, value: str | URL) -> None:
    from sqlalchemy import make_url

    backend = ""
    try:
        url = make_url(value)
        backend = url.drivername.split("+")[0]
        dialect = url.get_dialect()
        dialect.import_dbapi()
        if dialect.is_async:
            # Without it SQLAlchemy fails at the first use: not every driver brings it along.
            import_module("greenlet")
    except ImportError:
        fix = "install the driver that the URL names."
        if backend in _EXTRAS:
            fix = 'pip install "sessionware[{}]", for URLs of {}.'.format(*_EXTRAS[backend])
        message = "the driver for this database, or what it needs, is not installed."
        report.refuse("SW021", "store", message, fix)
    except Exception:
        # A dialect is anybody's code, and SQLAlchemy raises several types for a bad name.
        fix = 'pass a URL such as "sqlite:///sessions.db" or "postgresql+psycopg://user@host/name".'
        if backend == "postgres":
            fix = "write postgresql+psycopg:// in place of postgres://"
        message = "it is no database URL, or of a kind that SQLAlchemy doesn't know."
        report.refuse("SW021", "store", message, fix)
    else:
        _check_database(report, url)


def _check_database(report: Report, url: URL) -> None:
    backend, database = url.get_backend_name(), url.database or ":memory:"
    if backend not in _EXTRAS:
        message = "sessionware is not tested with this kind of database."
        report.warn("SW021", "store", message, "use SQLite, PostgreSQL, MySQL or MariaDB.")
    in_memory = ":memory:" in database or url.query.get("mode") == "memory"
    if backend == "sqlite" and in_memory:
        message = "a database in memory belongs to one process, and is gone with it."
        fix = 'use a file, such as "sqlite:///sessions.db", except in tests.'
        report.warn("SW022", "store", message, fix)
