"""What a request costs in Python: function calls counted, not time measured.

A clock can't tell a busy machine from code that has become slower; the number of calls is the same
on each run. Counted are the Python functions that are entered or resumed, the library's and those
that it calls, between the server and an ASGI application that does the least there is.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import FrameType
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sessionware import SessionMiddleware
from sessionware.stores.memory import MemoryStore
from tests.apps import COOKIE, Browser, Managers

pytestmark = pytest.mark.anyio

# What each kind of request costs now, on CPython 3.11. State it anew when it has become less.
CALLS = {
    "read": 22,
    "untouched": 18,
    "anonymous": 16,
    "forged": 24,
}
LEEWAY = 1.15
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


async def least(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without a framework."""
    if scope["path"] == "/write":
        scope["session"]["user"] = "alice"
    elif scope["path"] == "/read":
        scope["session"].get("user")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def calls_of(app: ASGIApp, path: str, cookie: str | None) -> int:
    """Of one request that never waits, so that nothing else of this thread runs meanwhile."""
    headers = [(b"host", b"testserver"), (b"accept", b"*/*"), (b"user-agent", b"counting")]
    if cookie is not None:
        headers.append((b"cookie", f"{COOKIE}={cookie}".encode()))
    scope = {"type": "http", "path": path, "scheme": "http", "headers": headers, "session": {}}
    counter = Counter()
    request = app(scope, receive, send).__await__()
    before = sys.getprofile()
    sys.setprofile(counter)
    try:
        for _ in request:
            pytest.fail("a request that is served from memory has waited")
    finally:
        sys.setprofile(before)
    return counter.calls


@pytest.fixture
async def managers() -> AsyncIterator[Managers]:
    async with aclosing(Managers()) as made:
        yield made


async def test_no_request_that_is_served_from_memory_makes_many_more_calls_than_it_did(
    managers: Managers,
) -> None:
    app = SessionMiddleware(least, manager=managers())
    browser = Browser(app)
    await browser.get("/write")
    token = browser.token
    assert token is not None
    forged = token[:-9] + ("A" if token[-9] != "A" else "B") + token[-8:]
    cookies = {"anonymous": None, "forged": forged}

    counted = {}
    for kind in CALLS:
        path, cookie = PATHS.get(kind, "/read"), cookies.get(kind, token)
        below = await calls_of(least, path, None)
        # What is looked after from time to time is not due right after a request.
        await browser.get("/read")
        # The first one fills what is computed once.
        counted[kind] = min([await calls_of(app, path, cookie) for _ in range(3)]) - below

    assert {kind: calls for kind, calls in counted.items() if calls > CALLS[kind] * LEEWAY} == {}, (
        f"now {counted}, and the table says {CALLS}"
    )


# The same of requests that write: with all that their flow does around its one statement, in the
# thread that counts, because the store is a dict in memory. Its few calls count too, and the
# application's.
WRITING_CALLS = {
    "write": 115,
    "nested": 133,
    "login": 122,
    "rotation": 189,
}


class Writing:
    """An application that never stores the same twice."""

    def __init__(self) -> None:
        self._n = 1_000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        self._n += 1
        match scope["path"]:
            case "/write":
                session["n"] = self._n
            case "/nested":
                session["cart"][0]["n"] = self._n
            case "/login" | "/rotation":
                session.update({"user_id": f"user {self._n}", "cart": [{"n": 1}]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


async def test_no_request_that_writes_makes_many_more_calls_than_it_did(
    managers: Managers,
) -> None:
    app = SessionMiddleware(Writing(), manager=managers(store=MemoryStore(), coherence="bounded"))

    async def fewest(kind: str) -> int:
        counted = []
        # The first one fills what is computed once.
        for _ in range(3):
            browser = Browser(app)
            if kind != "login":
                await browser.get("/login")
                # A row is read for the first time after it was written.
                await browser.get("/read")
            counted.append(await calls_of(app, f"/{kind}", browser.token))
        return min(counted)

    counted = {kind: await fewest(kind) for kind in WRITING_CALLS}

    assert {
        kind: calls for kind, calls in counted.items() if calls > WRITING_CALLS[kind] * LEEWAY
    } == {}, f"now {counted}, and the table says {WRITING_CALLS}"
