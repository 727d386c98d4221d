"""``exclude``: paths that have no session, no I/O and no cookie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from sessionware import SessionManager, SessionMiddleware
from tests.apps import COOKIE, Browser
from tests.asgi.site import Act, Site, Visitor, rows, statements

pytestmark = pytest.mark.anyio


@pytest.fixture
async def browser(make_site: Callable[..., Site]) -> Visitor:
    """A browser with a session, on a site with excluded paths."""
    browser = make_site(exclude=["/static", "/api/", "/exact.txt"]).browser()
    await browser.visit(lambda session: session.update(a=1))
    return browser


EXCLUDED = ["/static", "/static/", "/static/app.css", "/api/", "/api/v1/users", "/exact.txt"]
INCLUDED = ["/", "/statics", "/static.css", "/api", "/apis", "/my/static/app.css", "/Static/x"]


@pytest.mark.parametrize("path", EXCLUDED)
async def test_an_excluded_path_reads_an_empty_session_and_costs_nothing(
    browser: Visitor, path: str
) -> None:
    acts: list[tuple[Act | None, Any]] = [
        (None, None),
        (dict, {}),
        (len, 0),
        (lambda s: s.get("a"), None),
        (lambda s: "a" in s, False),
    ]
    for act, expected in acts:
        with statements() as executed:
            answer = await browser.visit(act, path)
        assert answer.json() == expected
        assert {name for name, _ in answer.headers} == {b"content-length", b"content-type"}
        assert executed == []


@pytest.mark.parametrize("path", INCLUDED)
async def test_a_prefix_ends_at_a_segment_and_is_compared_as_it_is(
    browser: Visitor, path: str
) -> None:
    assert await browser.content(path=path) == {"a": 1}


async def test_not_even_the_signature_of_an_excluded_requests_cookie_is_looked_at(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(exclude=["/static"])
    await site.browser().visit(dict, "/static/x", cookie=f"{COOKIE}=junk")
    assert site.events == []


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.update(a=2),
        lambda s: s.__setitem__("a", 2),
        lambda s: s.setdefault("a", 2),
        lambda s: s.__ior__({"a": 2}),
        lambda s: s.clear(),
        lambda s: s.invalidate(),
        lambda s: s.rotate(),
        lambda s: s.mark_modified(),
        lambda s: s.set_expiry(60),
    ],
    ids=[
        "update", "[]", "setdefault", "|=", "clear", "invalidate", "rotate", "mark_modified",
        "set_expiry",
    ],
)  # fmt: skip
async def test_writing_where_there_is_no_session_says_which_setting_is_why(
    browser: Visitor, act: Act
) -> None:
    before = rows()
    with pytest.raises(RuntimeError, match="exclude"):
        await browser.visit(act, "/static/x")
    assert rows() == before


@pytest.mark.parametrize(
    "call",
    [lambda s: s.asave(), lambda s: s.aincr("n"), lambda s: s.atake("a", None)],
    ids=["asave", "aincr", "atake"],
)
async def test_io_where_there_is_no_session_says_which_setting_is_why(
    browser: Visitor, call: Act
) -> None:
    async def handler(request: Request) -> None:
        await call(request.scope["session"])

    with pytest.raises(RuntimeError, match="exclude"):
        await browser.serve(handler, "/static/x")


@pytest.mark.parametrize("path", ["/app/static/x", "/static/x"])
async def test_the_prefix_is_of_the_whole_path_wherever_the_app_is_mounted(
    make_manager: Callable[..., SessionManager], path: str
) -> None:
    manager = make_manager(exclude=["/app/static"])

    def kind(request: Request) -> JSONResponse:
        return JSONResponse(type(request.scope["session"]).__name__)

    inner = Starlette(
        routes=[Route("/{path:path}", kind)],
        middleware=[Middleware(SessionMiddleware, manager=manager)],
    )
    app = Starlette(routes=[Mount("/app", app=inner), Mount("/", app=inner)])
    expected = "NoSession" if path.startswith("/app") else "Session"
    assert (await Browser(app).get(path)).json() == expected
