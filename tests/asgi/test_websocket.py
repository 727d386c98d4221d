"""WebSocket: loaded at the handshake, saved at the accept and by ``asave``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from sessionware import (
    ResponseAlreadyStarted,
    Session,
    SessionManager,
    SessionMiddleware,
    session_of,
)
from tests.apps import COOKIE
from tests.asgi.failing import FailingStore
from tests.asgi.site import row, rows, statements

Socket: TypeAlias = Callable[[WebSocket], Awaitable[None]]
Headers: TypeAlias = dict[str, str]


class Sockets:
    """A client of an app with one WebSocket handler, which the test names, and two HTTP routes."""

    def __init__(self, factory: Callable[..., TestClient], manager: SessionManager) -> None:
        self.handler: Socket
        self.client: TestClient = factory(
            Starlette(
                routes=[
                    WebSocketRoute("/{path:path}", self._serve),
                    Route("/write", self._write),
                    Route("/read", self._read),
                    Route("/logout", self._logout),
                ],
                middleware=[Middleware(SessionMiddleware, manager=manager)],
            )
        )

    async def _serve(self, socket: WebSocket) -> None:
        await self.handler(socket)

    async def _write(self, request: Request) -> Response:
        request.session.update(request.query_params)
        return Response()

    async def _read(self, request: Request) -> Response:
        return JSONResponse(dict(request.session))

    async def _logout(self, request: Request) -> Response:
        session_of(request).invalidate()
        return Response()

    @property
    def content(self) -> Any:
        return self.client.get("/read").json()

    def connect(self, handler: Socket, path: str = "/", **request: Any) -> Headers:
        """Connect until the handler accepts, and give the headers of the accept."""
        self.handler = handler
        with self.client.websocket_connect(path, **request) as socket:
            return self.headers(socket)

    @staticmethod
    def headers(socket: Any) -> Headers:
        pairs = [(name.decode(), value.decode()) for name, value in socket.extra_headers or ()]
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)


@pytest.fixture
def make_sockets(
    test_client_factory: Callable[..., TestClient], make_manager: Callable[..., SessionManager]
) -> Iterator[Callable[..., Sockets]]:
    with ExitStack() as stack:

        def make(**settings: Any) -> Sockets:
            sockets = Sockets(test_client_factory, make_manager(**settings))
            stack.enter_context(sockets.client)
            return sockets

        yield make


@pytest.fixture
def sockets(make_sockets: Callable[..., Sockets]) -> Sockets:
    """A client without a cookie."""
    return make_sockets()


@pytest.fixture
def stored(sockets: Sockets) -> Sockets:
    """A client whose session holds ``a``."""
    sockets.client.get("/write?a=1")
    return sockets


async def accept(socket: WebSocket) -> None:
    await socket.accept()


def test_the_session_is_loaded_at_the_handshake(make_sockets: Callable[..., Sockets]) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json(dict(socket.session))

    sockets = make_sockets(coherence="validate")
    sockets.client.get("/write?a=1")
    sockets.handler = handler
    with statements() as executed, sockets.client.websocket_connect("/") as socket:
        assert socket.receive_json() == {"a": "1"}
        assert sockets.headers(socket) == {}
    assert executed == ["SELECT"]


def test_an_untouched_session_says_nothing_and_without_a_cookie_costs_nothing(
    sockets: Sockets,
) -> None:
    with statements() as executed:
        assert sockets.connect(accept) == {}
    assert executed == []


def test_a_new_sessions_cookie_rides_on_the_accept_and_is_committed_before_it(
    sockets: Sockets,
) -> None:
    async def handler(socket: WebSocket) -> None:
        socket.session["a"] = "1"
        await socket.accept(headers=[(b"x-app", b"1")], subprotocol="chat")

    headers = sockets.connect(handler, subprotocols=["chat"])
    assert headers.keys() == {"x-app", "set-cookie", "vary", "cache-control"}
    token = headers["set-cookie"].removeprefix(f"{COOKIE}=").partition(";")[0]
    assert len(rows()) == 1
    sockets.client.cookies.set(COOKIE, token)
    assert sockets.content == {"a": "1"}


def test_a_login_and_a_logout_before_the_accept_change_the_cookie(stored: Sockets) -> None:
    async def login(socket: WebSocket) -> None:
        socket.session["user_id"] = "alice"
        await socket.accept()

    async def logout(socket: WebSocket) -> None:
        session_of(socket).invalidate()
        await socket.accept()

    cookie = stored.connect(login)["set-cookie"].partition(";")[0]
    assert row().user_id == "alice"
    ended = stored.connect(logout, headers={"cookie": cookie})
    assert ended["set-cookie"].startswith(f"{COOKIE}=null;")
    assert rows() == []


def test_a_change_before_the_accept_is_saved_without_a_cookie(stored: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        socket.session["b"] = 2
        await socket.accept()

    assert stored.connect(handler) == {"vary": "Cookie"}
    assert stored.content == {"a": "1", "b": 2}


def test_a_change_after_the_accept_is_lost_and_raises_at_the_end(stored: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        socket.session["late"] = 1

    with pytest.raises(ResponseAlreadyStarted):
        stored.connect(handler)
    assert stored.content == {"a": "1"}


def test_asave_saves_after_the_accept(stored: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            session = session_of(socket)
            session["said"] = text
            await session.asave()
            await socket.send_text("saved")

    stored.handler = handler
    with stored.client.websocket_connect("/") as socket:
        for word in ("one", "two"):
            socket.send_text(word)
            assert socket.receive_text() == "saved"
            assert stored.content == {"a": "1", "said": word}


def test_asave_refuses_what_needs_a_cookie_after_the_accept(sockets: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        session = session_of(socket)
        session["late"] = 1
        with pytest.raises(ResponseAlreadyStarted, match="Set-Cookie"):
            await session.asave()
        session.clear()

    sockets.connect(handler)
    assert rows() == []


@pytest.mark.parametrize("coherence", ["validate", "bounded", "stamps"])
def test_arevalidate_tells_whether_the_session_still_stands(
    make_sockets: Callable[..., Sockets], coherence: str
) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        async for _ in socket.iter_text():
            await socket.send_json(await session_of(socket).arevalidate())

    sockets = make_sockets(coherence=coherence)
    sockets.client.get("/write?a=1")
    sockets.handler = handler
    with sockets.client.websocket_connect("/") as socket:
        answers = []
        for path in ("/read", "/write?b=2", "/logout"):
            sockets.client.get(path)
            socket.send_text("?")
            answers.append(socket.receive_json())
    assert answers == [True, True, False]


def test_arevalidate_is_false_once_the_id_was_rotated_by_a_login(stored: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()
        await socket.send_json(await session_of(socket).arevalidate())

    stored.handler = handler
    with stored.client.websocket_connect("/") as socket:
        stored.client.get("/write?user_id=alice")
        socket.send_text("?")
        assert socket.receive_json() is False


def test_arevalidate_is_false_without_a_stored_session(sockets: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        assert await session_of(socket).arevalidate() is False
        await socket.accept()

    sockets.connect(handler)


def test_a_denial_response_saves_and_carries_the_cookie(sockets: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        socket.session["a"] = "1"
        await socket.send_denial_response(JSONResponse("no", 403))

    with pytest.raises(WebSocketDenialResponse) as denied:
        sockets.connect(handler)
    assert denied.value.status_code == 403
    assert denied.value.headers["set-cookie"].startswith(f"{COOKIE}=")
    assert len(rows()) == 1


def test_a_denial_response_of_5xx_discards_the_changes(stored: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        socket.session["b"] = 2
        await socket.send_denial_response(JSONResponse("no", 500))

    with pytest.raises(WebSocketDenialResponse):
        stored.connect(handler)
    assert stored.content == {"a": "1"}


async def refuse(socket: WebSocket) -> None:
    socket.session["b"] = 2
    await socket.close(4001)


def test_a_handshake_refused_with_a_close_saves_what_is_there(stored: Sockets) -> None:
    with pytest.raises(WebSocketDisconnect) as refused:
        stored.connect(refuse)
    assert refused.value.code == 4001
    assert stored.content == {"a": "1", "b": 2}


def test_a_handshake_refused_with_a_close_can_end_the_session(stored: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        session_of(socket).invalidate()
        await socket.close()

    with pytest.raises(WebSocketDisconnect):
        stored.connect(handler)
    assert rows() == []


def test_a_handshake_refused_with_a_close_cannot_start_a_session_and_logs_so(
    sockets: Sockets, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(WebSocketDisconnect) as refused:
        sockets.connect(refuse)
    assert refused.value.code == 4001
    assert rows() == []
    assert [record.levelno for record in caplog.records if "refused" in record.message] == [
        logging.WARNING
    ]


def test_an_exception_before_the_accept_discards_the_changes(stored: Sockets) -> None:
    async def handler(socket: WebSocket) -> None:
        socket.session["b"] = 2
        raise ValueError("the app's own")

    with pytest.raises(ValueError, match="the app's own"):
        stored.connect(handler)
    assert stored.content == {"a": "1"}


def test_an_excluded_socket_has_no_session(make_sockets: Callable[..., Sockets]) -> None:
    async def handler(socket: WebSocket) -> None:
        assert dict(socket.session) == {}
        with pytest.raises(RuntimeError, match="exclude"):
            socket.session["a"] = 1
        await socket.accept()

    sockets = make_sockets(exclude=["/live"])
    sockets.client.get("/write?a=1")
    with statements() as executed:
        assert sockets.connect(handler, "/live/feed") == {}
    assert executed == []


async def read(socket: WebSocket) -> None:
    dict(socket.session)
    await socket.accept()


def test_a_socket_that_needs_a_session_nobody_can_read_is_denied_with_503(
    make_sockets: Callable[..., Sockets],
) -> None:
    store = FailingStore()
    sockets = make_sockets(store=store)
    sockets.client.get("/write?a=1")
    store.down = {"*"}
    with pytest.raises(WebSocketDenialResponse) as denied:
        sockets.connect(read)
    assert (denied.value.status_code, denied.value.headers["retry-after"]) == (503, "2")
    assert sockets.connect(accept) == {}


async def call(app: ASGIApp, **scope: Any) -> list[Message]:
    """What a server without extensions would be sent at the handshake."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/", "headers": [], **scope}, receive, send)
    return sent


