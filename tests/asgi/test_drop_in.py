"""Beside Starlette's own middleware: the same answers, and right ones where it is wrong."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import itsdangerous
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import Session as StarlettesSession
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from sessionware import Session, SessionMiddleware
from tests.apps import COOKIE, SECRET, Answer, Browser
from tests.asgi.site import Site, rows
from tests.byhand import Clock
from tests.services import AS_STARLETTE_DOES

pytestmark = AS_STARLETTE_DOES

Act = Callable[[Any], object]
Clients = Callable[..., TestClient]


@pytest.fixture
def connect(test_client_factory: Callable[..., TestClient]) -> Iterator[Callable[..., Clients]]:
    """Makes clients of an app whose endpoint does ``act`` with ``request.session``."""
    with ExitStack() as stack:

        def make(middleware: Any, act: Callable[[], Act | None], **settings: Any) -> TestClient:
            def endpoint(request: Request) -> Response:
                todo = act()
                if todo is not None:
                    todo(request.session)
                return PlainTextResponse("done")

            app = Starlette(
                routes=[Route("/{path:path}", endpoint)],
                middleware=[Middleware(middleware, secret_key=SECRET, **settings)],
            )
            return stack.enter_context(test_client_factory(app))

        yield make  # type: ignore[misc]


VALUE = re.compile(r"^([^=]+)=(?!null;)[^;]*;")


def said(answer: Any) -> tuple[int, list[str], list[str]]:
    """What an answer says of the session, the cookie's value apart."""
    cookies = [
        VALUE.sub(r"\1=<value>;", cookie) for cookie in answer.headers.get_list("set-cookie")
    ]
    return answer.status_code, cookies, answer.headers.get_list("vary")


SETTINGS: list[dict[str, Any]] = [
    {},
    {"session_cookie": "sid"},
    {"max_age": 3600},
    {"max_age": None},
    {"path": "/app"},
    {"same_site": "strict"},
    {"https_only": True},
    {"same_site": "none", "https_only": True},
    {"domain": "example.com"},
    {"partitioned": True, "https_only": True},
    {
        "session_cookie": "sid", "max_age": 60, "path": "/app", "same_site": "strict",
        "https_only": True, "domain": "example.com", "partitioned": True,
    },
]  # fmt: skip


def write(session: Any) -> None:
    session["a"] = 1


def write_and_delete(session: Any) -> None:
    session["a"] = 1
    del session["a"]


HISTORIES: dict[str, list[Act | None]] = {
    "nothing": [None],
    "read": [lambda s: s.get("a")],
    "in": [lambda s: "a" in s],
    "written": [write],
    "written and untouched": [write, None],
    "written and read": [write, lambda s: s["a"]],
    "written and cleared": [write, lambda s: s.clear()],
    "written and cleared twice": [write, lambda s: s.clear(), lambda s: s.clear()],
    "written and deleted": [write, lambda s: s.pop("a")],
    "deleted in the same request": [write_and_delete],
    "cleared without a session": [lambda s: s.clear()],
    "popped without a session": [lambda s: s.pop("a", None)],
    "set by default": [lambda s: s.setdefault("a", 1)],
    "set by default again": [write, lambda s: s.setdefault("a", 1)],
    "updated": [lambda s: s.update({"a": 1})],
    "united": [lambda s: s.__ior__({"a": 1})],
    "written anew after the end": [write, lambda s: s.clear(), write],
}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: "-".join(each) or "defaults")
def test_a_browser_is_told_what_starlette_would_tell_it(
    clock: Clock, connect: Clients, settings: dict[str, Any]
) -> None:
    current: list[Act | None] = [None]
    told: list[dict[str, Any]] = []
    for middleware in (StarlettesMiddleware, SessionMiddleware):
        client = connect(middleware, lambda: current[0], **settings)
        told.append({label: [] for label in HISTORIES})
        for label, history in HISTORIES.items():
            cookie = ""
            for current[0] in history:
                # Not every cookie that is set would be sent back over http to this path and domain.
                answer = client.get("/app", headers={"cookie": cookie})
                client.cookies.clear()
                for value in answer.headers.get_list("set-cookie"):
                    cookie = value.partition(";")[0] if "=null;" not in value else ""
                told[-1][label].append(said(answer))
    assert told[1] == told[0]


@pytest.mark.parametrize("act", [None, dict, write, lambda s: s.clear()])
def test_a_bad_cookie_is_answered_as_starlette_would(connect: Clients, act: Act | None) -> None:
    theirs, ours = (
        connect(middleware, lambda: act) for middleware in (StarlettesMiddleware, SessionMiddleware)
    )
    for cookie in ("session=junk", "session=", "session=a.b.c", "other=1"):
        told = [said(client.get("/", headers={"cookie": cookie})) for client in (theirs, ours)]
        assert told[1] == told[0]


def test_a_nested_change_is_saved_though_starlette_would_lose_it(connect: Clients) -> None:
    acts: list[Act] = [
        lambda s: s.update(cart=[]),
        lambda s: s["cart"].append("tea"),
    ]
    client = connect(SessionMiddleware, lambda: acts.pop(0))
    for _ in range(2):
        client.get("/")
    seen: list[Any] = []
    acts.append(lambda s: seen.append(dict(s)))
    client.get("/")
    assert seen == [{"cart": ["tea"]}]


