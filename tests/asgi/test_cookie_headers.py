"""Set-Cookie, Vary and Cache-Control: what a response says of the session, and when nothing."""

from __future__ import annotations

import copy
import json
import operator
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from sessionware import MemoryStore, Session, SessionMiddleware, manager_of, session_of
from tests.apps import COOKIE, SECRET, Browser, attributes
from tests.asgi.site import Act, Site, Visitor, in_turn

pytestmark = pytest.mark.anyio

COOKIE_HEADER = re.compile(
    r"session=([A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}); path=/; Max-Age=1209600; "
    r"httponly; samesite=lax"
)
EXPIRED_HEADER = (
    "session=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; httponly; samesite=lax"
)


@pytest.fixture
async def stored(browser: Visitor) -> Visitor:
    await browser.visit(lambda session: session.update(a=1, b=[2]))
    return browser


async def test_only_create_rotate_and_end_send_a_cookie(browser: Visitor) -> None:
    steps: list[tuple[Act | None, str]] = [
        (None, ""),
        (dict, ""),
        (lambda s: s.update(a=1), "set"),
        (None, ""),
        (dict, ""),
        (lambda s: s.update(a=2), ""),
        (lambda s: s.update(b=[]), ""),
        (lambda s: s["b"].append(1), ""),
        (lambda s: s.pop("b"), ""),
        (in_turn(Session.clear, lambda s: s.update(c=1)), ""),
        (Session.mark_modified, ""),
        (Session.rotate, "set"),
        (lambda s: s.update(user_id="alice"), "set"),
        (lambda s: s.update(user_id="alice"), ""),
        (lambda s: s.update(user_id="bob"), "set"),
        (in_turn(lambda s: s.pop("user_id"), lambda s: s.update(d=1)), "set"),
        (in_turn(Session.invalidate, lambda s: s.update(e=1)), "set"),
        (Session.clear, "expire"),
        (Session.clear, ""),
        (dict, ""),
        (lambda s: s.update(a=1), "set"),
        (Session.invalidate, "expire"),
    ]
    tokens = set()
    for act, expected in steps:
        answer = await browser.visit(act)
        if not expected:
            assert answer.set_cookies == []
        elif expected == "expire":
            assert answer.set_cookie == EXPIRED_HEADER
        else:
            assert COOKIE_HEADER.fullmatch(answer.set_cookie)
            tokens.add(answer.token)
    assert len(tokens) == sum(expected == "set" for _, expected in steps)


async def test_many_reads_and_writes_send_no_cookie(stored: Visitor) -> None:
    for number in range(50):
        for act in (dict, lambda s, number=number: s.update(n=number)):
            assert (await stored.visit(act)).set_cookies == []


@pytest.mark.parametrize(
    "act",
    [
        in_turn(Session.rotate, Session.rotate),
        in_turn(lambda s: s.update(user_id="alice"), lambda s: s.update(user_id="bob")),
        in_turn(Session.rotate, Session.invalidate, lambda s: s.update(user_id="alice")),
        in_turn(Session.invalidate, Session.rotate),
        in_turn(Session.clear, Session.invalidate, Session.clear),
        in_turn(
            lambda s: s.update(user_id="x"),
            lambda s: s.pop("user_id"),
            Session.rotate,
            lambda s: s.set_expiry(60),
        ),
    ],
)
async def test_a_response_has_at_most_one_cookie(stored: Visitor, act: Act) -> None:
    assert len((await stored.visit(act)).set_cookies) == 1


async def test_commits_in_between_do_not_add_a_cookie(stored: Visitor) -> None:
    async def handler(request: Request) -> None:
        session = session_of(request)
        for user in ("alice", "bob"):
            session["user_id"] = user
            await session.asave()
        session.rotate()
        await session.asave()

    assert COOKIE_HEADER.fullmatch((await stored.serve(handler)).set_cookie)
    assert await stored.content() == {"user_id": "bob"}


async def test_a_login_committed_and_then_ended_expires_the_cookie(stored: Visitor) -> None:
    async def handler(request: Request) -> None:
        session = session_of(request)
        session["user_id"] = "alice"
        await session.asave()
        session.invalidate()
        await session.asave()

    assert (await stored.serve(handler)).set_cookie == EXPIRED_HEADER


async def test_a_session_made_and_ended_in_one_request_leaves_no_live_cookie(
    browser: Visitor,
) -> None:
    async def handler(request: Request) -> None:
        session = session_of(request)
        session["a"] = 1
        await session.asave()
        session.invalidate()

    assert (await browser.serve(handler)).set_cookies in ([], [EXPIRED_HEADER])
    assert await browser.content() == {}