@pytest.mark.anyio
async def test_a_server_without_denial_responses_closes_with_try_again_later(
    make_manager: Callable[..., SessionManager],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        dict(scope["session"])

    store = FailingStore()
    manager = make_manager(store=store)
    session = await manager.aopen(None)
    session["a"] = 1
    headers = dict(await manager.aclose(session))
    cookie = headers["Set-Cookie"].partition(";")[0].encode()
    store.down = {"*"}
    sent = await call(SessionMiddleware(app, manager=manager), headers=[(b"cookie", cookie)])
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1013)]


@pytest.mark.anyio
async def test_an_accept_message_without_headers_gets_them(
    make_manager: Callable[..., SessionManager],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        await send({"type": "websocket.accept"})

    (message,) = await call(SessionMiddleware(app, manager=make_manager()))
    assert [name for name, _ in message["headers"]] == [b"vary", b"cache-control", b"set-cookie"]


def test_a_session_object_outlives_its_request_and_still_asks_the_database(
    stored: Sockets,
) -> None:
    kept: list[Session] = []

    async def handler(socket: WebSocket) -> None:
        kept.append(session_of(socket))
        await socket.accept()

    stored.connect(handler)
    assert kept[0].revalidate()
    stored.client.get("/logout")
    assert not kept[0].revalidate()
