"""Deleting every row: in batches, of what was there at the beginning, and told after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from sqlalchemy import Engine, event

from sessionware import CachedStore
from sessionware.errors import StoreUnavailable
from sessionware.stores.base import SQLBase
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from sessionware.testing.calls import caller
from sessionware.testing.support import NOW, put
from tests.databases import drivers

ASYNC = ("aiosqlite", "asyncpg", "asyncmy")
BATCH = 2


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SQLBase, "purge_batch", BATCH)


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def store(driver: str, url: str, table_name: str, portal: BlockingPortal) -> Iterator[Any]:
    """A cached store of plain methods, ready."""
    made = AsyncSQLStore if driver in ASYNC else SQLStore
    cached = CachedStore(made(url, table_name=table_name), coherence="validate")
    subject: Any = caller(cached, portal if driver in ASYNC else None)
    subject.prepare()
    yield subject
    subject.close()


@pytest.fixture
def deletions() -> Iterator[list[int]]:
    """How many rows each statement deleted, whichever engine sends it."""
    seen: list[int] = []

    def note(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        if text.startswith("DELETE"):
            seen.append(cursor.rowcount)

    event.listen(Engine, "after_cursor_execute", note)
    yield seen
    event.remove(Engine, "after_cursor_execute", note)


@drivers("sqlite", "aiosqlite", "psycopg", "asyncpg", "pymysql", "asyncmy")
def test_no_statement_deletes_more_rows_than_a_batch_has(store: Any, deletions: list[int]) -> None:
    for _ in range(2 * BATCH + 1):
        put(store)

    assert store.remove_all() == 2 * BATCH + 1

    assert deletions == [BATCH, BATCH, 1]
    assert store.count(0) == 0
    assert store.remove_all() == 0


def open_cached(open_store: Callable[..., SQLStore], url: str, coherence: str) -> CachedStore:
    return CachedStore(open_store(url), coherence=coherence)


def test_what_begins_meanwhile_does_not_keep_it_from_an_end(
    open_store: Callable[..., SQLStore], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_cached(open_store, sqlite_url, "validate")
    old = [put(store) for _ in range(BATCH + 1)]
    remove_some = SQLStore.remove_some

    def busy(self: SQLStore, *given: int) -> Any:
        for _ in range(BATCH):
            put(self)
        return remove_some(self, *given)

    monkeypatch.setattr(SQLStore, "remove_some", busy)

    assert store.remove_all() == len(old)

    assert [store.reload(row.id) for row in old] == [None] * len(old)
    assert store.count(0) == 2 * BATCH


def test_after_a_failure_it_goes_on_where_it_is_called_again(
    open_store: Callable[..., SQLStore], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody serves what has ended until then."""
    store = open_cached(open_store, sqlite_url, "validate")
    elsewhere = open_cached(open_store, sqlite_url, "auto")
    rows = [put(store) for _ in range(2 * BATCH)]
    for row in rows:
        assert elsewhere.load(row.sid_hash, NOW) == row
    remove_some, calls = SQLStore.remove_some, []

    def failing(self: SQLStore, *given: int) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise StoreUnavailable("gone")
        return remove_some(self, *given)

    monkeypatch.setattr(SQLStore, "remove_some", failing)

    with pytest.raises(StoreUnavailable, match="gone"):
        store.remove_all()

    found = [elsewhere.load(row.sid_hash, NOW) for row in rows]
    assert found == [None] * BATCH + rows[BATCH:]
    assert store.remove_all() == BATCH
    assert [elsewhere.load(row.sid_hash, NOW) for row in rows] == [None] * 2 * BATCH


def test_it_may_take_longer_than_a_store_has_to_answer(
    open_store: Callable[..., SQLStore], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CachedStore(open_store(sqlite_url), coherence="validate", store_timeout=0.5)
    rows = [put(store) for _ in range(4 * BATCH)]
    remove_some = SQLStore.remove_some

    def slow(self: SQLStore, *given: int) -> Any:
        time.sleep(0.2)
        return remove_some(self, *given)

    monkeypatch.setattr(SQLStore, "remove_some", slow)

    assert store.remove_all() == len(rows)
