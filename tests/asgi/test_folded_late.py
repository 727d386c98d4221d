"""A session that is decoded at its first use, where that is late, or in several threads at once."""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from sessionware import (
    ResponseAlreadyStarted,
    SessionEvent,
    SessionManager,
    SessionMiddleware,
)
from tests.apps import SECRET, Managers
from tests.asgi.folding import CONTENT, Act, Site, is_folded, warm
from tests.byhand import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def site(make: Managers, sqlite_url: str) -> Site:
    return await warm(make(store=sqlite_url, coherence="bounded"))


MEANWHILE: dict[str, Callable[[Site, Clock], Any]] = {
    "nothing": lambda site, clock: None,
    "evicted": lambda site, clock: site.manager.store.cache.clear(),
    "changed": lambda site, clock: changed_elsewhere(site),
    "expired": lambda site, clock: clock.tick(365 * 86_400),
    "logged out": lambda site, clock: site.manager.revoke_all(),
    "purged": lambda site, clock: purged(site, clock),
}


def purged(site: Site, clock: Clock) -> None:
    clock.tick(365 * 86_400)
    site.manager.purge()


def changed_elsewhere(site: Site) -> None:
    session = site.manager.open(f"session={site.browser.token}")
    session.update(user="bob", cart=[])
    site.manager.close(session)


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("place", ["handler", "stream", "background"])
async def test_it_shows_what_was_loaded_whatever_has_become_of_it_since(
    site: Site, clock: Clock, place: str, meanwhile: str
) -> None:

    seen: list[Any] = []

    async def look(request: Request) -> None:
        assert is_folded(request.scope)
        await anyio.to_thread.run_sync(MEANWHILE[meanwhile], site, clock)
        seen.append(copy.deepcopy(dict(request.session)))

    async def chunks(request: Request) -> AsyncIterator[bytes]:
        yield b"first"
        await look(request)

    if place == "handler":
        await site.visit(look)
    elif place == "stream":
        await site.visit(lambda request: StreamingResponse(chunks(request)))
    else:
        await site.visit(late=look)
    assert seen == [CONTENT]


LATE_CHANGES: dict[str, Act] = {
    "write": lambda request: request.session.update(late=1),
    "nested": lambda request: request.session["cart"].append("late"),
    "deeper": lambda request: request.session["cart"][1].update(n=3),
    "delete": lambda request: request.session.pop("user"),
    "clear": lambda request: request.session.clear(),
    "rotate": lambda request: request.session.rotate(),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("change", LATE_CHANGES)
async def test_a_first_use_that_comes_too_late_to_change_anything_is_an_error(
    site: Site, change: str
) -> None:
    with pytest.raises(ResponseAlreadyStarted):
        await site.visit(late=LATE_CHANGES[change])
    assert await site.content() == CONTENT


async def test_a_first_use_after_the_response_that_changes_nothing_is_none(site: Site) -> None:
    await site.visit(late=lambda request: json.dumps(request.session))
    assert await site.content() == CONTENT


async def test_a_late_change_may_be_saved(site: Site) -> None:
    async def save(request: Request) -> None:
        request.session["cart"].append("late")
        await request.session.asave()  # type: ignore[attr-defined]

    await site.visit(late=save)
    assert (await site.content())["cart"] == ["tea", {"n": 2}, "late"]


@pytest.mark.parametrize("change", ["write", "nested", "deeper", "delete"])
async def test_a_change_at_its_first_use_is_stored(site: Site, change: str) -> None:
    await site.visit(LATE_CHANGES[change])
    expected = copy.deepcopy(CONTENT)
    scope = {"type": "http", "session": expected}
    LATE_CHANGES[change](Request(scope))
    assert await site.content() == expected


async def test_a_touch_under_way_loses_no_content(
    make: Managers, sqlite_url: str, clock: Clock
) -> None:
    site = await warm(make(store=sqlite_url, coherence="bounded", idle_timeout=600, cache_ttl=3600))
    clock.tick(120)
    await site.visit(late=lambda request: None)
    assert site.folded[-1]
    clock.tick(550)
    assert await site.content() == CONTENT, "the untouched request has renewed it"


async def test_two_threads_may_use_it_first(site: Site) -> None:

    async def race(request: Request) -> None:
        def write(number: int) -> None:
            request.session[f"k{number}"] = number

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(anyio.to_thread.run_sync, write, number)

    for _ in range(10):
        await site.visit(race)
        assert await site.content() == CONTENT | {f"k{number}": number for number in range(8)}
        await site.visit(lambda request: [request.session.pop(f"k{n}") for n in range(8)])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_corrupt_row_is_found_at_the_load_and_not_at_the_first_use(
    make: Managers, sqlite_url: str, anyio_backend: str
) -> None:

    events: list[SessionEvent] = []
    site = await warm(make(store=sqlite_url, coherence="validate", on_event=events.append))
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as database, database:
        database.execute("UPDATE sessions SET data = substr(data, 1, 60), version = version + 1")
    await site.visit()
    assert [event.kind for event in events][-1] == "corrupt"
    assert not site.folded[-1]
    assert await site.content() == {}


def test_a_websocket_has_it_at_the_handshake_and_later(sqlite_url: str) -> None:
    seen: list[Any] = []

    async def socket(websocket: WebSocket) -> None:
        seen.append(is_folded(websocket.scope))
        await websocket.accept()
        seen.append(copy.deepcopy(websocket.session))
        websocket.session["cart"].append("more")
        await websocket.session.asave()  # type: ignore[attr-defined]
        await websocket.close()

    def write(request: Request) -> Response:
        request.session.update(copy.deepcopy(CONTENT))
        return JSONResponse("")

    def read(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    manager = SessionManager(
        secret_key=SECRET, store=sqlite_url, coherence="bounded", purge_interval=None
    )
    app = Starlette(
        routes=[Route("/write", write), Route("/read", read), WebSocketRoute("/ws", socket)],
        middleware=[Middleware(SessionMiddleware, manager=manager)],
    )
    with TestClient(app) as client:
        client.get("/write")
        client.get("/read")
        with client.websocket_connect("/ws") as connection, pytest.raises(WebSocketDisconnect):
            # Whoever leaves before the close cancels the save.
            connection.receive_text()
        assert client.get("/read").json()["cart"] == ["tea", {"n": 2}, "more"]
    assert seen == [True, CONTENT]
    manager.shutdown()


async def test_its_repr_before_the_first_use_shows_no_data(site: Site) -> None:
    shown: list[str] = []
    await site.visit(lambda request: shown.append(repr(request.scope["session"])))
    assert "alice" not in shown[0]
    assert "Session" in shown[0]
