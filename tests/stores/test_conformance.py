"""The conformance suite, run by every store and every driver that the library comes with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from sqlalchemy.ext.asyncio import create_async_engine

from sessionware import CachedStore, MemoryStore
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from sessionware.testing import StoreSuite
from tests.services import with_driver


@pytest.fixture
def aiosqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}"


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestSQLiteFile(StoreSuite):
    @pytest.fixture
    def store(self, sqlite_url: str) -> SQLStore:
        return SQLStore(sqlite_url)


class TestSQLiteInMemory(StoreSuite):
    @pytest.fixture
    def store(self) -> SQLStore:
        return SQLStore("sqlite://")


class TestPsycopg(StoreSuite):
    @pytest.fixture
    def store(self, postgres_url: str, postgres_table: str) -> SQLStore:
        return SQLStore(postgres_url, table_name=postgres_table)


class TestPymysql(StoreSuite):
    @pytest.fixture
    def store(self, mysql_url: str, mysql_table: str) -> SQLStore:
        return SQLStore(mysql_url, table_name=mysql_table)


class TestAioSQLiteFile(StoreSuite):
    @pytest.fixture
    def store(self, aiosqlite_url: str) -> AsyncSQLStore:
        return AsyncSQLStore(aiosqlite_url)


class TestPsycopgAsync(StoreSuite):
    @pytest.fixture
    def store(self, postgres_url: str, postgres_table: str) -> AsyncSQLStore:
        url = with_driver(postgres_url, "postgresql+psycopg_async")
        return AsyncSQLStore(url, table_name=postgres_table)


class TestAsyncpgEngine(StoreSuite):
    """With an application's own ``AsyncEngine``; its pool is the application's too."""

    @pytest.fixture
    def store(
        self, postgres_url: str, postgres_table: str, portal: BlockingPortal
    ) -> Iterator[AsyncSQLStore]:
        engine = create_async_engine(with_driver(postgres_url, "postgresql+asyncpg"))
        yield AsyncSQLStore(engine, table_name=postgres_table)
        portal.call(engine.dispose)


class TestAsyncmy(StoreSuite):
    @pytest.fixture
    def store(self, mysql_url: str, mysql_table: str) -> AsyncSQLStore:
        return AsyncSQLStore(with_driver(mysql_url, "mysql+asyncmy"), table_name=mysql_table)


class CachedSuite(StoreSuite):
    own_clock = True


class TestCachedMemory(CachedSuite):
    @pytest.fixture(params=["validate", "bounded"])
    def store(self, request: Any) -> CachedStore:
        return CachedStore(MemoryStore(), coherence=request.param)


class TestCachedSQLite(CachedSuite):
    @pytest.fixture
    def store(self, sqlite_url: str) -> CachedStore:
        return CachedStore(SQLStore(sqlite_url), coherence="validate")


class TestStampedSQLite(CachedSuite):
    @pytest.fixture
    def store(self, sqlite_url: str) -> CachedStore:
        return CachedStore(SQLStore(sqlite_url), coherence="stamps")


class TestStampedSQLiteUnderTrio(CachedSuite):
    asynchronous = True
    backend = "trio"

    @pytest.fixture
    def store(self, sqlite_url: str) -> CachedStore:
        return CachedStore(SQLStore(sqlite_url), coherence="stamps")


class TestStampedAioSQLite(CachedSuite):
    asynchronous = True

    @pytest.fixture
    def store(self, aiosqlite_url: str) -> CachedStore:
        return CachedStore(AsyncSQLStore(aiosqlite_url), coherence="stamps")


class TestNotifiedPsycopg(CachedSuite):
    @pytest.fixture
    def store(self, postgres_url: str, postgres_table: str) -> CachedStore:
        return CachedStore(SQLStore(postgres_url, table_name=postgres_table), coherence="notify")


class TestNotifiedAsyncpg(CachedSuite):
    asynchronous = True

    @pytest.fixture
    def store(self, postgres_url: str, postgres_table: str) -> CachedStore:
        url = with_driver(postgres_url, "postgresql+asyncpg")
        return CachedStore(AsyncSQLStore(url, table_name=postgres_table), coherence="notify")


class TestBoundedSQLiteUnderTrio(CachedSuite):
    asynchronous = True
    backend = "trio"

    @pytest.fixture
    def store(self, sqlite_url: str) -> CachedStore:
        return CachedStore(SQLStore(sqlite_url), coherence="bounded")


class TestCachedAioSQLite(CachedSuite):
    asynchronous = True

    @pytest.fixture
    def store(self, aiosqlite_url: str) -> CachedStore:
        return CachedStore(AsyncSQLStore(aiosqlite_url), coherence="validate")
