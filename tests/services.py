"""The database servers that tests talk to: where they are, and whether they answer.

Each has an environment variable for its URL; its value `off` is the same as an unreachable server.
Without a server the test is skipped, or fails if SESSIONWARE_REQUIRE_SERVICES=1 (as CI sets it).
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

import pytest
from sqlalchemy import Engine, NullPool, create_engine, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

PROBE_TIMEOUT = 2
"""Seconds that a server has to answer the first time it is needed."""


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    variable: str
    default_url: str

    @property
    def url(self) -> str:
        return os.environ.get(self.variable) or self.default_url


@dataclass(frozen=True, slots=True)
class SqlService(Service):
    sync_driver: str
    patience: str
    """The statement that makes a DROP TABLE give up instead of waiting for a leaked transaction."""


POSTGRES = SqlService(
    "PostgreSQL",
    "SESSIONWARE_TEST_POSTGRES",
    "postgresql+psycopg://postgres@127.0.0.1:5432/test",
    sync_driver="postgresql+psycopg",
    patience="SET lock_timeout = '5s'",
)
MYSQL = SqlService(
    "MariaDB",
    "SESSIONWARE_TEST_MYSQL",
    "mysql+pymysql://root@127.0.0.1:3306/test",
    sync_driver="mysql+pymysql",
    patience="SET SESSION lock_wait_timeout = 5",
)
REDIS = Service("Redis", "SESSIONWARE_TEST_REDIS", "redis://127.0.0.1:6379/0")


def with_driver(url: str, drivername: str) -> str:
    """The same server through another driver: `with_driver(url, "postgresql+asyncpg")`."""
    return make_url(url).set(drivername=drivername).render_as_string(hide_password=False)


def require(service: Service) -> str:
    """The service's URL; skips or fails the test when nothing answers there."""
    problem = _problem(service)
    if problem is not None:
        unavailable(f"{service.name}: {problem} (set {service.variable} to its URL)")
    return service.url


def unavailable(reason: str) -> NoReturn:
    """End a test whose surroundings are missing: fail where they were promised, skip elsewhere."""
    if os.environ.get("SESSIONWARE_REQUIRE_SERVICES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def drop_tables(service: SqlService, prefix: str) -> None:
    """Drop every table whose name begins with `prefix`."""
    engine = _engine(service)
    with engine.begin() as connection:
        connection.exec_driver_sql(service.patience)
        quote = engine.dialect.identifier_preparer.quote
        for name in _with_prefix(inspect(connection).get_table_names(), prefix):
            connection.exec_driver_sql(f"DROP TABLE {quote(name)}")


def _with_prefix(names: Iterable[str], prefix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


@functools.cache
def _problem(service: Service) -> str | None:
    if service.url == "off":
        return "switched off"
    try:
        if isinstance(service, SqlService):
            with _engine(service).connect():
                pass
        else:
            _ping_redis(make_url(service.url))
    except (SQLAlchemyError, OSError, ImportError) as error:
        return f"not reachable ({type(error).__name__})"
    return None


@functools.cache
def _engine(service: SqlService) -> Engine:
    url = make_url(service.url).set(drivername=service.sync_driver)
    timeout: dict[str, Any] = {"connect_timeout": PROBE_TIMEOUT}
    return create_engine(url, poolclass=NullPool, connect_args=timeout)


def _ping_redis(url: URL) -> None:
    address = (url.host or "127.0.0.1", url.port or 6379)
    with socket.create_connection(address, timeout=PROBE_TIMEOUT) as connection:
        connection.sendall(b"PING\r\n")
        # A server that wants a password says -NOAUTH: it is there all the same.
        if not connection.recv(64).startswith((b"+PONG", b"-NOAUTH")):
            raise ConnectionError("no answer to PING")


AS_STARLETTE_DOES = pytest.mark.skipif(
    tuple(map(int, version("starlette").split(".")[:2])) < (1, 10),
    reason="the promise is to be a drop-in for Starlette 1.10; older ones behave differently",
)
"""For tests that take the installed Starlette for the measure."""
