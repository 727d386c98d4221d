"""What one batch of a purge costs a database, and what becomes of rows that others are at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from sqlalchemy import Engine, NullPool, create_engine, event, insert, make_url, select, update

from sessionware.stores.protocol import PURGE_LEASE
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from sessionware.testing.calls import caller
from sessionware.testing.support import HOUR, MINUTE, NOW, SPENT, new_hash, put
from tests.databases import drivers

ASYNC = ("aiosqlite", "asyncpg", "asyncmy")
at_once = drivers("sqlite", "aiosqlite", "psycopg", "asyncpg")
all_drivers = drivers("sqlite", "aiosqlite", "psycopg", "asyncpg", "pymysql", "asyncmy")


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """To look at the database with."""
    plain = {"aiosqlite": "pysqlite", "asyncpg": "psycopg", "asyncmy": "pymysql"}
    made = make_url(url)
    name, _, driver = made.drivername.partition("+")
    engine = create_engine(
        made.set(drivername=f"{name}+{plain.get(driver, driver or 'pysqlite')}"),
        poolclass=NullPool,
    )
    yield engine
    engine.dispose()


@pytest.fixture
def inner(driver: str, url: str, table_name: str) -> Any:
    made = AsyncSQLStore if driver in ASYNC else SQLStore
    return made(url, table_name=table_name)


@pytest.fixture
def store(inner: Any, driver: str, portal: BlockingPortal) -> Iterator[Any]:
    """A store of plain methods, ready."""
    subject = caller(inner, portal if driver in ASYNC else None)
    subject.prepare()
    yield subject
    subject.close()


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The verb and the table's kind of every statement, whichever engine sends it."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        words = text.split()
        kind = "retired" if "_retired" in text else "sessions"
        seen.append(f"{words[0]} {kind}")

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def bury(store: Any, until: int) -> bytes:
    """A tombstone, or a lease."""
    key = new_hash()
    assert store.claim(key, NOW - HOUR, until)
    return key


def retired(engine: Engine, inner: Any) -> set[bytes]:
    with engine.connect() as connection:
        return set(connection.execute(select(inner.scripts.schema.retired.c.sid_hash)).scalars())


@at_once
@pytest.mark.parametrize("rows", [0, 3, 700])
def test_a_batch_is_two_deletions_however_many_rows_it_has(
    store: Any, inner: Any, engine: Engine, statements: list[str], rows: int
) -> None:
    fill(engine, inner, rows)
    statements.clear()

    assert store.purge(NOW, 1000) == rows

    assert [each for each in statements if each != "PRAGMA sessions"] == [
        "DELETE sessions",
        "DELETE retired",
    ]


def fill(engine: Engine, inner: Any, rows: int) -> None:
    table = inner.scripts.schema.sessions
    common = {"version": 1, "epoch": 0, "data": b"", "created_at": 1, "last_seen": 1, **SPENT}
    if rows:
        with engine.begin() as connection:
            values = [{"sid_hash": new_hash(), **common} for _ in range(rows)]
            connection.execute(insert(table), values)


@drivers("sqlite", "aiosqlite")
def test_on_sqlite_the_whole_table_is_looked_through_before_anything_is_locked(
    store: Any, statements: list[str]
) -> None:
    put(store, expires_at=NOW, purge_after=NOW + HOUR)
    statements.clear()

    assert store.purge(NOW, 1000, True) == 1

    assert statements[0] == "SELECT sessions"


def test_writers_go_on_while_the_whole_table_is_looked_through(
    open_store: Callable[..., SQLStore], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sqlite_url)
    store.prepare()
    looking, written = threading.Event(), threading.Event()
    spent = type(store.scripts).spent

    def slowly(*args: Any) -> list[int]:
        looking.set()
        assert written.wait(5)
        return spent(*args)

    monkeypatch.setattr(type(store.scripts), "spent", slowly)
    purge = threading.Thread(target=store.purge, args=(NOW, 10, True))
    purge.start()
    assert looking.wait(5)
    put(store)
    written.set()
    purge.join(5)

    assert not purge.is_alive()


@all_drivers
@pytest.mark.parametrize("exact", [False, True])
def test_tombstones_go_in_batches_and_the_lease_on_purging_stays(
    store: Any, inner: Any, engine: Engine, exact: bool
) -> None:
    standing = {bury(store, NOW + 1), PURGE_LEASE}
    assert store.claim(PURGE_LEASE, NOW - HOUR, NOW - MINUTE)
    for _ in range(5):
        bury(store, NOW)

    assert [store.purge(NOW, 2, exact) for _ in range(2)] == [0, 0]
    assert len(retired(engine, inner)) == 3
    assert store.purge(NOW, 2, exact) == 0

    assert retired(engine, inner) == standing


@all_drivers
def test_tombstones_that_sessions_leave_behind_go_in_batches_of_their_own(
    store: Any, inner: Any, engine: Engine
) -> None:
    standing = {bury(store, NOW + 1), PURGE_LEASE}
    assert store.claim(PURGE_LEASE, NOW - HOUR, NOW - MINUTE)
    for _ in range(5):
        bury(store, NOW)

    assert [store.purge_retired(NOW, 2) for _ in range(3)] == [2, 2, 1]

    assert retired(engine, inner) == standing


@drivers("psycopg", "asyncpg")
@pytest.mark.parametrize("exact", [False, True])
def test_rows_that_somebody_else_is_at_neither_hold_a_batch_up_nor_count(
    store: Any, inner: Any, engine: Engine, exact: bool
) -> None:
    rows = [put(store, expires_at=NOW, purge_after=NOW - HOUR + each) for each in range(6)]
    table = inner.scripts.schema.sessions
    with engine.begin() as other:
        touched = update(table).where(table.c.id.in_([row.id for row in rows[:2]]))
        other.execute(touched.values(expires_at=NOW + HOUR))

        # Full, in spite of the two that come first: the purge goes on.
        assert store.purge(NOW, 3, exact) == 3
        assert store.purge(NOW, 3, exact) == 1

    assert store.purge(NOW, 3, exact) == 0
    assert [store.reload(row.id) is not None for row in rows] == [True] * 2 + [False] * 4


@all_drivers
def test_a_row_that_was_touched_after_it_had_been_found_is_kept(
    store: Any, inner: Any, driver: str, portal: BlockingPortal
) -> None:
    """Where a batch is found first and deleted then."""

    def execute(*call: Any) -> Any:
        if driver in ASYNC:
            return portal.call(inner.aexecute, *call)
        return inner.execute(*call)

    row, other = (put(store, expires_at=NOW, purge_after=NOW) for _ in range(2))
    found = execute("spent", NOW, 10, False)
    assert found == [row.id, other.id]
    renewed = row._replace(last_seen=NOW + 1, expires_at=NOW + HOUR)
    assert store.touch(row, renewed, NOW - 1)

    assert execute("delete_spent", found, NOW, 10) == 1

    assert store.reload(row.id) == renewed
    assert store.reload(other.id) is None


@pytest.mark.parametrize("exact", [False, True])
def test_on_sqlite_the_wal_is_copied_while_others_may_write(
    open_store: Callable[..., SQLStore], sqlite_url: str, exact: bool
) -> None:
    store = open_store(sqlite_url)
    store.prepare()
    put(store, **SPENT)
    held: list[bool] = []

    def note(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        if "wal_checkpoint" in text:
            held.append(store._writing.lock.locked())

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert store.purge(NOW, 10, exact) == 1
        assert store.purge(NOW, 10, exact) == 0
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    # And only after something has been deleted.
    assert held == [False]


def test_an_application_whose_engine_begins_by_itself_can_be_purged(
    open_store: Callable[..., SQLStore], sqlite_url: str
) -> None:
    """SQLite copies no WAL in a transaction; that is no failure of the purge's."""
    application = create_engine(sqlite_url)
    event.listen(application, "begin", lambda plain: plain.exec_driver_sql("BEGIN"))
    store = open_store(application)
    store.prepare()
    row = put(store, **SPENT)

    assert store.purge(NOW, 10) == 1

    assert store.reload(row.id) is None
    application.dispose()
