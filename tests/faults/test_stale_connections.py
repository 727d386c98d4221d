"""PostgreSQL's connections at hand are of no use any more, and the driver learns it in use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessionware import SessionManager
from sessionware.flows import Call, Flow
from sessionware.stores.protocol import Row
from sessionware.testing.support import NOW, make_row
from tests.apps import Managers
from tests.byhand import login, storing
from tests.databases import drivers, url_of
from tests.interleaving import Act, Client, together

pytestmark = pytest.mark.anyio

CONNECTIONS = 8
"""Of a store that is given as a URL, and about as many as an engine has by default."""
PREPARED_AFTER = 6
"""Executions of one statement by a connection, for psycopg."""

FATAL = b"SFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
ENDED = b"E" + (len(FATAL) + 4).to_bytes(4, "big") + FATAL
"""What a server says to a connection that it ends, some time before it closes it."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


@pytest.fixture(params=["url", "engine"])
async def database(
    driver: str, request: pytest.FixtureRequest, anyio_backend: str
) -> AsyncIterator[Any]:
    """Straight to the driver, and through SQLAlchemy with an engine of the application's."""
    url = url_of(driver, request)
    if request.param == "url":
        yield url
    elif driver == "asyncpg":
        engine = create_async_engine(url)
        yield engine
        await engine.dispose()
    else:
        made = create_engine(url)
        yield made
        await anyio.to_thread.run_sync(made.dispose)


@pytest.fixture(params=["validate", "bounded"])
def manager(
    request: pytest.FixtureRequest, database: Any, managers: Managers, table_name: str
) -> SessionManager:
    """It is a read that meets the connection first, or a write."""
    coherence: Any = request.param
    return managers(store=database, table_name=table_name, store_timeout=20, coherence=coherence)


async def driver_connections(manager: SessionManager, database: Any) -> list[Any]:
    """asyncpg's connections that are at hand."""
    if isinstance(database, AsyncEngine):
        async with database.connect() as connection:
            return [(await connection.get_raw_connection()).driver_connection]
    store: Any = manager.store.store
    return [lent._driver for lent in store._place().idle]


@drivers("asyncpg")
async def test_a_connection_that_was_ended_and_is_not_closed_yet_fails_no_request(
    manager: SessionManager, database: Any
) -> None:
    client = Client(manager)
    await client.visit(storing(a=1))

    async def incr(session: Any) -> Any:
        return await session.aincr("n")

    acts: list[Act] = [dict, storing(b=2), login("alice"), incr, storing(c=3)]
    for act in acts:
        connections = await driver_connections(manager, database)
        assert connections
        for connection in connections:
            connection._protocol.data_received(ENDED)
        assert (await client.visit(act)).status == 200
    assert await client.content() == {"a": 1, "b": 2, "user_id": "alice", "n": 1, "c": 3}


def alter_table(url: str, table_name: str) -> None:
    """As a migration does beside running workers: what was prepared gives other columns now."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name, kind in (("version", "bigint"), ("ip", "varchar(99)")):
            change = f"ALTER TABLE {table_name} ALTER COLUMN {name} TYPE {kind}"
            connection.exec_driver_sql(change)
    engine.dispose()


@drivers("psycopg", "asyncpg")
async def test_a_changed_column_fails_no_request_of_those_who_have_prepared_their_statements(
    manager: SessionManager, postgres_url: str, table_name: str
) -> None:
    clients = [Client(manager) for _ in range(CONNECTIONS)]
    await together(*(client.visit(login("alice")) for client in clients))
    for number in range(PREPARED_AFTER):
        manager.store.cache.clear()
        await together(*(client.visit(storing(n=number)) for client in clients))

    await anyio.to_thread.run_sync(alter_table, postgres_url, table_name)

    manager.store.cache.clear()
    answers = await together(*(client.visit(storing(a=1)) for client in clients))
    answers += await together(*(client.visit(login("bob")) for client in clients))
    assert [answer.status for answer in answers] == [200] * 2 * CONNECTIONS
    manager.store.cache.clear()
    assert [await client.content() for client in clients] == [{"user_id": "bob"}] * CONNECTIONS


@drivers("psycopg", "asyncpg")
async def test_what_was_prepared_for_a_transaction_is_prepared_anew_after_a_changed_column(
    manager: SessionManager, postgres_url: str, table_name: str
) -> None:
    runner, new = manager.store.runner, make_row()

    def inserting() -> Flow[Row]:
        return new._replace(id=(yield Call("insert", (new,))))

    row = await runner.arun(inserting())

    def altering() -> Flow[Any]:
        def decide(current: Row | None) -> tuple[None, Row | None]:
            return None, current

        return (yield Call("alter", (row, decide, NOW, NOW)))

    for _ in range(PREPARED_AFTER):
        assert await runner.arun(altering()) == row
    await anyio.to_thread.run_sync(alter_table, postgres_url, table_name)
    assert await runner.arun(altering()) == row
