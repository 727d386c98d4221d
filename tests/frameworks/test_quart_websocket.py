"""The session of a WebSocket in Quart."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import pytest

from sessionware import SessionMiddleware, session_of
from tests.asgi.failing import FailingStore
from tests.frameworks import browsers
from tests.frameworks.importing import framework
from tests.frameworks.rules import rows
from tests.interleaving import PATIENCE

framework("quart")

from quart import Quart, session, websocket  # noqa: E402

from tests.frameworks.quart_site import browser_of  # noqa: E402

pytestmark = pytest.mark.anyio


def header(message: Any, name: str) -> list[bytes]:
    return [value for key, value in message["headers"] if key.lower() == name.encode()]


async def test_a_websocket_starts_a_session_with_its_handshake(own: Quart) -> None:
    @own.websocket("/socket")
    async def socket() -> None:
        websocket.session["seen"] = session.get("seen", 0) + 1  # type: ignore[attr-defined]
        await websocket.accept({"X-Own": "kept"})
        await websocket.send(str(session["seen"]))

    accept, said, _ = await call_websocket(own, "/socket")
    assert said["text"] == "1"
    assert header(accept, "x-own") == [b"kept"]
    assert header(accept, "cache-control") == [b"no-store"]
    assert header(accept, "vary") == [b"Cookie"]
    (cookie,) = header(accept, "set-cookie")
    token = cookie.decode().partition(";")[0].partition("=")[2]

    accept, said, _ = await call_websocket(own, "/socket", token=token)
    assert said["text"] == "2"
    assert header(accept, "set-cookie") == []
    assert (await browser_of(own).get("/read", cookie=f"session={token}")).json() == {"seen": 2}


async def test_tasks_that_receive_and_send_at_once_save_once(
    own: Quart, store: FailingStore
) -> None:
    @own.websocket("/socket")
    async def socket() -> None:
        session["a"] = 1
        await asyncio.gather(websocket.receive(), websocket.send("hello"))

    accept, _, _ = await call_websocket(own, "/socket", "hi")
    assert len(header(accept, "set-cookie")) == 1
    assert store.calls.count("insert") == 1
    assert rows(store) == 1


async def test_a_change_on_an_open_websocket_needs_a_save(
    own: Quart, caplog: pytest.LogCaptureFixture
) -> None:
    @own.websocket("/socket/<int:saves>")
    async def socket(saves: int) -> None:
        await websocket.accept()
        session["a"] = 2
        if saves:
            await websocket.session.asave()  # type: ignore[attr-defined]
        await websocket.send("changed")

    browser = browser_of(own)
    await browser.get("/write?a=1")
    await call_websocket(own, "/socket/0", token=browser.token)
    assert "ResponseAlreadyStarted: the session was changed after the response" in caplog.text
    assert (await browser.get("/read")).json() == {"a": "1"}
    await call_websocket(own, "/socket/1", token=browser.token)
    assert (await browser.get("/read")).json() == {"a": 2}


def around(own: Quart) -> Any:
    """A middleware of ours around the app, with the same manager."""
    app: Any = own
    return SessionMiddleware(app, manager=app.session_interface.manager_of(app))


async def test_inside_a_middleware_of_ours_a_websocket_has_its_session(
    own: Quart, store: FailingStore
) -> None:
    @own.websocket("/socket")
    async def socket() -> None:
        session["a"] = 1
        await websocket.accept()
        session["b"] = 2
        await websocket.session.asave()  # type: ignore[attr-defined]
        await websocket.send("saved")

    outside = around(own)
    accept, said, _ = await call_websocket(outside, "/socket")
    assert said["text"] == "saved"
    (cookie,) = header(accept, "set-cookie")
    token = cookie.decode().partition(";")[0].partition("=")[2]
    assert (await browser_of(outside).get("/read", cookie=f"session={token}")).json() == {
        "a": 1,
        "b": 2,
    }
    assert rows(store) == 1


@pytest.mark.parametrize("saves", [0, 1])
async def test_what_others_stored_before_the_handshake_is_kept_inside_a_middleware_of_ours(
    saves: int, own: Quart
) -> None:
    outside = around(own)
    browser = browser_of(outside)
    await browser.get("/write?a=1")

    @own.websocket("/socket")
    async def socket() -> None:
        session["b"] = 2
        await browser_of(outside).get("/write?other=1", cookie=f"session={browser.token}")
        await websocket.accept()
        if saves:
            session["c"] = 3
            await session_of(websocket).asave()
        await websocket.send("done")

    await call_websocket(outside, "/socket", token=browser.token)
    expected = {"a": "1", "b": 2, "other": "1"} | ({"c": 3} if saves else {})
    assert (await browser.get("/read")).json() == expected


async def test_a_handshake_that_is_refused_saves_and_can_set_a_cookie(own: Quart) -> None:
    @own.websocket("/socket")
    async def socket() -> Any:
        session["tries"] = session.get("tries", 0) + 1
        return "no", 403

    start = (await call_websocket(own, "/socket"))[0]
    assert start["status"] == 403
    (cookie,) = header(start, "set-cookie")
    token = cookie.decode().partition(";")[0].partition("=")[2]
    assert (await browser_of(own).get("/read", cookie=f"session={token}")).json() == {"tries": 1}


async def test_a_handshake_that_is_closed_unanswered_saves_a_session_that_is_there(
    own: Quart, store: FailingStore, caplog: pytest.LogCaptureFixture
) -> None:
    @own.websocket("/socket")
    async def socket() -> None:
        session["tries"] = session.get("tries", 0) + 1
        await websocket.close(1008)

    with caplog.at_level(logging.WARNING, "sessionware"):
        await call_websocket(own, "/socket")
    assert rows(store) == 0
    assert "its changes are lost" in caplog.text
    browser = browser_of(own)
    await browser.get("/write?a=1")
    await call_websocket(own, "/socket", token=browser.token)
    saved = {"a": "1", "tries": 1}
    with anyio.move_on_after(PATIENCE):
        # Quart may stop waiting for the save when the browser has gone; the save goes on.
        while (await browser.get("/read")).json() != saved:
            await anyio.sleep(0.01)
    assert (await browser.get("/read")).json() == saved


async def test_a_websocket_whose_session_cannot_be_read_is_refused(
    own: Quart, store: FailingStore
) -> None:
    @own.websocket("/socket")
    async def socket() -> None:
        await websocket.send(str(session["a"]))

    browser = browser_of(own)
    await browser.get("/write?a=1")
    store.down.add("*")
    start = (await call_websocket(own, "/socket", token=browser.token))[0]
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert header(start, "retry-after") == [b"2"]


async def test_a_websocket_whose_session_cannot_be_saved_is_refused(
    own: Quart, store: FailingStore
) -> None:
    @own.websocket("/socket")
    async def socket() -> None:
        session["a"] = 1
        await websocket.send("hello")

    store.down.add("insert")
    start = (await call_websocket(own, "/socket"))[0]
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)


async def test_a_logout_on_a_websocket_holds_though_it_fails(
    own: Quart, store: FailingStore
) -> None:
    @own.websocket("/socket")
    async def socket() -> None:
        websocket.session.invalidate()  # type: ignore[attr-defined]
        raise RuntimeError("boom")

    browser = browser_of(own)
    await browser.get("/write?a=1")
    await call_websocket(own, "/socket", token=browser.token)
    assert rows(store) == 0


async def call_websocket(app: Quart, path: str, *texts: str, token: str | None = None) -> Any:
    return await browsers.websocket(app, path, *texts, token=token)  # type: ignore[arg-type]
