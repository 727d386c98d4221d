"""PostgreSQL's connections at hand are of no use any more, and the driver learns it in use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessionware import SessionManager
from tests.apps import Managers
from tests.byhand import login, storing
from tests.databases import drivers, url_of
from tests.interleaving import Act, Client

pytestmark = pytest.mark.anyio

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
