"""A store on the application's own engine, whose transactions and pool stay the application's."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from sqlalchemy import (
    URL,
    NullPool,
    Pool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
    create_engine,
    make_url,
    text,
)
from sqlalchemy.ext.asyncio import create_async_engine

from sessionware import ConfigurationError, StoreUnavailable
from sessionware.stores.protocol import PURGE_LEASE, Row, Store
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from sessionware.testing import caller
from sessionware.testing.support import MINUTE, NOW, following, new_hash, put
from tests.apps import Managers
from tests.byhand import Visitor, storing
from tests.databases import drivers, url_of

SYNC = ("sqlite", "psycopg", "pymysql")
ASYNC = ("asyncpg", "asyncmy")


class Application:
    """An application with an engine, a table of its own, and an open transaction."""

    def __init__(
        self,
        url: URL,
        table_name: str,
        portal: BlockingPortal,
        options: dict[str, Any] | None = None,
        **pool: Any,
    ) -> None:
        self.table = f"{table_name}_app"
        self.is_async = url.get_dialect().is_async
        self._portal = portal
        if url.get_backend_name() == "sqlite":
            pool["connect_args"] = {"timeout": 0.05}
        self.engine: Any = (
            create_async_engine(url, **pool) if self.is_async else create_engine(url, **pool)
        )
        kind: Any = AsyncSQLStore if self.is_async else SQLStore
        made = kind(self.engine.execution_options(**(options or {})), table_name=table_name)
        self.store: Store = caller(made, portal if self.is_async else None)
        self.connection: Any = None
        self.call(self._make_table)

    def call(self, work: Callable[..., Any], *args: Any) -> Any:
        """Run ``work(connection, …)`` in a transaction of its own, and commit."""
        if not self.is_async:
            with self.engine.begin() as connection:
                return work(connection, *args)

        async def run() -> Any:
            async with self.engine.begin() as connection:
                return await connection.run_sync(work, *args)

        return self._portal.call(run)

    def _make_table(self, connection: Any) -> None:
        connection.execute(text(f"CREATE TABLE {self.table} (n INTEGER)"))

    def begin(self, *statements: str) -> None:
        """Open a transaction, run these and leave it open."""
        self.connection = self.engine.connect()
        if self.is_async:
            self._portal.call(self._astart)
        for statement in statements:
            self.run(statement)

    async def _astart(self) -> None:
        await self.connection.start()

    def run(self, statement: str) -> Any:
        """In the open transaction."""
        found = self._on(self.connection, "execute", text(statement))
        return found.scalars().all() if found.returns_rows else None

    def _on(self, connection: Any, name: str, *args: Any) -> Any:
        method = getattr(connection, name)
        return self._portal.call(method, *args) if self.is_async else method(*args)

    def end(self, how: str) -> None:
        """``commit`` or ``rollback``."""
        self._on(self.connection, how)
        self._on(self.connection, "close")
        self.connection = None

    def committed(self) -> list[int]:
        """The rows that others see."""
        query = text(f"SELECT n FROM {self.table} ORDER BY n")
        found: list[int] = self.call(lambda connection: connection.execute(query).scalars().all())
        return found

    def close(self) -> None:
        if self.connection is not None:
            self.end("rollback")
        self.store.close()
        self._on(self.engine, "dispose")


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def make_application(
    driver: str, table_name: str, portal: BlockingPortal, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Application]]:
    made: list[Application] = []

    def make(**pool: Any) -> Application:
        made.append(Application(make_url(url_of(driver, request)), table_name, portal, **pool))
        return made[-1]

    yield make
    for application in made:
        application.close()


def use(store: Store) -> Row:
    """Every kind of write that the store knows; the row that is left."""
    row = put(store)
    second = following(row)
    assert store.replace(row, second, NOW)
    third = following(second, sid_hash=new_hash())
    assert store.rotate(second, third, NOW, NOW + MINUTE)
    fourth = following(third)
    assert store.alter(third, lambda _: (fourth, "done"), NOW, NOW + MINUTE) == "done"
    touched = fourth._replace(last_seen=fourth.last_seen + 1)
    assert store.touch(fourth, touched, NOW)
    assert store.remove(put(store))
    assert store.remove_user("nobody") == []
    store.claim(PURGE_LEASE, NOW, NOW + 1)
    assert store.purge(NOW, 10) == 0
    assert store.load(touched.sid_hash, NOW) == touched
    return touched


@drivers("psycopg", "pymysql", *ASYNC)
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_an_open_transaction_of_the_application_is_neither_committed_nor_rolled_back(
    make_application: Callable[..., Application], ending: str
) -> None:
    application = make_application()
    application.store.prepare()
    application.begin(f"INSERT INTO {application.table} VALUES (1)")

    row = use(application.store)

    assert application.committed() == []
    assert application.run(f"SELECT n FROM {application.table}") == [1]
    application.run(f"INSERT INTO {application.table} VALUES (2)")
    application.end(ending)
    assert application.committed() == ([1, 2] if ending == "commit" else [])
    assert application.store.load(row.sid_hash, NOW) == row


@drivers("sqlite")
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_on_sqlite_a_writing_transaction_of_the_application_makes_writes_fail_and_no_reads(
    make_application: Callable[..., Application], ending: str
) -> None:
    """SQLite has one writer; the store must not end its transaction to become that."""
    application = make_application()
    application.store.prepare()
    row = put(application.store)
    application.begin(f"INSERT INTO {application.table} VALUES (1)")

    assert application.store.load(row.sid_hash, NOW) == row
    for write in (
        lambda: put(application.store),
        lambda: application.store.replace(row, following(row), NOW),
        lambda: application.store.alter(row, lambda _: ("delete", None), NOW, NOW),
    ):
        with pytest.raises(StoreUnavailable):
            write()

    assert application.run(f"SELECT n FROM {application.table}") == [1]
    application.end(ending)
    assert application.committed() == ([1] if ending == "commit" else [])
    assert application.store.load(row.sid_hash, NOW) == row
    use(application.store)


@drivers(*SYNC, *ASYNC)
def test_a_connection_that_the_store_gave_back_is_the_applications_again(
    make_application: Callable[..., Application],
) -> None:
    """Of a pool of one: it has transactions, and none is open."""
    application = make_application(pool_size=1, max_overflow=0)
    application.store.prepare()
    for _ in range(2):
        use(application.store)

        application.begin(f"INSERT INTO {application.table} VALUES (1)")
        application.end("rollback")

        assert application.committed() == []


@drivers(*SYNC, *ASYNC)
def test_what_the_store_wrote_is_there_for_others_at_once(
    make_application: Callable[..., Application],
) -> None:
    application = make_application()
    application.store.prepare()

    row = use(application.store)

    name = application.table.removesuffix("_app")
    query = text(f"SELECT id FROM {name}")
    assert application.call(lambda connection: connection.execute(query).scalars().all()) == [
        row.id
    ]


@drivers(*SYNC, *ASYNC)
@pytest.mark.parametrize("option", ["stream_results", "yield_per"])
def test_an_engine_whose_rows_come_by_and_by_serves_as_any_other(
    make_application: Callable[..., Application], option: str
) -> None:
    """As such they take a transaction, and ours are in AUTOCOMMIT."""
    application = make_application(options={option: 1})
    application.store.prepare()

    use(application.store)


@drivers("sqlite")
@pytest.mark.parametrize("style", ["qmark", "named"])
def test_an_engine_serves_whatever_its_style_of_parameters(
    make_application: Callable[..., Application], style: str
) -> None:
    application = make_application(paramstyle=style)
    application.store.prepare()

    use(application.store)


@drivers(*SYNC, *ASYNC)
def test_closing_the_store_leaves_the_applications_engine_open(
    make_application: Callable[..., Application],
) -> None:
    application = make_application()
    application.store.prepare()
    row = put(application.store)
    application.begin(f"SELECT n FROM {application.table}")

    application.store.close()

    application.run(f"INSERT INTO {application.table} VALUES (1)")
    application.end("commit")
    assert application.committed() == [1]
    assert application.store.load(row.sid_hash, NOW) == row


@pytest.mark.parametrize(
    "pool",
    [
        {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}},
        {"poolclass": SingletonThreadPool},
        {},
    ],
    ids=["for everybody", "for each thread", "for each thread by default"],
)
def test_an_engine_that_has_one_connection_for_everybody_is_refused(pool: dict[str, Any]) -> None:
    """Switching it to AUTOCOMMIT commits whatever transaction the application has open on it."""
    engine = create_engine("sqlite://", **pool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE app (n INTEGER)"))

    with engine.connect() as connection:
        connection.execute(text("INSERT INTO app VALUES (1)"))
        with pytest.raises(ConfigurationError, match="store"):
            SQLStore(engine).prepare()
        connection.rollback()

    with engine.connect() as connection:
        assert connection.execute(text("SELECT n FROM app")).scalars().all() == []
    engine.dispose()


@pytest.mark.parametrize("pool", [NullPool, QueuePool])
@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
def test_an_engine_whose_file_is_not_in_its_url_is_refused(
    tmp_path: Path, pool: type[Pool], address: str
) -> None:
    """Other processes trust the stamps beside a file, which nobody would move."""
    path = tmp_path / "sessions.db"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, check_same_thread=False)

    with pytest.raises(ConfigurationError, match="name the file in the URL too"):
        SQLStore(create_engine(address, creator=connect, poolclass=pool))

    named = SQLStore(create_engine(f"sqlite:///{path}", creator=connect, poolclass=pool))
    assert named.file == str(path)


def test_a_request_waits_no_longer_than_store_timeout_however_long_the_engine_would(
    sqlite_url: str,
) -> None:
    engine = create_engine(sqlite_url, connect_args={"timeout": 30}, hide_parameters=True)
    manager = Managers()(store=engine, store_timeout=0.3)
    visitor = Visitor(manager)
    visitor.visit(storing(a=1))

    with engine.connect() as stranger:
        stranger.exec_driver_sql("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            visitor.visit(storing(b=2))
        waited = time.monotonic() - began
        stranger.rollback()

    assert waited < 5
    manager.shutdown()
    engine.dispose()


@pytest.mark.parametrize("kind", [create_engine, create_async_engine])
@pytest.mark.parametrize(
    ("mapped", "table_name"), [({None: "tenant"}, "sessions"), ({"a": "b"}, "a.sessions")]
)
def test_an_engine_that_maps_the_tables_schema_to_another_is_refused(
    kind: Callable[..., Any], mapped: dict[str | None, str], table_name: str
) -> None:
    """Statements for many sessions would go to the table of that name that is not meant."""
    driver = "psycopg" if kind is create_engine else "asyncpg"
    engine = kind(f"postgresql+{driver}://nobody@127.0.0.1/none")
    mapping = engine.execution_options(schema_translate_map=mapped)
    store: Any = SQLStore if kind is create_engine else AsyncSQLStore

    with pytest.raises(ConfigurationError, match=r'table_name="schema\.name"') as caught:
        store(mapping, table_name=table_name)

    assert caught.value.findings[0].code == "SW022"
    store(mapping, table_name="other.sessions")
    store(mapping.execution_options(schema_translate_map=None), table_name="tenant.sessions")