SETTINGS: list[dict[str, Any]] = [
    {},
    {"session_cookie": "__Host-sid", "https_only": True},
    {"path": "/app"},
    {"domain": "example.com"},
    {"same_site": "strict"},
    {"same_site": "none", "https_only": True, "partitioned": True},
    {"max_age": None},
    {"max_age": 60, "domain": "example.com", "path": "/x", "https_only": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
async def test_the_cookie_is_expired_with_the_attributes_it_was_set_with(
    make_site: Callable[..., Site], settings: dict[str, Any]
) -> None:
    browser = make_site(**settings).browser()
    name = settings.get("session_cookie", COOKIE)
    created = (await browser.visit(lambda session: session.update(a=1))).set_cookie
    pair = created.partition(";")[0]
    ended = (await browser.visit(Session.invalidate, cookie=pair)).set_cookie
    assert created.startswith(f"{name}=")
    assert ended.startswith(f"{name}=null;")
    when_set, when_ended = attributes(created), attributes(ended)
    assert when_set.pop("max-age", None) == (
        None if settings.get("max_age", 1) is None else str(settings.get("max_age", 1209600))
    )
    assert when_ended.pop("expires") == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert when_set == when_ended


async def test_the_cookie_is_as_short_for_the_largest_session(browser: Visitor) -> None:
    answer = await browser.visit(lambda session: session.update(a="x" * 60_000))
    assert len(answer.set_cookie) < 200


async def test_host_scheme_and_proxy_headers_do_not_change_the_cookie(site: Site) -> None:
    number = site.expect(lambda request: request.session.update(a=1))
    browser = Browser(site.app, scheme="https")
    spoofed = [
        ("x-handler", number), ("host", "evil.example"), ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"), ("forwarded", "proto=https;host=evil.example"),
    ]  # fmt: skip
    answer = await browser.get("/", headers=spoofed)
    assert COOKIE_HEADER.fullmatch(answer.set_cookie)


def count_by_iterating(session: Session) -> int:
    return sum(1 for _ in session)


USES: dict[str, Act] = {
    "[]": lambda s: s["a"],
    "[] of a missing key": lambda s: isinstance(_caught(lambda: s["nothing"]), KeyError),
    "get": lambda s: s.get("a"),
    "in": lambda s: "a" in s,
    "not in": lambda s: "nothing" not in s,
    "len": len,
    "bool": bool,
    "iter": count_by_iterating,
    "reversed": lambda s: list(reversed(s)),
    "list": list,
    "sorted": sorted,
    "==": lambda s: s == {},
    "!=": lambda s: s != {},
    "== from the left": lambda s: operator.eq({}, s),
    "keys": lambda s: list(s.keys()),
    "values": lambda s: list(s.values()),
    "items": lambda s: list(s.items()),
    "copy": lambda s: s.copy(),
    "dict": dict,
    "**": lambda s: {**s},
    "|": lambda s: s | {},
    "| from the left": lambda s: {} | s,
    "update of another": lambda s: {}.update(s),
    "repr": repr,
    "str": str,
    "format": lambda s: f"{s}",
    "json": json.dumps,
    "copy.copy": lambda s: copy.copy(s),
    "copy.deepcopy": lambda s: copy.deepcopy(s),
    "pickle": lambda s: len(pickle.dumps(s)),
    "match": lambda s: _matched(s),
    "pop of a missing key": lambda s: s.pop("nothing", None),
    "setdefault of a key that is there": lambda s: s.setdefault("a", 1),
    "is_new": lambda s: s.is_new,
    "handle": lambda s: s.handle,
    "created_at": lambda s: str(s.created_at),
    "authenticated_at": lambda s: str(s.authenticated_at),
    "require_recent": lambda s: str(_caught(lambda: s.require_recent(1))),
    "mark_accessed": Session.mark_accessed,
    "rotate": Session.rotate,
    "popitem": lambda s: isinstance(_caught(s.popitem), KeyError),
}


def _caught(action: Callable[[], object]) -> Exception | None:
    try:
        action()
    except Exception as error:
        return error
    return None


def _matched(session: Session) -> bool:
    match session:
        case {"a": _}:
            return True
    return False


def using(act: Act) -> Callable[[Request], Response]:
    """What Starlette's ``request.session`` would mark is left to the dict alone."""

    def handler(request: Request) -> Response:
        act(request.scope["session"])
        return JSONResponse("done")

    return handler


@pytest.mark.parametrize("act", USES.values(), ids=USES)
async def test_a_response_that_used_a_stored_session_in_any_way_varies_with_the_cookie(
    stored: Visitor, act: Act
) -> None:
    answer = await stored.serve(using(act))
    assert (answer.status, answer.all("vary")) == (200, ["Cookie"])


# The C encoder of json looks at the dict's size and never calls an empty one.
USES_OF_EMPTY = {
    use: act
    for use, act in USES.items()
    if use not in ("[]", "json", "setdefault of a key that is there")
}


@pytest.mark.parametrize("act", USES_OF_EMPTY.values(), ids=USES_OF_EMPTY)
async def test_a_response_that_used_an_empty_session_in_any_way_varies_with_the_cookie(
    browser: Visitor, act: Act
) -> None:
    answer = await browser.serve(using(act))
    assert (answer.status, answer.all("vary"), answer.set_cookies) == (200, ["Cookie"], [])


@pytest.mark.parametrize(
    "reach",
    [lambda request: request.session, session_of],
    ids=["request.session", "session_of"],
)
async def test_to_reach_for_the_session_is_to_use_it(
    browser: Visitor, reach: Callable[[Request], object]
) -> None:
    answer = await browser.serve(lambda request: reach(request) and None)
    assert answer.all("vary") == ["Cookie"]


async def test_a_response_that_did_not_use_the_session_says_nothing_of_it(
    stored: Visitor,
) -> None:
    for cookie in ("", None, f"{COOKIE}=junk"):
        answer = await stored.visit(None, cookie=cookie)
        names = {name for name, _ in answer.headers}
        assert names == {b"content-length", b"content-type"}


async def test_to_ask_for_the_manager_is_not_to_use_the_session(stored: Visitor) -> None:
    answer = await stored.serve(lambda request: manager_of(request) and None)
    assert answer.all("vary") == []


async def test_a_response_that_was_only_read_keeps_its_cache_control(stored: Visitor) -> None:
    for control in (None, "public, max-age=60"):
        headers = {} if control is None else {"cache-control": control}

        def handler(request: Request, headers: dict[str, str] = headers) -> Response:
            return JSONResponse(dict(request.session), headers=headers)

        answer = await stored.serve(handler)
        assert answer.all("cache-control") == ([] if control is None else [control])


ENDS: dict[str, Act] = {
    "create": in_turn(Session.invalidate, lambda s: s.update(a=2)),
    "rotate": Session.rotate,
    "expire": Session.invalidate,
}


@pytest.mark.parametrize("act", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, "no-store"),
        ("public, max-age=60", "no-store"),
        ("private", "no-store"),
        ("no-cache", "no-store"),
        ("private, no-store, max-age=0", "private, no-store, max-age=0"),
        ("No-Store", "No-Store"),
    ],
)
async def test_a_response_with_a_cookie_is_stored_by_no_cache(
    stored: Visitor, act: Act, given: str | None, sent: str
) -> None:
    def handler(request: Request) -> Response:
        act(session_of(request))
        return JSONResponse("", headers={} if given is None else {"Cache-Control": given})

    answer = await stored.serve(handler)
    assert (answer.all("cache-control"), answer.all("vary")) == ([sent], ["Cookie"])
    assert len(answer.set_cookies) == 1


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("Accept", "Accept, Cookie"),
        ("Accept-Encoding, Accept", "Accept-Encoding, Accept, Cookie"),
        ("cookie", "cookie"),
        ("Accept, COOKIE", "Accept, COOKIE"),
        ("*", "*"),
        ("X-Cookie", "X-Cookie, Cookie"),
    ],
)
async def test_the_apps_own_vary_is_kept(stored: Visitor, given: str, sent: str) -> None:
    def handler(request: Request) -> Response:
        return JSONResponse(dict(request.session), headers={"Vary": given})

    assert (await stored.serve(handler)).all("vary") == [sent]


