"""Load: which session a request gets, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from sessionware import Session
from sessionware.tokens import Tokens, new_id
from tests.apps import COOKIE, SECRET
from tests.asgi.site import Site, Visitor, row, rows, statements
from tests.byhand import Clock
from tests.hostile_cookies import HOSTILE, ingredients

pytestmark = pytest.mark.anyio

EVENTS = {"none": [], "valid": [], "bad": ["bad_signature"], "duplicate": ["duplicate"]}


async def stored(site: Site, **content: Any) -> Visitor:
    """A browser whose session holds the content."""
    browser = site.browser()
    await browser.visit(lambda session: session.update(content))
    return browser


def unknown_cookie() -> str:
    """Well formed and rightly signed, but never issued."""
    return f"{COOKIE}={Tokens(SECRET, [], COOKIE).sign(new_id())}"


async def test_the_session_of_a_hostile_cookie_is_the_valid_ones_or_none_and_costs_nothing(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(cache_ttl=0)
    mine, other = await stored(site, me="mine"), await stored(site, me="other")
    assert mine.token is not None
    assert other.token is not None
    placeholders = ingredients(SECRET, COOKIE, mine.token, other.token)
    before = rows()
    expected: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    for case in HOSTILE:
        events = len(site.events)
        with statements() as executed:
            answer = await site.browser().visit(dict, cookie=case.filled(placeholders))
        valid = case.kind == "valid"
        expected[case.label] = (
            200,
            {"me": "mine"} if valid else {},
            [],
            ["SELECT"] if valid else [],
            EVENTS[case.kind],
        )
        seen[case.label] = (
            answer.status,
            answer.json(),
            answer.set_cookies,
            executed,
            site.events[events:],
        )
    assert seen == expected
    assert rows() == before
    assert {case.kind for case in HOSTILE} == EVENTS.keys()


@pytest.mark.parametrize(
    "act",
    [Session.clear, Session.invalidate, Session.rotate, lambda session: session.pop("me", None)],
    ids=["clear", "invalidate", "rotate", "pop"],
)
async def test_no_hostile_cookie_is_answered_with_a_cookie_nor_ends_a_session(
    site: Site, act: Callable[[Session], object]
) -> None:
    mine, other = await stored(site, me="mine"), await stored(site, me="other")
    assert mine.token is not None
    assert other.token is not None
    placeholders = ingredients(SECRET, COOKIE, mine.token, other.token)
    before = rows()
    for case in HOSTILE:
        if case.kind != "valid":
            answer = await site.browser().visit(act, cookie=case.filled(placeholders))
            assert (case.label, answer.status, answer.set_cookies) == (case.label, 200, [])
    assert rows() == before


async def test_what_is_stored_under_a_hostile_cookie_goes_into_a_session_of_its_own(
    site: Site,
) -> None:
    mine, other = await stored(site, me="mine"), await stored(site, me="other")
    assert mine.token is not None
    assert other.token is not None
    placeholders = ingredients(SECRET, COOKIE, mine.token, other.token)
    before = rows()
    hostile = [case for case in HOSTILE if case.kind != "valid"]
    tokens = set()
    for case in hostile:
        cookie = case.filled(placeholders)
        answer = await site.browser().visit(lambda s: s.update(me="new"), cookie=cookie)
        assert answer.status == 200, case.label
        tokens.add(answer.token)
    assert len(tokens) == len(hostile)
    assert not any(token.encode() in placeholders.values() for token in tokens)
    assert rows()[: len(before)] == before
    assert len(rows()) == len(before) + len(hostile)


async def test_a_rightly_signed_id_that_the_store_does_not_know_is_never_adopted(
    browser: Visitor,
) -> None:
    cookie = unknown_cookie()
    answer = await browser.visit(lambda s: s.update(a=1), cookie=cookie)
    assert f"{COOKIE}={answer.token}" != cookie
    assert await browser.content(cookie=cookie) == {}
    assert await browser.content(cookie=f"{COOKIE}={answer.token}") == {"a": 1}
    assert len(rows()) == 1


async def test_the_id_is_taken_from_the_cookie_only(site: Site, browser: Visitor) -> None:
    token = (await stored(site, a=1)).token
    assert token is not None
    number = site.expect(lambda request: dict(request.session))
    elsewhere = [
        ("x-handler", number),
        ("x-session", token),
        ("session", token),
        ("authorization", f"Bearer {token}"),
        ("cookie2", f"{COOKIE}={token}"),
        ("set-cookie", f"{COOKIE}={token}"),
    ]
    answer = await browser.get(f"/;{COOKIE}={token}?{COOKIE}={token}", headers=elsewhere)
    assert answer.json() == {}


async def test_the_row_and_its_columns_hold_nothing_that_opens_the_session(
    site: Site, browser: Visitor
) -> None:
    owner = await stored(site, user_id="alice")
    assert owner.token is not None
    record = row()
    session_id = owner.token.partition(".")[0]
    for column in (record.sid_hash, record.data):
        assert session_id.encode() not in column
        assert await browser.content(cookie=f"{COOKIE}={column.hex()}") == {}
        signed = Tokens(SECRET, [], COOKIE).sign(column.hex()[:43])
        assert await browser.content(cookie=f"{COOKIE}={signed}") == {}


async def test_unknown_ended_expired_and_forged_cookies_are_answered_alike(
    site: Site, clock: Clock
) -> None:
    ended, expired = await stored(site, a=1), await stored(site, a=1)
    assert ended.token is not None
    cookies = [ended.cookie, expired.cookie, unknown_cookie(), f"{ended.cookie[:-8]}AAAAAAAA"]
    await ended.visit(Session.invalidate)
    clock.tick(14 * 24 * 3600)
    answers = [await site.browser().visit(dict, cookie=cookie) for cookie in cookies]
    shown = {(answer.status, tuple(answer.headers), answer.body) for answer in answers}
    assert len(shown) == 1


@pytest.mark.parametrize(
    "settings", [{"cache_ttl": 0}, {"coherence": "validate"}], ids=["cold", "warm"]
)
async def test_a_valid_cookie_is_looked_up_once_whether_or_not_the_session_is_touched(
    make_site: Callable[..., Site], settings: dict[str, Any]
) -> None:
    browser = await stored(make_site(**settings), a=1)
    for act in (None, dict):
        with statements() as executed:
            await browser.visit(act)
        assert executed == ["SELECT"]


async def test_a_session_is_loaded_before_the_app_runs_and_reading_it_does_no_io(
    site: Site,
) -> None:
    browser = await stored(site, a=1, b=[2])

    def read_twice(request: Request) -> Any:
        with statements() as executed:
            found = [dict(request.session), request.session["b"], len(request.session)]
        return [found, executed]

    assert (await browser.serve(read_twice)).json() == [[{"a": 1, "b": [2]}, [2], 2], []]


async def test_a_request_without_a_valid_cookie_executes_nothing_until_it_stores(
    browser: Visitor,
) -> None:
    for act in (None, dict, Session.clear, Session.invalidate):
        with statements() as executed:
            await browser.visit(act)
        assert executed == []


async def test_the_same_valid_cookie_twice_is_that_session(site: Site, browser: Visitor) -> None:
    cookie = (await stored(site, a=1)).cookie
    assert await browser.content(cookie=f"{cookie}; {cookie}") == {"a": 1}
    assert await browser.content(cookie=[cookie.encode(), cookie.encode()]) == {"a": 1}


async def test_two_valid_cookies_are_nobodys_session_even_if_one_is_unknown_to_the_store(
    site: Site, browser: Visitor
) -> None:
    cookie = (await stored(site, a=1)).cookie
    for pair in ((cookie, unknown_cookie()), (unknown_cookie(), cookie)):
        with statements() as executed:
            answer = await browser.visit(dict, cookie="; ".join(pair))
        assert (answer.json(), answer.set_cookies, executed) == ({}, [], [])
    assert site.events == ["created", "duplicate", "duplicate"]


async def test_each_request_has_a_copy_of_its_own(site: Site) -> None:
    browser = await stored(site, cart=[1])

    async def change_and_look_elsewhere(request: Request) -> Any:
        request.session["cart"].append(2)
        return await browser.content()

    assert (await browser.serve(change_and_look_elsewhere)).json() == {"cart": [1]}
    assert await browser.content() == {"cart": [1, 2]}


async def test_a_fallback_key_verifies_and_the_next_cookie_is_signed_by_the_current_one(
    make_site: Callable[..., Site],
) -> None:
    new_key = "a newer secret for tests only: 9876543210"
    old_site = make_site()
    token = (await stored(old_site, a=1)).token
    browser = make_site(secret_key=new_key, secret_key_fallbacks=[SECRET]).browser(token)
    answer = await browser.visit(dict)
    assert (answer.json(), answer.set_cookies) == ({"a": 1}, [])
    renewed = await browser.visit(Session.rotate)
    assert Tokens(new_key, [], COOKIE).verify(renewed.token.encode()) is not None
    assert await make_site(secret_key=new_key).browser(renewed.token).content() == {"a": 1}
    assert await make_site(secret_key=new_key).browser(token).content() == {}
