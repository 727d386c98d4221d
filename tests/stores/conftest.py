"""Stores and tables; one table a server for the whole run, for creating tables is slow."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster
from sqlalchemy import Engine, NullPool, create_engine, delete

from sessionware.stores.protocol import Row, Store
from sessionware.stores.sql import SQLStore
from sessionware.testing.support import put
from tests import services
from tests.databases import url_of
from tests.services import SqlService


@pytest.fixture(autouse=True)
def drivers_may(blockbuster: BlockBuster) -> None:
    """What drivers do once a connection or an engine, in microseconds, and nobody can change."""
    for function in blockbuster.functions.values():
        function.can_block_in("/asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
    blockbuster.functions["os.path.abspath"].can_block_in(
        "/sqlalchemy/dialects/sqlite/pysqlite.py", {"create_connect_args"}
    )


class SharedTable:
    def __init__(self, service: SqlService) -> None:
        self.url = services.require(service)
        self.name = f"sw_{uuid.uuid4().hex[:12]}"
        self._engine = create_engine(self.url)
        store = SQLStore(self._engine, table_name=self.name)
        store.prepare()
        self._tables = store.scripts.schema.sessions, store.scripts.schema.retired

    def emptied(self) -> str:
        with self._engine.begin() as connection:
            for table in self._tables:
                connection.execute(delete(table))
        return self.name

    def drop(self, service: SqlService) -> None:
        self._engine.dispose()
        services.drop_tables(service, self.name)


def _shared(service: SqlService) -> Iterator[SharedTable]:
    table = SharedTable(service)
    yield table
    table.drop(service)


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[SharedTable]:
    yield from _shared(services.POSTGRES)


@pytest.fixture(scope="session")
def shared_mysql() -> Iterator[SharedTable]:
    yield from _shared(services.MYSQL)


@pytest.fixture
def postgres_table(postgres_url: str, shared_postgres: SharedTable) -> str:
    """The name of an empty table on PostgreSQL."""
    return shared_postgres.emptied()


@pytest.fixture
def mysql_table(mysql_url: str, shared_mysql: SharedTable) -> str:
    """The name of an empty table on MariaDB."""
    return shared_mysql.emptied()


@pytest.fixture
def url(driver: str, request: pytest.FixtureRequest) -> str:
    return url_of(driver, request)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An engine to look at the database with, and no part of the store."""
    engine = create_engine(url, poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def open_store() -> Iterator[Callable[..., SQLStore]]:
    """Opens stores, and closes them in the end."""
    stores: list[SQLStore] = []

    def open_one(*args: Any, **options: Any) -> SQLStore:
        stores.append(SQLStore(*args, **options))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def prepare_and_put(store: Store) -> bool:
    """What each of several does that start at once."""
    store.prepare()
    return put(store).id > 0


def put_prepared(store: Store) -> Row:
    """A row in a store that was not ready yet."""
    store.prepare()
    return put(store)
