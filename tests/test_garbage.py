"""No request leaves anything that only the garbage collector finds.

What refers to itself in a circle stays until a collection, and collections then come with every few
requests, each through all that is in flight: it costs more than all the rest of a request.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from sessionware import SessionManager, SessionMiddleware
from tests.apps import Browser, Managers
from tests.databases import drivers, url_of

pytestmark = pytest.mark.anyio

REQUESTS = 16


@pytest.fixture
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


@pytest.fixture
async def manager(
    driver: str, request: pytest.FixtureRequest, table_name: str
) -> AsyncIterator[SessionManager]:
    managers = Managers()
    yield managers(store=url_of(driver, request), table_name=table_name)
    await managers.aclose()


@pytest.fixture
def no_collections() -> Iterator[None]:
    """None comes by itself, nor through what other tests have left."""
    gc.disable()
    gc.collect()
    gc.freeze()
    yield
    gc.enable()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    session: Any = scope["session"]
    match scope["path"]:
        case "/read":
            session.get("n")
        case "/write":
            session["n"] = session.get("n", 0) + 1
        case "/nested":
            session.setdefault("cart", []).append(1)
        case "/login":
            session["user_id"] = "alice"
        case "/logout":
            session.invalidate()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def found() -> set[str]:
    """What a collection finds of each request; then it is gone. Of other tests' it may find a few
    things.
    """
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds = Counter(type(each) for each in gc.garbage)
    gc.garbage.clear()
    gc.collect()
    return {
        kind.__qualname__
        for kind, count in kinds.items()
        if count >= REQUESTS and kind.__module__.startswith("sessionware")
    }


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("together", [False, True], ids=["in turn", "at once"])
@drivers("sqlite", "aiosqlite", "psycopg", "asyncpg", "pymysql")
async def test_no_request_leaves_a_cycle_behind(manager: SessionManager, together: bool) -> None:
    browsers = [Browser(SessionMiddleware(app, manager=manager)) for _ in range(REQUESTS)]

    async def all_ask(path: str) -> None:
        if not together:
            for browser in browsers:
                await browser.get(path)
            return
        async with anyio.create_task_group() as group:
            for browser in browsers:
                group.start_soon(browser.get, path)

    await all_ask("/write")
    # What is made once, and what is left of other tests.
    gc.collect()
    for path in ("/write", "/nested", "/read", "/login", "/cold", "/logout"):
        if path == "/cold":
            manager.store.cache.clear()
        await all_ask("/read" if path == "/cold" else path)
        assert not found(), path
