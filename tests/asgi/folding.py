"""A visitor whose session is cached, and an app that says whether it came undecoded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sessionware import SessionManager, SessionMiddleware
from sessionware.states import SessionState
from tests.apps import Browser

CONTENT: Final = {"user": "alice", "cart": ["tea", {"n": 2}], "n": 1}
Act = Callable[[Request], Any]


def state(scope: Any) -> SessionState:
    link = scope["session"].link()
    assert isinstance(link, SessionState)
    return link


def is_folded(scope: Any) -> bool:
    return state(scope).folded is not None


class Site:
    """An app whose handler the test gives, and a visitor whose session is cached and decoded."""

    def __init__(self, manager: SessionManager) -> None:
        self.manager = manager
        self.act: Act = lambda request: None
        self.late: Act = lambda request: None
        self.folded: list[bool] = []
        self.app = Starlette(
            routes=[Route("/{path:path}", self.handle)],
            middleware=[Middleware(SessionMiddleware, manager=manager)],
        )
        self.browser = Browser(self.app)

    async def handle(self, request: Request) -> Response:
        self.folded.append(is_folded(request.scope))
        result = self.act(request)
        if hasattr(result, "__await__"):
            result = await result
        if isinstance(result, Response):
            return result
        return JSONResponse("done", background=BackgroundTask(self.late, request))

    async def visit(self, act: Act = lambda request: None, late: Act = lambda request: None) -> Any:
        self.act, self.late = act, late
        return await self.browser.get("/")

    async def content(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        await self.visit(lambda request: found.append(copy.deepcopy(dict(request.session))))
        return found[0]


async def warm(manager: SessionManager, content: dict[str, Any] = CONTENT) -> Site:
    site = Site(manager)
    await site.visit(lambda request: request.session.update(copy.deepcopy(content)))
    assert await site.content() == content
    return site
