"""The same requests to the same app under ASGI and under WSGI: the same verdicts."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import anyio
import pytest

from sessionware import SessionManager
from sessionware.wsgi import SessionMiddleware
from tests.apps import COOKIE, SECRET, Answer, Browser, app_of
from tests.asgi.site import row, rows, statements
from tests.hostile_cookies import HOSTILE, ingredients
from tests.wsgi.site import WsgiBrowser, routes

JOURNEYS: dict[str, list[str]] = {
    "reading": ["/read", "/write?a=1", "/read", "/noop", "/read"],
    "writing": ["/write?a=1", "/write?a=1", "/write?a=2&b=3", "/read"],
    "statuses": [
        "/write?a=1",
        *(f"/status/{code}?a={code}" for code in (200, 201, 303, 400, 404, 499, 500, 503, 599)),
        "/read",
    ],
    "a first write of each status": [f"/status/{code}?a=1" for code in (500, 404)],
    "logging in": ["/login?user=alice", "/read", "/login?user=alice", "/write?a=1", "/read"],
    "another user": ["/write?a=1", "/login?user=alice", "/login?user=bob", "/read"],
    "logging out": ["/login?user=alice", "/logout", "/read", "/logout"],
    "emptying": ["/write?a=1", "/clear", "/read", "/clear", "/write?a=2", "/read"],
    "rotating": ["/rotate", "/write?a=1", "/rotate", "/read"],
    "failing": ["/boom?a=1", "/write?a=1", "/boom?a=2", "/read", "/boom"],
}


class Seen(NamedTuple):
    """What a client and a database see of a request."""

    status: int
    body: Any
    set_cookies: list[str]
    vary: list[str]
    cache_control: list[str]
    executed: list[str]
    rows: int


def seen(answer: Answer, executed: list[str]) -> Seen:
    failed = answer.status == 500
    return Seen(
        answer.status,
        None if failed else answer.body.replace(b", ", b",").replace(b": ", b":"),
        [re.sub(r"=[\w-]{43}\.[\w-]{43};", "=TOKEN;", value) for value in answer.set_cookies],
        answer.all("vary"),
        answer.all("cache-control"),
        list(executed),
        len(rows()),
    )


class Worlds:
    """The app in both worlds, each with a manager and a database file of its own."""

    def __init__(self, make_manager: Callable[..., SessionManager], **settings: Any) -> None:
        self.manager = make_manager(**settings)
        self.asgi = app_of(self.manager)
        self.wsgi = SessionMiddleware(routes, manager=self.manager)

    def ask_asgi(self, browser: Browser, path: str, **request: Any) -> Seen:
        with statements() as executed:
            answer = anyio.run(partial(browser.get, path, may_fail=True, **request))
        return seen(answer, executed)

    def ask_wsgi(self, browser: WsgiBrowser, path: str, **request: Any) -> Seen:
        with statements() as executed:
            answer = browser.get(path, may_fail=True, **request)
        return seen(answer, executed)


@pytest.mark.parametrize("journey", JOURNEYS.values(), ids=JOURNEYS)
def test_a_visitor_gets_the_same_answers_cookies_and_statements_in_both_worlds(
    make_manager: Callable[..., SessionManager], journey: list[str]
) -> None:
    worlds = Worlds(make_manager, coherence="bounded")
    under_asgi, under_wsgi = Browser(worlds.asgi), WsgiBrowser(worlds.wsgi)

    asgi = [worlds.ask_asgi(under_asgi, path) for path in journey]
    left = len(rows())
    wsgi = [worlds.ask_wsgi(under_wsgi, path) for path in journey]

    assert [each._replace(rows=each.rows - left) for each in wsgi] == asgi
    assert (under_asgi.token is None) == (under_wsgi.token is None)


def test_a_session_goes_to_and_fro_between_the_worlds(
    make_manager: Callable[..., SessionManager],
) -> None:
    worlds = Worlds(make_manager)
    under_asgi, under_wsgi = Browser(worlds.asgi), WsgiBrowser(worlds.wsgi)
    worlds.ask_asgi(under_asgi, "/login?user=alice")

    under_wsgi.token = under_asgi.token
    assert worlds.ask_wsgi(under_wsgi, "/write?a=1").body == b'{"user_id":"alice","a":"1"}'
    assert worlds.ask_asgi(under_asgi, "/read").body == b'{"user_id":"alice","a":"1"}'
    worlds.ask_wsgi(under_wsgi, "/logout")
    assert worlds.ask_asgi(under_asgi, "/read").body == b"{}"


LATIN_1 = [
    *(b"%c={name}" % byte for byte in (0x80, 0xA0, 0xE9, 0xFF)),
    *(b"{name}%c={valid}" % byte for byte in (0x80, 0x85, 0xA0, 0xAD, 0xE9, 0xFF)),
    *(b"%c{name}={valid}" % byte for byte in (0x80, 0x85, 0xA0, 0xAD, 0xE9, 0xFF)),
    *(b"{name}={valid}%c" % byte for byte in (0x80, 0x85, 0xA0, 0xE9, 0xFF)),
    *(b"{name}=%c{valid}" % byte for byte in (0x80, 0x85, 0xA0, 0xE9, 0xFF)),
    "a=é; {name}={valid}; b=ü".encode("latin-1"),
    "a=é; {name}={valid}; b=ü".encode(),
    "a=\N{GREEK SMALL LETTER ALPHA}; {name}={valid}".encode(),
    "{name}={valid}; {name}=é".encode("latin-1"),
    b"a=\x80\x81\x82; {name}={valid}",
    b"\xff\xfe; {name}={valid}; \x80=\x80",
]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/read", "/write?a=1", "/login?user=eve", "/logout", "/noop"])
def test_the_same_cookie_bytes_get_the_same_verdict_in_both_worlds(
    make_manager: Callable[..., SessionManager], path: str
) -> None:
    """Status, body, cookie, statements and rows; bytes from 0x80 up among them."""
    events: list[str] = []
    worlds = Worlds(make_manager, cache_ttl=0, on_event=lambda event: events.append(event.kind))
    asgi, wsgi = Browser(worlds.asgi), WsgiBrowser(worlds.wsgi)
    other = Browser(worlds.asgi)
    anyio.run(other.get, "/write?me=other")
    corpus = [(case.label, case.filled, case.kind) for case in HOSTILE]
    template = next(case for case in HOSTILE if case.kind == "valid")
    for raw in LATIN_1:
        case = template._replace(label=repr(raw), fields=(raw,))
        corpus.append((case.label, case.filled, ""))

    for label, filled, kind in corpus:
        verdicts = []
        for ask in (partial(worlds.ask_asgi, asgi), partial(worlds.ask_wsgi, wsgi)):
            mine = Browser(worlds.asgi)
            anyio.run(mine.get, "/write?me=mine")
            assert mine.token is not None
            assert other.token is not None
            placeholders = ingredients(SECRET, COOKIE, mine.token, other.token)
            before = {each.sid_hash for each in rows()}
            events.clear()
            found = ask(path, cookie=filled(placeholders))
            gone = len(before - {each.sid_hash for each in rows()})
            verdicts.append((found._replace(rows=len(rows()) - len(before)), gone, list(events)))
        (first, _, _), (second, _, _) = verdicts
        if path == "/noop":
            # What is not looked at is loaded under ASGI only.
            verdicts[0] = (first._replace(executed=second.executed), *verdicts[0][1:])
        assert verdicts[0] == verdicts[1], label
        if kind and path == "/read":
            valid = kind == "valid"
            assert second.executed == (["SELECT"] if valid else []), label
            assert second.body == (b'{"me":"mine"}' if valid else b"{}"), label


def test_a_character_that_no_gateway_makes_is_no_cookie_of_ours(
    make_manager: Callable[..., SessionManager],
) -> None:
    worlds = Worlds(make_manager)
    browser = WsgiBrowser(worlds.wsgi)
    browser.get("/write?a=1")
    before = row()
    for wrong in ("\N{EURO SIGN}", "\N{FULLWIDTH EQUALS SIGN}", "\ud800"):
        for header in (f"{COOKIE}={browser.token}{wrong}", f"{wrong}{COOKIE}={browser.token}"):
            answer = browser.get("/read", cookie=None, HTTP_COOKIE=header)
            assert (answer.json(), answer.set_cookies) == ({}, [])
    answer = browser.get("/read", cookie=None, HTTP_COOKIE=f"\ud800=1; {COOKIE}={browser.token}")
    assert answer.json() == {"a": "1"}
    assert row() == before