async def test_the_apps_own_cookies_stay(browser: Visitor) -> None:
    def handler(request: Request) -> Response:
        request.session["a"] = 1
        response = JSONResponse("")
        response.set_cookie("theme", "dark")
        response.set_cookie("lang", "en")
        return response

    theirs = [c for c in (await browser.serve(handler)).set_cookies if "session=" not in c]
    assert [c.partition(";")[0] for c in theirs] == ["theme=dark", "lang=en"]


@pytest.mark.parametrize("kind", [list, tuple])
async def test_header_lists_that_an_app_sends_again_and_again_do_not_grow(
    kind: Callable[[Any], Any],
) -> None:
    constant = kind([(b"x-app", b"1")])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = scope["session"].get("a", 0) + 1
        start: Message = {"type": "http.response.start", "status": 200, "headers": constant}
        await send(start)
        await send({"type": "http.response.body"})

    wrapped = SessionMiddleware(app, SECRET, store="sqlite://", purge_interval=None)
    for _ in range(3):
        answer = await Browser(wrapped).get("/")
        assert (len(answer.headers), len(answer.set_cookies)) == (4, 1)
    await wrapped.manager.ashutdown()
    assert constant == kind([(b"x-app", b"1")])


@pytest.mark.parametrize("used", [dict, lambda session: session.update(a=1)])
async def test_a_message_that_an_app_sends_again_and_again_carries_no_cookie_to_another_browser(
    used: Act,
) -> None:
    headers = [(b"x-app", b"1")]
    constant: Message = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            used(scope["session"])
        await send(constant)
        await send({"type": "http.response.body"})

    wrapped = SessionMiddleware(app, SECRET, store=MemoryStore())
    await Browser(wrapped).get("/")
    answer = await Browser(wrapped).get("/other")
    assert (answer.headers, answer.set_cookies) == (headers, [])
