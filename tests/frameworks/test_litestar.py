"""Litestar behind the ASGI middleware."""

from __future__ import annotations

from typing import Any

from sessionware import SessionManager, SessionMiddleware, StoreUnavailable
from tests.apps import Browser
from tests.asgi.failing import FailingStore
from tests.frameworks.importing import framework
from tests.frameworks.rules import NAMES, Refused, Rules, rows, serve

framework("litestar")

from litestar import Litestar, Request, Response, get, websocket  # noqa: E402
from litestar.connection import WebSocket  # noqa: E402
from litestar.exceptions import HTTPException  # noqa: E402
from litestar.middleware import DefineMiddleware  # noqa: E402
from litestar.testing import TestClient  # noqa: E402

AnyRequest = Request[Any, Any, Any]


def app_of(manager: SessionManager, *handlers: Any, **settings: Any) -> Any:
    def endpoint(name: str) -> Any:
        @get(f"/{name}", sync_to_thread=False, name=name)
        def answer(request: AnyRequest) -> Any:
            try:
                return serve(name, request, lambda: request.session, request.query_params)
            except Refused as error:
                raise HTTPException(status_code=error.status) from None

        return answer

    # Litestar's types of scope and messages are narrower than Starlette's.
    middleware: Any = SessionMiddleware
    return Litestar(
        [*handlers, *map(endpoint, NAMES)],
        middleware=[DefineMiddleware(middleware, manager=manager)],
        **settings,
    )


class TestLitestar(Rules):
    def browser(self, manager: SessionManager) -> Browser:
        return Browser(app_of(manager))

    async def test_set_session_replaces_the_content(
        self, manager: SessionManager, store: FailingStore
    ) -> None:
        @get("/replace")
        async def replace(request: AnyRequest) -> str:
            request.set_session({"b": 2})
            return "replaced"

        browser = Browser(app_of(manager, replace))
        await browser.get("/write?a=1")
        await browser.get("/replace")
        assert (await browser.get("/read")).json() == {"b": 2}
        assert rows(store) == 1

    async def test_clear_session_deletes_row_and_cookie(
        self, manager: SessionManager, store: FailingStore
    ) -> None:
        @get("/clear")
        async def clear(request: AnyRequest) -> str:
            request.clear_session()
            return "cleared"

        browser = Browser(app_of(manager, clear))
        await browser.get("/login?user_id=alice")
        await browser.get("/clear")
        assert browser.token is None
        assert rows(store) == 0

    async def test_the_apps_own_handler_answers_for_a_failing_store(
        self, manager: SessionManager, store: FailingStore
    ) -> None:
        def sorry(request: AnyRequest, error: StoreUnavailable) -> Response[str]:
            return Response("sorry", status_code=503)

        browser = Browser(app_of(manager, exception_handlers={StoreUnavailable: sorry}))
        await browser.get("/write?a=1")
        store.down.add("*")
        answer = await browser.get("/read")
        assert (answer.status, answer.body) == (503, b"sorry")

    def test_a_websocket_has_the_session_of_its_handshake(self, manager: SessionManager) -> None:
        @websocket("/socket")
        async def socket(socket: WebSocket[Any, Any, Any]) -> None:
            socket.session["seen"] = True
            await socket.accept()
            await socket.send_json(dict(socket.session))
            await socket.close()

        with TestClient(app_of(manager, socket)) as client:
            client.get("/write?a=1")
            with client.websocket_connect("/socket") as connection:
                assert connection.receive_json() == {"a": "1", "seen": True}
            assert client.get("/read").json() == {"a": "1", "seen": True}
