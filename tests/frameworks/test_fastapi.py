"""FastAPI behind the ASGI middleware."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from starlette.requests import Request

from sessionware import Session, SessionManager, SessionMiddleware, session_of
from tests.apps import Browser
from tests.frameworks.rules import NAMES, Refused, Rules, serve


def app_of(manager: SessionManager) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    # Not `async`: these run in threads, as most handlers of FastAPI's users do.
    def endpoint(name: str) -> Any:
        def answer(request: Request) -> object:
            try:
                return serve(name, request, lambda: request.session, request.query_params)
            except Refused as error:
                raise HTTPException(error.status) from None

        return answer

    for name in NAMES:
        app.get(f"/{name}")(endpoint(name))
    return app


class TestFastAPI(Rules):
    def browser(self, manager: SessionManager) -> Browser:
        return Browser(app_of(manager))

    async def test_a_dependency_has_the_session_with_its_type(
        self, manager: SessionManager
    ) -> None:
        app = FastAPI()
        app.add_middleware(SessionMiddleware, manager=manager)

        @app.get("/")
        async def count(session: Annotated[Session, Depends(session)]) -> Any:
            return await session.aincr("visits")

        browser = Browser(app)
        await browser.get("/")
        assert (await browser.get("/")).json() == 2


def session(request: Request) -> Session:
    return session_of(request)