@pytest.mark.parametrize(
    "content",
    [b"not base64", b64encode(b"not json"), b64encode(b"[1]"), b64encode(b"1"), b64encode(b"\xff")],
)
def test_a_cookie_of_starlettes_own_that_would_fail_there_is_anonymous(
    connect: Clients, content: bytes
) -> None:
    signed = itsdangerous.TimestampSigner(SECRET).sign(content).decode()
    seen: list[Any] = []
    client = connect(SessionMiddleware, lambda: lambda s: seen.append(dict(s)))
    answer = client.get("/", headers={"cookie": f"{COOKIE}={signed}"})
    assert said(answer) == (200, [], ["Cookie"])
    assert seen == [{}]


@pytest.mark.parametrize("mapping", [dict, Session])
@pytest.mark.anyio
async def test_a_mapping_put_in_place_of_the_session_is_saved(
    site: Site, mapping: Callable[[Mapping[str, Any]], Any]
) -> None:
    browser = site.browser()

    def replace(content: dict[str, Any]) -> Callable[[Request], None]:
        def handler(request: Request) -> None:
            request.scope["session"] = mapping(content)

        return handler

    assert len((await browser.serve(replace({"a": 1}))).set_cookies) == 1
    assert await browser.content() == {"a": 1}
    assert (await browser.serve(replace({"b": 2}))).set_cookies == []
    assert await browser.content() == {"b": 2}
    await browser.serve(replace({}))
    assert rows() == []


@pytest.mark.anyio
async def test_what_is_written_into_the_mapping_after_it_was_put_there_is_saved(
    site: Site,
) -> None:
    browser = site.browser()

    def handler(request: Request) -> None:
        request.session["a"] = 1
        request.scope["session"] = dict(request.session)
        request.session["b"] = 2

    await browser.serve(handler)
    assert await browser.content() == {"a": 1, "b": 2}


@pytest.mark.anyio
async def test_a_response_start_without_headers_gets_them() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"done"})

    wrapped = SessionMiddleware(app, SECRET, purge_interval=None)
    answer: Answer = await Browser(wrapped).get("/")
    await wrapped.manager.ashutdown()
    assert [name for name, _ in answer.headers] == [b"vary", b"cache-control", b"set-cookie"]
    assert answer.body == b"done"


@pytest.mark.anyio
async def test_a_response_start_without_headers_and_session_passes_as_it_is() -> None:
    start: Message = {"type": "http.response.start", "status": 204}
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "path": "/", "headers": []}
    await SessionMiddleware(app, SECRET)(scope, receive, send)
    assert sent == [{"type": "http.response.start", "status": 204}]


OPERATIONS: dict[str, Act] = {
    "get": lambda s: s.get("a"),
    "[]": lambda s: s["a"],
    "[] missing": lambda s: s["z"],
    "set": lambda s: s.__setitem__("a", 2),
    "set the same": lambda s: s.__setitem__("a", 1),
    "set new": lambda s: s.__setitem__("z", 2),
    "del": lambda s: s.__delitem__("a"),
    "del missing": lambda s: s.__delitem__("z"),
    "pop": lambda s: s.pop("a"),
    "pop missing": lambda s: s.pop("z"),
    "pop missing with default": lambda s: s.pop("z", 3),
    "popitem": lambda s: s.popitem(),
    "popitem of nothing": lambda s: [s.popitem() for _ in range(9)],
    "clear": lambda s: s.clear(),
    "setdefault": lambda s: s.setdefault("a", 9),
    "setdefault new": lambda s: s.setdefault("z", 9),
    "setdefault without a value": lambda s: s.setdefault("z"),
    "update": lambda s: s.update({"a": 5}, z=6),
    "update pairs": lambda s: s.update([("a", 5)]),
    "update nothing": lambda s: s.update(),
    "update wrongly": lambda s: s.update(5),
    "|=": lambda s: s.__ior__({"z": 1}),
    "|= pairs": lambda s: s.__ior__([("z", 1)]),
    "|": lambda s: s | {"z": 1},
    "mark_accessed": lambda s: s.mark_accessed(),
    "mark_modified": lambda s: s.mark_modified(),
    "nested": lambda s: s["b"].append(1),
    "copy": lambda s: s.copy(),
    "keys": lambda s: list(s.keys()),
    "items": lambda s: list(s.items()),
    "len": len,
    "in": lambda s: "a" in s,
    "== dict": lambda s: s == {"a": 1, "b": []},
    "isinstance": lambda s: isinstance(s, dict),
    "unhashable": hash,
}


@pytest.mark.parametrize("act", OPERATIONS.values(), ids=OPERATIONS)
def test_a_session_does_and_notes_what_starlettes_does(act: Act) -> None:
    outcomes = []
    for kind in (StarlettesSession, Session):
        session: Any = kind({"a": 1, "b": []})
        fresh = (session.accessed, session.modified)
        try:
            result = act(session)
        except Exception as error:
            result = type(error)
        content = dict(dict.items(session))
        result = "itself" if result is session else result
        outcomes.append((fresh, result, session.modified, content))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("make", [lambda k: k(), lambda k: k(a=1), lambda k: k([("a", 1)], b=2)])
def test_a_session_is_made_as_a_dict_is(make: Callable[[Any], dict[str, Any]]) -> None:
    assert make(Session) == make(StarlettesSession) == make(dict)
