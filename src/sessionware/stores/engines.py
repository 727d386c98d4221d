"""From a URL to an engine of our own, set up for sessions: pragmas, time-outs, AUTOCOMMIT."""

from __future__ import annotations

import logging
import math
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, StaticPool, create_engine, event, make_url
from sqlalchemy.exc import DisconnectionError

from ..coherence.stampfile import file_of
from ..errors import ConfigurationError, Finding, StoreUnavailable
from ..events import logger
from .aiosqlites import Opened, is_open

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_LOGGING_NAME = "sessionware"
_SYNCHRONOUS = {"off", "normal", "full", "extra"}


def is_async_url(url: URL) -> bool:
    """Whether the URL's driver speaks asyncio."""
    return bool(url.get_dialect().is_async)


def is_memory(url: URL) -> bool:
    """Whether this is a SQLite database that lives in one connection, however it is spelled."""
    return url.get_backend_name() == "sqlite" and file_of(url.database, url.query) is None


def make_engine(address: str | URL, *, timeout: float, connections: int) -> Engine:
    """An engine for worker threads. ``timeout`` (seconds) bounds connecting and waiting for
    locks.
    """
    url, pragmas = _split_options(make_url(address))
    _keep_rows_out_of_logs()
    engine = create_engine(url, **_options(url, timeout, connections))
    _on_connect(engine, url, pragmas, timeout)
    return engine


def make_async_engine(
    address: str | URL, *, timeout: float, connections: int, opened: Opened | None = None
) -> AsyncEngine:
    """An engine for one running asyncio loop; ``opened`` is to know aiosqlite's connections."""
    from sqlalchemy.ext.asyncio import create_async_engine

    url, pragmas = _split_options(make_url(address))
    _keep_rows_out_of_logs()
    options = _options(url, timeout, connections)
    if opened is not None:
        options["connect_args"]["async_creator_fn"] = opened.create
    engine = create_async_engine(url, **options)
    _on_connect(engine.sync_engine, url, pragmas, timeout)
    if opened is not None:
        event.listen(engine.sync_engine, "checkout", _renew_what_was_closed)
    return engine


def _keep_rows_out_of_logs() -> None:
    """At DEBUG SQLAlchemy logs the rows that it reads, and aiosqlite the values it writes."""
    for name in (f"sqlalchemy.engine.Engine.{_LOGGING_NAME}", "aiosqlite"):
        chatty = logging.getLogger(name)
        if chatty.getEffectiveLevel() < logging.INFO:
            chatty.setLevel(logging.INFO)


def _split_options(url: URL) -> tuple[URL, dict[str, str]]:
    """Take our own options out of the URL: ``?synchronous=full`` for SQLite."""
    pragmas: dict[str, str] = {"synchronous": "normal"}
    if url.get_backend_name() == "sqlite" and "synchronous" in url.query:
        wanted = str(url.query["synchronous"]).lower()
        if wanted not in _SYNCHRONOUS:
            raise ConfigurationError(
                [
                    Finding(
                        "SW023",
                        "store",
                        "the URL's synchronous= is not a level that SQLite knows.",
                        f"use one of {', '.join(sorted(_SYNCHRONOUS))}.",
                    )
                ]
            )
        pragmas["synchronous"] = wanted
        url = url.difference_update_query(["synchronous"])
    return url, pragmas


def _options(url: URL, timeout: float, connections: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "hide_parameters": True,
        "logging_name": _LOGGING_NAME,
        "connect_args": _connect_args(url, timeout),
    }
    if is_memory(url):
        options["poolclass"] = StaticPool
        options["connect_args"]["check_same_thread"] = False
    else:
        # How many are in use at once is bounded by who lends them (`Lender`, `Place`). A pool that
        # bounds them too lets wait for ever who waits while it is emptied.
        options |= {"pool_size": connections, "max_overflow": -1}
    return options


