"""Falcon behind the ASGI and the WSGI middleware."""

from __future__ import annotations

from typing import Any

from sessionware import SessionManager, SessionMiddleware, StoreUnavailable, wsgi
from tests.apps import Browser
from tests.asgi.failing import FailingStore
from tests.frameworks.browsers import WsgiBrowser
from tests.frameworks.importing import framework
from tests.frameworks.rules import Refused, Rules, serve

falcon = framework("falcon")
framework("falcon.asgi")


class AsyncAnswers:
    async def on_get(self, req: Any, resp: Any, name: str) -> None:
        try:
            resp.media = serve(name, req, lambda: req.scope["session"], req.params)
        except Refused as error:
            raise falcon.HTTPError(error.status) from None


class Answers:
    def on_get(self, req: Any, resp: Any, name: str) -> None:
        try:
            resp.media = serve(name, req, lambda: req.env["sessionware.session"], req.params)
        except Refused as error:
            raise falcon.HTTPError(error.status) from None


class TestFalconUnderASGI(Rules):
    def app(self) -> Any:
        app = falcon.asgi.App()
        app.add_route("/{name}", AsyncAnswers())
        return app

    def browser(self, manager: SessionManager) -> Browser:
        return Browser(SessionMiddleware(self.app(), manager=manager))

    async def test_the_apps_own_handler_answers_for_a_failing_store(
        self, manager: SessionManager, store: FailingStore
    ) -> None:
        async def sorry(req: Any, resp: Any, error: StoreUnavailable, params: Any) -> None:
            resp.status, resp.text = falcon.HTTP_503, "sorry"

        app = self.app()
        app.add_error_handler(StoreUnavailable, sorry)
        browser = Browser(SessionMiddleware(app, manager=manager))
        await browser.get("/write?a=1")
        store.down.add("*")
        answer = await browser.get("/read")
        assert (answer.status, answer.body) == (503, b"sorry")


class TestFalconUnderWSGI(Rules):
    eager = False

    def browser(self, manager: SessionManager) -> Browser:
        app = falcon.App()
        app.add_route("/{name}", Answers())
        return WsgiBrowser(wsgi.SessionMiddleware(app, manager=manager))
