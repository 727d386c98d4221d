"""One store of an async driver in many event loops, one after the other, as under a test client."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest

from sessionware import SessionManager
from tests import services
from tests.databases import drivers, url_of


def run_and_drop(work: Coroutine[Any, Any, None]) -> None:
    """In a loop that is closed without what ``asyncio.run`` does before."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


def test_event_loops_that_have_ended_leave_no_thread_and_no_connection_behind(
    sqlite_url: str,
) -> None:
    url = services.with_driver(sqlite_url, "sqlite+aiosqlite")
    manager = SessionManager(secret_key="x" * 40, store=url, purge_interval=None)
    before = set(threading.enumerate())

    async def use() -> None:
        await manager.store.aput("key", {"a": 1})
        # By way of SQLAlchemy's pool.
        await manager.alist_sessions("nobody")

    run_and_drop(use())
    of_the_first = set(threading.enumerate()) - before
    assert of_the_first
    asyncio.run(use())
    for thread in of_the_first:
        thread.join(5)
    assert not any(thread.is_alive() for thread in of_the_first)
    asyncio.run(manager.ashutdown())
    # Each thread closes its connection before it ends.
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before


@pytest.fixture
def manager(driver: str, table_name: str, request: pytest.FixtureRequest) -> SessionManager:
    """That nobody shuts down."""
    return SessionManager(
        secret_key="x" * 40,
        store=url_of(driver, request),
        table_name=table_name,
        purge_interval=None,
        coherence="validate",
    )


@drivers("aiosqlite", "asyncpg", "asyncmy")
def test_an_event_loop_that_ends_closes_its_connections_though_nobody_shuts_the_manager_down(
    manager: SessionManager,
) -> None:
    """A test client without a lifespan, or a server with none. What is left open says so when it is
    collected, by a ResourceWarning.
    """
    before = set(threading.enumerate())

    async def use() -> None:
        await asyncio.gather(*(manager.store.aput(f"key {each}", {"a": 1}) for each in range(3)))
        # By way of SQLAlchemy's pool.
        await manager.alist_sessions("nobody")

    for _ in range(3):
        asyncio.run(use())
        for thread in set(threading.enumerate()) - before:
            thread.join(5)
        assert set(threading.enumerate()) <= before
        gc.collect()


@drivers("aiosqlite", "asyncpg", "asyncmy")
def test_a_manager_may_be_shut_down_by_what_its_event_loop_ends(
    manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    """A generator of the application's, closed by the loop at the same time as ours."""
    ended: list[str] = []

    async def resource(name: str) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await manager.ashutdown()
            ended.append(name)

    async def use(generators: list[AsyncGenerator[None, None]]) -> None:
        await manager.store.aput("key", {"a": 1})
        for generator in generators:
            await anext(generator)

    # Some are closed before ours, and some after it.
    generators = [resource(name) for name in "abcd"]
    asyncio.run(use(generators))
    assert sorted(ended) == [*"abcd"]
    assert caplog.text == ""