def _connect_args(url: URL, timeout: float) -> dict[str, Any]:
    """Time-outs of the driver, so that a dead network frees its connection. A URL's own win."""
    whole = max(1, math.ceil(timeout))
    arguments: dict[str, Any] = {}
    match url.get_driver_name():
        case "psycopg" | "psycopg2" | "psycopg_async":
            arguments = {
                "connect_timeout": max(2, whole),
                "keepalives_idle": 5,
                "keepalives_interval": 1,
                "keepalives_count": 3,
                "tcp_user_timeout": int(timeout * 1000),
            }
        case "asyncpg":
            arguments = {"timeout": timeout, "command_timeout": timeout}
        case "pymysql":
            arguments = {"connect_timeout": whole, "read_timeout": whole, "write_timeout": whole}
            arguments["init_command"] = _give_up_sooner(timeout)
        case "asyncmy":
            arguments = {"connect_timeout": whole, "read_timeout": timeout}
            arguments["init_command"] = _give_up_sooner(timeout)
        case "aiomysql":
            arguments = {"connect_timeout": whole, "init_command": _give_up_sooner(timeout)}
        case "pysqlite" | "aiosqlite":
            # A little less than the request waits, so that the answer is "locked", not silence.
            arguments = {"timeout": max(0.05, timeout * 0.9)}
    return {name: value for name, value in arguments.items() if name not in url.query}


def _give_up_sooner(timeout: float) -> str:
    """For MySQL and MariaDB: the server goes on waiting for a lock when its client has gone, and
    then does what was given up, unknown to anybody. MySQL and MariaDB before 10.1.1, for which the
    last is a comment, know whole seconds only.
    """
    whole = max(1, math.ceil(timeout) - 1)
    return (
        f"SET SESSION innodb_lock_wait_timeout = {whole}, lock_wait_timeout = {whole}"
        f" /*M!100101 , max_statement_time = {timeout * 0.9:.3f} */"
    )


def create_private_file(url: URL) -> None:
    """Make the SQLite file with mode 0600 before SQLite makes it: session data is nobody else's.

    Raises ``StoreUnavailable`` if it can't be made.
    """
    path = _file_to_make(url)
    if path is None:
        return
    reason = None
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        reason = f"the SQLite file can't be created ({error.strerror})"
    if reason is not None:
        raise StoreUnavailable(reason)
    _check_file(path)


def _file_to_make(url: URL) -> str | None:
    if url.get_backend_name() != "sqlite":
        return None
    path = file_of(url.database, url.query)
    options = f"{url.database}&mode={url.query.get('mode')}" if path != url.database else ""
    # So opened, SQLite makes none either.
    return None if re.search(r"[?&]mode=r[ow](&|$)", options) else path


def _check_file(path: str) -> None:
    """Warn if others on this machine can read the sessions, or replace the file (SW023)."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        return
    mode = stat.S_IMODE(mode)
    if mode & 0o077:
        logger.warning(
            "SW023 store: the SQLite file can be read by others (mode %o): chmod 600 it.", mode
        )
    folder = os.stat(os.path.dirname(os.path.abspath(path))).st_mode
    if folder & stat.S_IWOTH:
        logger.warning("SW023 store: the SQLite file's folder is writable by everybody: move it.")


def _on_connect(engine: Engine, url: URL, pragmas: dict[str, str], timeout: float) -> None:
    if url.get_backend_name() != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def pragma(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        try:
            _write_ahead(cursor, timeout, pause=0 if is_async_url(url) else 0.01)
            cursor.execute(f"PRAGMA synchronous={pragmas['synchronous']}")
        finally:
            cursor.close()


def _renew_what_was_closed(connection: Any, *_: object) -> None:
    if not is_open(connection.driver_connection._conn):
        raise DisconnectionError


def _write_ahead(cursor: Any, timeout: float, pause: float) -> None:
    """Switch to WAL. Several processes that start at once can find it locked: no busy handler
    there.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            if pause:
                time.sleep(pause)
