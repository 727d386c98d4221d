"""Statements on a connection that others have a say in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from sqlalchemy import Connection, Engine, event, make_url

from sessionware import StoreUnavailable
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from sessionware.testing import caller
from sessionware.testing.support import MINUTE, NOW, new_hash, put
from tests.databases import drivers


@pytest.fixture
def begun_by_listeners() -> Iterator[None]:
    """As SQLAlchemy's documentation has it for SQLite, but for all engines of the process."""

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    event.listen(Engine, "begin", begin)
    yield
    event.remove(Engine, "begin", begin)


@pytest.fixture
def store(driver: str, url: str) -> Iterator[Any]:
    """A store with an engine of its own."""
    with start_blocking_portal() as portal:
        store: Any = SQLStore(url) if driver == "sqlite" else caller(AsyncSQLStore(url), portal)
        yield store
        store.close()


@pytest.fixture
def strangers(url: str) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's, in AUTOCOMMIT."""
    connection = sqlite3.connect(str(make_url(url).database), isolation_level=None, timeout=0)
    yield connection
    connection.close()


@drivers("sqlite", "aiosqlite")
@pytest.mark.usefixtures("begun_by_listeners")
def test_what_is_acknowledged_is_committed_whatever_listeners_begin(
    store: Any, strangers: sqlite3.Connection
) -> None:
    store.prepare()
    lease = new_hash()
    gone, stays = put(store, user_id="alice"), put(store, user_id="bob")

    assert store.claim(lease, NOW, NOW + MINUTE)
    assert store.remove_user("alice") == [gone.sid_hash]

    assert strangers.execute("SELECT id FROM sessions").fetchall() == [(stays.id,)]
    leases = strangers.execute("SELECT sid_hash, until FROM sessions_retired").fetchall()
    assert leases == [(lease, NOW + MINUTE)]


@drivers("sqlite", "aiosqlite")
@pytest.mark.usefixtures("begun_by_listeners")
def test_what_failed_leaves_no_transaction_open_whatever_listeners_begin(
    store: Any, strangers: sqlite3.Connection
) -> None:
    """The pool would lend the connection again, and with it the lock of the whole file."""
    store.prepare()
    put(store)
    strangers.execute(
        "CREATE TRIGGER kept BEFORE DELETE ON sessions BEGIN SELECT RAISE(FAIL, 'kept'); END"
    )

    with pytest.raises(StoreUnavailable):
        store.remove_all()

    strangers.execute("DROP TRIGGER kept")
    assert store.remove_all() == 1
