"""One store of an async driver in many event loops, one after the other, as under a test client."""

from __future__ import annotations

import asyncio
import threading

from sessionware import SessionManager
from tests import services


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

    asyncio.run(use())
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
