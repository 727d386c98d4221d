"""What a touch costs the indexes: nothing, most of the time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from sessionware import CachedStore, SessionManager, clock
from sessionware.stores.sql import SQLStore
from sessionware.testing.support import HOUR, NOW
from tests.byhand import Clock, Visitor, storing
from tests.databases import drivers

from .conftest import put_prepared


class Touching:
    """A visitor who reads for hours, of a manager with an idle timeout."""

    def __init__(self, url: str, table_name: str, now: Clock, **lifetime: Any) -> None:
        self.manager = SessionManager(
            secret_key="x" * 40, store=url, table_name=table_name, purge_interval=None, **lifetime
        )
        self.now = now
        self.visitor = Visitor(self.manager)
        self.visitor.visit(storing(a=1, user_id="alice"))

    def times(self) -> tuple[int, int]:
        """``last_seen`` and ``purge_after`` as they are stored."""
        inner = CachedStore(self.manager.store.store)
        (row,) = inner.user_rows("alice", self.now())
        assert row.purge_after >= row.expires_at
        return row.last_seen, row.purge_after

    def read(self, requests: int, pause: float) -> tuple[int, int]:
        """How many touches that were, and how many of them moved ``purge_after``."""
        seen = [self.times()]
        for _ in range(requests):
            self.now.tick(pause)
            self.visitor.visit()
            seen.append(self.times())
        pairs = list(itertools.pairwise(seen))
        touches = sum(before[0] != after[0] for before, after in pairs)
        return touches, sum(before[1] != after[1] for before, after in pairs)


LIFETIMES = [
    pytest.param({"idle_timeout": 1800}, 61, id="half an hour"),
    pytest.param({"idle_timeout": 8 * 3600}, 900, id="eight hours"),
    pytest.param({"idle_timeout": 300}, 30, id="five minutes"),
]


@pytest.mark.parametrize(("lifetime", "pause"), LIFETIMES)
def test_touches_seldom_move_the_indexed_column(
    sqlite_url: str, lifetime: dict[str, Any], pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Clock()
    monkeypatch.setattr(clock, "now", now)
    touching = Touching(sqlite_url, "sessions", now, **lifetime)

    touches, moves = touching.read(60, pause)

    touching.manager.shutdown()
    assert touches >= 10
    assert moves * 2 <= touches


@drivers("psycopg")
def test_on_postgresql_touches_are_hot_updates(
    url: str, engine: Engine, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They leave the indexes alone, and the next read prunes them: no bloat, no vacuum."""
    now = Clock()
    monkeypatch.setattr(clock, "now", now)
    touching = Touching(url, table_name, now, idle_timeout=1800)

    def updates() -> tuple[int, int]:
        flush = "SELECT pg_stat_force_next_flush()"
        store = touching.manager.store.store
        store.execute(lambda _, connection: connection.exec_driver_sql(flush).scalar())
        store.count(0)
        with engine.connect() as connection:
            query = text(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = :name"
            )
            total, hot = connection.execute(query, {"name": table_name}).one()
        return total, hot

    touches, _ = touching.read(30, 181)
    total, hot = updates()

    touching.manager.shutdown()
    assert touches == total == 30
    assert hot * 2 >= total


def test_a_touch_within_a_step_does_not_name_the_indexed_column(
    open_store: Callable[..., SQLStore], sqlite_url: str
) -> None:
    store = open_store(sqlite_url)
    row = put_prepared(store)
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        within = row._replace(last_seen=NOW + 1, expires_at=row.expires_at + 1)
        assert store.touch(row, within, NOW)
        beyond = within._replace(last_seen=NOW + 2, purge_after=row.purge_after + HOUR)
        assert store.touch(within, beyond, NOW)
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    assert ["purge_after" in statement for statement in seen] == [False, True]
