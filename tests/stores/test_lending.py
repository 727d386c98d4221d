"""Connections at hand: whatever happens to their pool meanwhile, each is closed in the end."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from sessionware.stores.engines import make_engine
from sessionware.stores.lending import Lender, Lent
from sessionware.stores.sql import SQLStore
from tests import services

pytestmark = pytest.mark.postgres


@pytest.fixture
def engine(postgres_url: str) -> Engine:
    url = services.with_driver(postgres_url, "postgresql+psycopg")
    return make_engine(url, timeout=5, connections=2)


@pytest.fixture
def lender(engine: Engine) -> Lender:
    return Lender(engine, 2, 5)


def test_what_is_given_back_after_its_pool_was_disposed_of_is_closed(lender: Lender) -> None:
    lent = lender.take()
    lender.dispose()
    assert not lent.raw.closed
    lender.give_back(lent)
    assert lent.raw.closed


def test_what_is_given_back_to_a_lender_that_was_closed_is_closed_at_once(lender: Lender) -> None:
    lent = lender.take()
    lender.close()
    lender.give_back(lent)
    assert lent.raw.closed


def test_a_pools_own_connection_is_closed_if_the_pool_was_disposed_of_meanwhile(
    lender: Lender,
) -> None:
    with lender.pooled() as connection:
        raw = connection.connection.driver_connection
        lender.dispose()
    lender.close()
    assert raw is not None
    assert raw.closed


def test_a_pool_that_is_disposed_of_while_one_connects_is_not_taken_for_the_new_one(
    lender: Lender, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = engine.connect

    def overtaken() -> Connection:
        connection = connect()
        lender.dispose()
        return connection

    monkeypatch.setattr(engine, "connect", overtaken)
    lent = lender.take()
    lender.give_back(lent)
    lender.close()
    assert lent.raw.closed


def test_a_closed_lender_still_lends_and_keeps_nothing_open(lender: Lender) -> None:
    """To an operation that was given up and comes to itself late."""
    lender.close()
    lent = lender.take()
    assert not lent.raw.closed
    lender.give_back(lent)
    assert lent.raw.closed


def test_what_goes_back_to_its_pool_while_that_is_disposed_of_is_closed(
    lender: Lender, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = engine.pool
    recreate = pool.recreate
    with ExitStack() as stack:
        raw: Any = stack.enter_context(lender.pooled()).connection.driver_connection

        def overtaken() -> Any:
            # The pool has closed what it had, and is still the engine's.
            stack.close()
            return recreate()

        monkeypatch.setattr(pool, "recreate", overtaken)
        lender.dispose()
        assert raw.closed


def make_store(postgres_url: str, table_name: str) -> SQLStore:
    url = services.with_driver(postgres_url, "postgresql+psycopg")
    store = SQLStore(url, table_name=table_name)
    store.prepare()
    return store


def lender_of(store: SQLStore) -> Lender:
    assert store._ready is not None
    _, lender = store._ready
    assert lender is not None
    return lender


def test_a_store_that_renews_its_connections_closes_those_in_use_when_they_come_back(
    postgres_url: str, table_name: str
) -> None:
    store = make_store(postgres_url, table_name)
    lent = lender_of(store).take()
    store.renew()
    lender_of(store).give_back(lent)
    assert lent.raw.closed
    assert store.count(0) == 0
    store.close()


def test_a_store_that_is_dropped_without_being_closed_leaves_no_connection_open(
    postgres_url: str, table_name: str
) -> None:
    store = make_store(postgres_url, table_name)
    lender = lender_of(store)
    lent = lender.take()
    lender.give_back(lent)
    del store
    gc.collect()
    assert lent.raw.closed


def test_a_lender_that_is_stopped_closes_all_and_lends_none_until_it_goes_on(
    lender: Lender,
) -> None:
    idle, used = lender.take(), lender.take()
    lender.give_back(idle)
    until = ExitStack()
    assert not lender.stop(0, until)
    assert idle.raw.closed
    assert not used.raw.closed
    lender.give_back(used)
    assert used.raw.closed
    assert lender.stop(0, until)

    taken: list[Lent] = []
    thread = threading.Thread(target=lambda: taken.append(lender.take()))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    until.close()
    thread.join(5)
    lender.give_back(taken[0])
    assert not taken[0].raw.closed
    lender.close()


def test_a_lender_that_is_stopped_waits_until_all_are_given_back(lender: Lender) -> None:
    lent = lender.take()
    giving = threading.Timer(0.1, lender.give_back, [lent])
    giving.start()
    until = ExitStack()
    assert lender.stop(time.monotonic() + 5, until)
    assert lent.raw.closed
    giving.join()
    until.close()
    lender.close()


def test_a_lender_that_is_closed_while_it_is_stopped_stays_closed(lender: Lender) -> None:
    until = ExitStack()
    assert lender.stop(0, until)
    lender.close()
    until.close()
    lent = lender.take()
    lender.give_back(lent)
    assert lent.raw.closed


def test_the_pool_keeps_nobody_waiting_for_what_others_may_have_closed(engine: Engine) -> None:
    """Who waits in a pool while it is emptied waits to the end of its time."""
    began = time.monotonic()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(engine.connect())
    assert time.monotonic() - began < 5
    engine.dispose()
