"""A Quart application for the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quart import Quart, abort, request

from sessionware.quart import QuartSessions
from tests.apps import Browser
from tests.frameworks.browsers import DatedBrowser
from tests.frameworks.rules import NAMES, Refused, serve


def app_of(sessions: QuartSessions, **config: Any) -> Quart:
    """An application with the common views."""
    app = Quart(__name__, static_folder=None)
    app.config.update(config)
    sessions.init_app(app)
    for name in NAMES:
        app.add_url_rule(f"/{name}", name, view(name))
    return app


def view(name: str) -> Callable[[], Any]:
    async def answer() -> Any:
        try:
            content = serve(name, request, lambda: request.session, request.args)  # type: ignore[attr-defined]
        except Refused as error:
            abort(error.status)
        # Quart makes responses of dicts and lists only.
        return content if isinstance(content, dict) else str(content)

    return answer


def browser_of(app: Quart) -> Browser:
    return DatedBrowser(app)  # type: ignore[arg-type]
