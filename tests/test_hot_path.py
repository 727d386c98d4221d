"""What a request costs in Python: function calls and bytes counted, not time measured.

A clock can't tell a busy machine from code that has become slower; these are the same on each run.
Counted are the Python functions that are entered or resumed, the library's and those that it calls,
between the server and an application.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sessionware import SessionManager, SessionMiddleware
from sessionware.wsgi import SessionMiddleware as WSGIMiddleware
from tests.apps import COOKIE, SECRET, Browser, Managers

pytestmark = pytest.mark.anyio

# What each kind of request costs now, on CPython 3.11. State it anew when it has become less. Where
# more calls take less time, as with attributes in slots that have to be set, say so there.
CALLS = {
    "Starlette": {"read": 24, "untouched": 16, "anonymous": 17, "forged": 26},
    "no framework": {"read": 23, "untouched": 18, "anonymous": 17, "forged": 26},
    "WSGI": {"read": 40, "untouched": 18, "anonymous": 26, "forged": 35},
}
# Bytes that a request has allocated at its height.
BYTES = {
    "Starlette": {"read": 2316, "untouched": 1000, "anonymous": 960, "forged": 960},
    "no framework": {"read": 2316, "untouched": 2164, "anonymous": 960, "forged": 960},
}
KINDS = ("read", "untouched", "anonymous", "forged")
LEEWAY = 1.1
PATHS = {"untouched": "/untouched"}  # All others look for a key.


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Not here: what it puts around functions would be counted."""


class Counter:
    """Counts what this thread enters or resumes."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event == "call"


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    pass


async def read(request: Request) -> Response:
    request.session.get("user")
    return ANSWER


async def untouched(request: Request) -> Response:
    return ANSWER


async def write(request: Request) -> Response:
    request.session["user"] = "alice"
    request.session["cart"] = [{"sku": f"SKU-{number}", "count": 1} for number in range(12)]
    return ANSWER


ANSWER = PlainTextResponse("ok")
ROUTES = [Route(f"/{each.__name__}", each) for each in (read, untouched, write)]


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application without a framework, which is given its sessions decoded."""
    handler = {"/read": read, "/write": write}.get(scope["path"], untouched)
    await (await handler(Request(scope)))(scope, receive, send)


# The same with sessions and without, so that what the framework does is no part of the difference.
APPS: dict[str, Callable[[], ASGIApp]] = {
    "Starlette": lambda: Starlette(routes=ROUTES),
    "no framework": lambda: raw,
}


def least(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A WSGI application without a framework."""
    if environ["PATH_INFO"] == "/write":
        environ["sessionware.session"]["user"] = "alice"
    elif environ["PATH_INFO"] == "/read":
        environ["sessionware.session"].get("user")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def scope_of(path: str, cookie: str | None) -> Scope:
    headers = [(b"host", b"testserver"), (b"accept", b"*/*"), (b"user-agent", b"counting")]
    if cookie is not None:
        headers.append((b"cookie", f"{COOKIE}={cookie}".encode()))
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "scheme": "http",
        "headers": headers,
        "session": {},
    }


def run(app: ASGIApp, scope: Scope) -> None:
    """One request that never waits, so that nothing else of this thread runs meanwhile."""
    for _ in app(scope, receive, send).__await__():
        pytest.fail("a request that is served from memory has waited")


def calls_of(call: Callable[[], object]) -> int:
    counter = Counter()
    before = sys.getprofile()
    sys.setprofile(counter)
    try:
        call()
    finally:
        sys.setprofile(before)
    return counter.calls


def bytes_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture
async def managers() -> AsyncIterator[Managers]:
    async with aclosing(Managers()) as made:
        yield made


class Measured(NamedTuple):
    calls: dict[str, int]
    bytes: dict[str, int]


async def measured(kind_of_app: str, manager: SessionManager) -> Measured:
    """By kind of request, without what the application does itself."""
    bare = APPS[kind_of_app]()
    app = SessionMiddleware(APPS[kind_of_app](), manager=manager)
    browser = Browser(app)
    await browser.get("/write")
    token = browser.token
    assert token is not None
    cookies = {"anonymous": None, "forged": forged(token)}

    found = Measured({}, {})
    for kind in KINDS:
        scope = partial(scope_of, PATHS.get(kind, "/read"), cookies.get(kind, token))
        # What is looked after from time to time is not due right after a request.
        await browser.get("/read")
        await browser.get("/read")
        for figures, measure in ((found.calls, calls_of), (found.bytes, bytes_of)):
            # The first of each fills what is computed once.
            with_session, without = (
                min(measure(partial(run, each, scope())) for _ in range(3)) for each in (app, bare)
            )
            figures[kind] = with_session - without
    return found


def forged(token: str) -> str:
    return token[:-9] + ("A" if token[-9] != "A" else "B") + token[-8:]


def check(now: dict[str, int], stated: dict[str, int]) -> None:
    more = {kind for kind, figure in now.items() if figure > stated[kind] * LEEWAY}
    assert not more, f"now {now}, and the table says {stated}"


@pytest.mark.parametrize("kind_of_app", APPS)
async def test_no_request_that_is_served_from_memory_costs_much_more_than_it_did(
    managers: Managers, kind_of_app: str
) -> None:
    now = await measured(kind_of_app, managers())
    check(now.calls, CALLS[kind_of_app])
    check(now.bytes, BYTES[kind_of_app])


def test_the_same_holds_under_wsgi(sqlite_url: str) -> None:
    manager = SessionManager(secret_key=SECRET, store=sqlite_url, purge_interval=None)
    app = WSGIMiddleware(least, manager=manager)
    sent: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        sent.extend(value for name, value in headers if name == "Set-Cookie")

    def ask(app: Any, path: str, cookie: str | None) -> None:
        environ: dict[str, Any] = {"PATH_INFO": path, "SCRIPT_NAME": "", "sessionware.session": {}}
        if cookie is not None:
            environ["HTTP_COOKIE"] = cookie
        body = app(environ, start_response)
        list(body)
        if hasattr(body, "close"):
            body.close()

    ask(app, "/write", None)
    cookie = sent[0].partition(";")[0]
    now = {}
    for kind in KINDS:
        path = PATHS.get(kind, "/read")
        presented = {"anonymous": None, "forged": forged(cookie)}.get(kind, cookie)
        ask(app, "/read", cookie)
        with_session = min(calls_of(partial(ask, app, path, presented)) for _ in range(3))
        now[kind] = with_session - calls_of(partial(ask, least, path, presented))
    manager.shutdown()
    check(now, CALLS["WSGI"])
