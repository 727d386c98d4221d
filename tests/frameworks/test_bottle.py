"""Bottle behind the WSGI middleware."""

from __future__ import annotations

from typing import Any

from sessionware import SessionManager
from sessionware.wsgi import SessionMiddleware
from tests.apps import Browser
from tests.frameworks.browsers import WsgiBrowser
from tests.frameworks.importing import framework
from tests.frameworks.rules import Refused, Rules, serve

bottle = framework("bottle")


def app_of(manager: SessionManager) -> Any:
    app = bottle.Bottle()

    @app.get("/<name>")  # type: ignore[untyped-decorator]
    def answer(name: str) -> Any:
        request = bottle.request
        try:
            session = request.environ.__getitem__
            content = serve(name, request, lambda: session("sessionware.session"), request.query)
        except Refused as error:
            raise bottle.HTTPError(error.status) from None
        bottle.response.content_type = "application/json"
        return bottle.json_dumps(content)

    return SessionMiddleware(app, manager=manager)


class TestBottle(Rules):
    eager = False

    def browser(self, manager: SessionManager) -> Browser:
        return WsgiBrowser(app_of(manager))
