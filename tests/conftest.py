"""Fixtures for every test: a folder of its own, no blocking of the event loop, the servers."""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import sqlite3.dbapi2
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from blockbuster import BlockBuster, BlockBusterFunction
from starlette.testclient import TestClient

from tests import services
from tests.byhand import Clock
from tests.services import SqlService

SERVICE_FIXTURES = {"postgres_url": "postgres", "mysql_url": "mysql", "redis_url": "redis"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for a server by fixture, so that `-m "not postgres"` finds them."""
    for item in items:
        for fixture in SERVICE_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(SERVICE_FIXTURES[fixture])


def pytest_collection_finish() -> None:
    """Keep all that is there by now out of the collections and searches that tests make: each would
    go through ten thousand tests and what they import.
    """
    # When it is imported it looks for what refers to `random`, and finds nothing that is frozen.
    importlib.import_module("hypothesis")
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a new folder: the default store is a file in the current one."""
    monkeypatch.chdir(tmp_path)


@functools.cache
def prepared_detector() -> BlockBuster:
    """What every test's detector begins with; to make it takes longer than many a test."""
    detector = BlockBuster("sessionware")
    for module, name in ((sqlite3, "connect"), (sqlite3.dbapi2, "connect"), (psycopg, "connect")):
        detector.functions[f"{module.__name__}.{name}"] = BlockBusterFunction(
            module, name, scanned_modules="sessionware"
        )
    for function in detector.functions.values():
        function.can_block_in("<frozen importlib._bootstrap>", {"_find_and_load"})
    # Only relative paths ask the operating system, once an engine.
    detector.functions["os.path.abspath"].can_block_in(
        "/sqlalchemy/dialects/sqlite/pysqlite.py", {"create_connect_args"}
    )
    # Starlette's own exceptions, see its tests/conftest.py.
    detector.functions["os.stat"].can_block_in("/mimetypes.py", {"init"})
    detector.functions["io.BufferedReader.read"].can_block_in(
        "/starlette/testclient.py", {"receive"}
    )
    return detector


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail whatever blocks a running asyncio loop with a frame of sessionware on the stack.

    Beyond blockbuster's own list (sockets, files, SQLite statements, locks, sleep) it refuses to
    open a SQLite file and to connect with psycopg, whose C code blocks unseen.
    """
    detector = copy.copy(prepared_detector())
    detector.functions = {name: copy.copy(each) for name, each in detector.functions.items()}
    for function in detector.functions.values():
        # What a test allows is allowed in that test.
        function.can_block_functions = list(function.can_block_functions)
    detector.activate()
    try:
        yield detector
    finally:
        detector.deactivate()


@pytest.fixture
def test_client_factory(
    anyio_backend_name: Literal["asyncio", "trio"], anyio_backend_options: dict[str, Any]
) -> Callable[..., TestClient]:
    """Starlette's test client; a test that asks for it runs on asyncio and again on trio."""
    return functools.partial(
        TestClient, backend=anyio_backend_name, backend_options=anyio_backend_options
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that sessionware sees, which stands still until the test moves it."""
    fake = Clock()
    monkeypatch.setattr("sessionware.clock.now", fake)
    return fake


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sessions.db'}"


@pytest.fixture
def servers_used() -> set[SqlService]:
    """The SQL servers that this test has asked for."""
    return set()


@pytest.fixture
def table_name(servers_used: set[SqlService]) -> Iterator[str]:
    """A table name that no other test has; dropped afterwards with all that begin with it."""
    name = f"sw_{uuid.uuid4().hex[:12]}"
    yield name
    for service in servers_used:
        services.drop_tables(service, name)


@pytest.fixture
def postgres_url(servers_used: set[SqlService]) -> str:
    """`postgresql+psycopg://…`; for asyncpg see `services.with_driver`."""
    url = services.require(services.POSTGRES)
    servers_used.add(services.POSTGRES)
    return url


@pytest.fixture
def mysql_url(servers_used: set[SqlService]) -> str:
    """`mysql+pymysql://…`; for asyncmy see `services.with_driver`."""
    url = services.require(services.MYSQL)
    servers_used.add(services.MYSQL)
    return url


@pytest.fixture
def redis_url() -> str:
    return services.require(services.REDIS)
