"""A request that is cancelled anywhere on its way through a real driver leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessionware import SessionManager
from tests.apps import Managers
from tests.byhand import storing
from tests.concurrency.test_cancellation import CHANGES
from tests.databases import drivers, url_of
from tests.interleaving import PATIENCE, Client

pytestmark = pytest.mark.anyio

STEPS = 60
"""How many times the event loop turns before the last of the cancelled requests is cancelled."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


class Pooled:
    """A manager on an engine whose pool the test can look into."""

    def __init__(self, managers: Managers, url: str, table_name: str) -> None:
        is_async = make_url(url).get_dialect().is_async
        self.engine: Engine | AsyncEngine = (
            create_async_engine(url) if is_async else create_engine(url)
        )
        self.manager: SessionManager = managers(
            store=self.engine, table_name=table_name, store_timeout=PATIENCE
        )

    @property
    def checked_out(self) -> int:
        pool: Any = self.engine.pool
        return int(pool.checkedout())

    async def aclose(self) -> None:
        await self.manager.ashutdown()
        if isinstance(self.engine, AsyncEngine):
            await self.engine.dispose()
        else:
            self.engine.dispose()


async def settled(pooled: Pooled, tasks: int) -> None:
    """Wait until what went on without its request has come to its end."""
    with anyio.fail_after(PATIENCE):
        while pooled.checked_out or len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.001)


@pytest.fixture
async def pooled(
    driver: str,
    request: pytest.FixtureRequest,
    managers: Managers,
    table_name: str,
    anyio_backend: Any,
) -> AsyncIterator[Pooled]:
    made = Pooled(managers, url_of(driver, request), table_name)
    yield made
    await made.aclose()


@drivers("sqlite", "psycopg", "asyncpg", "pymysql", "asyncmy")
@pytest.mark.parametrize("name", ["save", "login", "logout"])
async def test_wherever_a_request_is_cancelled_the_state_is_before_or_after_it(
    pooled: Pooled, name: str
) -> None:
    act, _, after = CHANGES[name]
    client = Client(pooled.manager)
    await client.visit(storing(warm="up"))
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()
    seen = set()
    for turns in range(0, STEPS, 4):
        client = Client(pooled.manager)
        await client.visit(storing(n=1))
        request = asyncio.create_task(client.twin().visit(act))
        for _ in range(turns):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait([request])
        await settled(pooled, tasks)
        content = await client.content()
        # Whose login or logout came through is gone from the old ID.
        expected = {} if name == "login" else after
        assert content in ({"n": 1}, expected)
        seen.add(content == expected)
    assert False in seen
    assert threading.active_count() <= threads + 8
