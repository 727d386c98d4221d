"""Which Set-Cookie goes out, when, and how it is spelled (R06 to R10, R12)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sessionware import SessionManager, session_of
from tests.apps import COOKIE, SECRET, Browser, Managers, app_of, attributes
from tests.hostile_cookies import HOSTILE, ingredients
from tests.security.conftest import Clock

pytestmark = pytest.mark.anyio

STRICT = re.compile(
    rf"{COOKIE}=[A-Za-z0-9_-]{{43}}\.[A-Za-z0-9_-]{{43}}; path=/; Max-Age=\d{{1,8}}; "
    r"httponly; samesite=lax"
)
LONGEST = 200
YEAR_AND_A_BIT = 34_560_000
"""400 days, beyond which browsers cut a lifetime off (RFC 6265bis section 5.5)."""


async def test_the_cookie_is_as_short_for_64_kilobytes_as_for_one(browser: Browser) -> None:
    lengths = set()
    for size in (1, 64_000):
        browser.token = None
        value = (await browser.get("/write?k=" + "x" * size)).set_cookie
        lengths.add(len(value))
    assert len(lengths) == 1
    assert lengths.pop() <= LONGEST


async def test_the_longest_name_and_every_attribute_stay_below_what_browsers_drop(
    make_manager: Managers,
) -> None:
    manager = make_manager(
        session_cookie="n" * 64,
        path="/" + "p" * 64,
        https_only=True,
        same_site="none",
        domain="app.example.com",
        partitioned=True,
    )
    answer = await Browser(app_of(manager)).get("/write?k=v")
    assert len(answer.set_cookie) < 4096


async def test_whatever_cookies_come_in_ours_go_out_in_one_strict_spelling(
    manager: SessionManager,
) -> None:
    app = app_of(manager)
    tokens = [(await Browser(app).get("/write?k=v")).token for _ in range(2)]
    contents = ingredients(SECRET, COOKIE, *tokens)
    wrong: dict[str, list[str]] = {}
    for case in HOSTILE:
        # Only the valid ones bring a session that has this already.
        expected = 0 if case.kind == "valid" else 1
        for cookie in (case.filled(contents), case.header(contents)):
            sent = (await Browser(app).get("/write?k=v", cookie=cookie)).set_cookies
            if len(sent) != expected or not all(map(STRICT.fullmatch, sent)):
                wrong[case.label] = sent
    assert wrong == {}


async def test_a_response_has_one_set_cookie_at_most_whatever_the_handler_did(
    manager: SessionManager,
) -> None:
    async def everything(request: Request) -> Response:
        session = session_of(request)
        session.rotate()
        session.rotate()
        session["user_id"] = "alice"
        session.invalidate()
        session["user_id"] = "bob"
        await session.asave()
        session.rotate()
        session["user_id"] = "carol"
        return PlainTextResponse("done")

    browser = Browser(app_of(manager, Route("/everything", everything)))
    for _ in range(2):
        answer = await browser.get("/everything")
        assert len(answer.set_cookies) == 1
    assert (await browser.get("/read")).json() == {"user_id": "carol"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"https_only": True, "session_cookie": "__Host-id"},
        {"https_only": True, "same_site": "none", "partitioned": True},
        {"path": "/app", "domain": "example.com", "same_site": "strict"},
    ],
)
async def test_the_cookie_is_expired_with_every_attribute_that_it_was_set_with(
    make_browser: Callable[..., Browser], settings: dict[str, Any]
) -> None:
    browser = make_browser(**settings)
    browser.name = settings.get("session_cookie", COOKIE)
    set_with = attributes((await browser.get("/write?k=v")).set_cookie)
    expired_with = attributes((await browser.get("/logout")).set_cookie)
    assert expired_with.pop("expires") == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert set_with.pop("max-age") == "1209600"
    assert expired_with == set_with


@pytest.mark.parametrize("settings", [{}, {"rolling": True}, {"idle_timeout": 1800}])
async def test_a_hundred_reads_set_no_cookie(
    make_browser: Callable[..., Browser], time: Clock, settings: dict[str, Any]
) -> None:
    browser = make_browser(**settings)
    await browser.get("/write?k=v")
    for _ in range(100):
        time.advance(0.5)
        assert (await browser.get("/read")).set_cookies == []


async def test_a_rolling_lifetime_sets_the_cookie_once_a_tenth_of_it(
    make_browser: Callable[..., Browser], time: Clock
) -> None:
    browser = make_browser(rolling=True, max_age=3600)
    await browser.get("/write?k=v")
    sent = 0
    for _ in range(200):
        time.advance(36)
        sent += len((await browser.get("/read")).set_cookies)
    assert sent == 20


@pytest.mark.parametrize("path", ["/rotate", "/write?k=w", "/read"])
async def test_max_age_never_passes_the_absolute_end(
    make_browser: Callable[..., Browser], time: Clock, path: str
) -> None:
    browser = make_browser(rolling=True, max_age=3600, absolute_timeout=3600)
    await browser.get("/write?k=v")
    time.advance(50 * 60)
    max_age = int(attributes((await browser.get(path)).set_cookie)["max-age"])
    assert max_age == 600


async def test_max_age_of_the_longest_lifetime_is_one_that_browsers_keep(
    make_browser: Callable[..., Browser],
) -> None:
    browser = make_browser(max_age=YEAR_AND_A_BIT)
    answer = await browser.get("/write?k=v")
    assert int(attributes(answer.set_cookie)["max-age"]) == YEAR_AND_A_BIT


@pytest.mark.parametrize("seconds", [YEAR_AND_A_BIT * 2, 1e10])
async def test_max_age_of_a_longer_expiry_of_its_own_is_one_that_browsers_keep(
    manager: SessionManager, seconds: float
) -> None:
    async def keep(request: Request) -> Response:
        session_of(request)["k"] = "v"
        session_of(request).set_expiry(seconds)
        return PlainTextResponse("kept")

    answer = await Browser(app_of(manager, Route("/keep", keep))).get("/keep")
    assert int(attributes(answer.set_cookie)["max-age"]) <= YEAR_AND_A_BIT
