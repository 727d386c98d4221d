"""Whole requests: what is stored, what the browser is told, and when."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.http import HttpResponse
from django.test import override_settings

from sessionware import SerializationError
from sessionware.tokens import Tokens, new_id
from tests.apps import SECRET
from tests.django import site
from tests.django.conftest import Database
from tests.django.site import COOKIE, Browser, Request, storing, untouched, username
from tests.hostile_cookies import HOSTILE, HostileCookie, ingredients
from tests.security.leaks import Leaks

KEYS = Tokens(SECRET, [], COOKIE)


def test_a_visitor_who_stores_nothing_leaves_nothing(browser: Browser, database: Database) -> None:
    answer = browser.visit(lambda request: request.session.get("a"))
    assert (answer.cookie, answer.headers["Vary"]) == (None, "Cookie")
    assert browser.visit(untouched).headers.get("Vary") is None
    assert database.count() == 0


def test_what_is_stored_is_there_at_the_next_request(browser: Browser, database: Database) -> None:
    answer = browser.visit(storing(a=1, pair=(1, 2)))
    assert answer.cookie["httponly"]
    assert answer.cookie["samesite"] == "Lax"
    assert answer.headers["Vary"] == "Cookie"
    assert answer.headers["Cache-Control"] == "no-store"
    assert browser.visit(lambda request: request.session["pair"] == (1, 2)).result
    assert database.count() == 1


def test_a_read_costs_one_statement_and_a_save_one_more(
    browser: Browser, database: Database, with_settings: Callable[..., None]
) -> None:
    with_settings(cache_ttl=0)
    browser.visit(storing(a=1))
    database.verbs()
    assert browser.content() == {"a": 1}
    assert database.verbs() == ["SELECT"]
    browser.visit(untouched)
    assert database.verbs() == []
    browser.visit(storing(a=2))
    assert database.verbs() == ["SELECT", "UPDATE"]


def test_a_nested_change_is_saved(browser: Browser) -> None:
    browser.visit(storing(cart=[]))
    assert browser.visit(lambda request: request.session["cart"].append("tea")).cookie
    assert browser.content() == {"cart": ["tea"]}
    assert browser.visit(lambda request: len(request.session["cart"])).cookie is None


def test_a_nested_change_after_a_pop_of_nothing_is_saved(browser: Browser) -> None:
    """For Django such a pop says that nothing was modified."""

    def change(request: Request) -> None:
        request.session.pop("notice", None)
        request.session["cart"].append("tea")

    browser.visit(storing(cart=[]))
    browser.visit(change)
    assert browser.content() == {"cart": ["tea"]}


@pytest.mark.anyio
async def test_a_nested_change_after_a_pop_of_nothing_is_saved_in_an_async_view(
    browser: Browser,
) -> None:
    async def change(request: Request) -> None:
        await request.session.apop("notice", None)
        (await request.session.aget("cart")).append("tea")

    async def store(request: Request) -> None:
        await request.session.aset("cart", [])

    async def content(request: Request) -> object:
        return dict(await request.session.aitems())

    await browser.avisit(store)
    await browser.avisit(change)
    assert (await browser.avisit(content)).result == {"cart": ["tea"]}


def test_a_deletion_of_nothing_sends_no_cookie(browser: Browser) -> None:
    browser.visit(storing(a=1))
    assert browser.visit(lambda request: request.session.set_expiry(None)).cookie is None
    assert browser.visit(lambda request: request.session.pop("b", None)).cookie is None


@pytest.mark.parametrize("method", ["save", "create"])
def test_a_save_is_an_access(browser: Browser, method: str) -> None:
    def save(request: Request) -> None:
        getattr(request.session, method)()
        request.session.modified = False

    assert browser.visit(save).headers["Vary"] == "Cookie"


def test_an_application_can_still_say_that_nothing_is_to_be_saved(browser: Browser) -> None:
    browser.visit(storing(cart=[]))

    def changes_its_mind(request: Request) -> None:
        request.session["cart"].append("tea")
        request.session.modified = False

    assert browser.visit(changes_its_mind).cookie is None
    assert browser.content() == {"cart": []}


def test_parallel_requests_each_keep_their_keys(browser: Browser) -> None:
    browser.visit(storing(a=1))
    tab = browser.twin()

    def slow(request: Request) -> None:
        request.session["mine"] = 1
        tab.visit(storing(yours=2))

    assert browser.visit(slow).status == 200
    assert browser.content() == {"a": 1, "mine": 1, "yours": 2}


FORGED: dict[str, Callable[[], str]] = {
    "shaped like a key": lambda: f"{new_id()}.{new_id()}",
    "a key of Django's": lambda: "3mvy4bn6n3nl8jdmhsfmu3xdt6yxxjbk",
    "too short": lambda: "abc",
    "not ASCII": lambda: "käse" * 20,
    "another secret's": lambda: Tokens("x" * 40, [], COOKIE).sign(new_id()),
    "another cookie's": lambda: Tokens(SECRET, [], "session").sign(new_id()),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_cookie_costs_no_statement_and_is_left_as_it_is(
    database: Database, forge: Callable[[], str]
) -> None:
    for what in (lambda request: request.session.get("a"), username, untouched):
        answer = Browser(forge()).visit(what)
        assert (answer.status, answer.cookie) == (200, None)
    assert database.statements == []


def test_a_dead_cookie_is_left_as_it_is(browser: Browser, database: Database) -> None:
    """A late response must not erase the cookie of a login that happened in parallel."""
    dead = KEYS.sign(new_id())
    assert Browser(dead).visit(lambda request: request.session.get("a")).cookie is None
    assert Browser(dead).visit(untouched).cookie is None
    assert database.count() == 0


def test_what_is_stored_with_a_dead_or_forged_cookie_gets_a_key_of_its_own(
    database: Database,
) -> None:
    for key in (KEYS.sign(new_id()), "abc", f"{new_id()}.{new_id()}"):
        browser = Browser(key)
        browser.visit(storing(a=1))
        assert browser.key != key
        assert browser.content() == {"a": 1}


def clear(request: Request) -> None:
    request.session.clear()


def read_and_clear(request: Request) -> None:
    request.session.get("a")
    request.session.clear()


@pytest.mark.parametrize("what", [clear, read_and_clear])
def test_emptying_what_a_dead_or_forged_cookie_names_stores_nothing(
    database: Database, what: Callable[[Request], None]
) -> None:
    for key in (KEYS.sign(new_id()), "abc", f"{new_id()}.{new_id()}"):
        answer = Browser(key).visit(what)
        assert (answer.status, answer.cookie) == (200, None)
    assert database.count() == 0


@pytest.mark.anyio
async def test_emptying_it_in_an_async_view_stores_nothing_either(database: Database) -> None:
    async def aclear(request: Request) -> None:
        request.session.clear()

    answer = await Browser(KEYS.sign(new_id())).avisit(aclear)
    assert (answer.status, answer.cookie) == (200, None)
    assert database.count() == 0


@pytest.mark.parametrize("reads", [False, True])
def test_a_late_logout_leaves_the_cookie_of_a_parallel_login_alone(
    browser: Browser, database: Database, reads: bool
) -> None:
    def logout(request: Request) -> None:
        if reads:
            request.session.get("a")
        request.session.flush()

    browser.visit(storing(a=1))
    late = browser.twin()
    browser.visit(lambda request: request.session.cycle_key())
    for key in (late.key, KEYS.sign(new_id())):
        answer = Browser(key).visit(logout)
        assert (answer.status, answer.cookie) == (200, None)
    assert browser.content() == {"a": 1}


def test_what_is_stored_after_such_a_logout_goes_into_a_new_session(browser: Browser) -> None:
    def again(request: Request) -> None:
        request.session.flush()
        request.session["b"] = 2

    browser.key = KEYS.sign(new_id())
    browser.visit(again)
    assert browser.content() == {"b": 2}


def test_of_several_cookies_the_valid_one_counts_and_of_two_none(browser: Browser) -> None:
    browser.visit(storing(a=1))
    other = Browser()
    other.visit(storing(b=2))
    mine, yours = f"{COOKIE}={browser.key}", f"{COOKIE}={other.key}"
    headers = {
        f"{mine}; {COOKIE}=tossed": {"a": 1},
        f"{COOKIE}=tossed; {mine}": {"a": 1},
        f"{mine}; {mine}": {"a": 1},
        f"{mine}; {yours}": {},
        f"{COOKIE}=tossed; {COOKIE}=again": {},
        f"x{mine}; {yours}": {"b": 2},
        f"{mine}; {COOKIE} ={other.key}": {},
    }
    for header, content in headers.items():
        answer = Browser().visit(lambda r: dict(r.session.items()), HTTP_COOKIE=header)
        assert (answer.result, answer.cookie) == (content, None)


def content_of(request: Request) -> dict[str, object]:
    return dict(request.session.items())


async def acontent_of(request: Request) -> dict[str, object]:
    return dict(await request.session.aitems())


def test_a_hostile_cookie_opens_what_it_opens_elsewhere(database: Database) -> None:
    tokens: list[str] = []
    for who in ("valid", "other"):
        visitor = Browser()
        visitor.visit(storing(who=who))
        tokens.append(str(visitor.key))
    filling = ingredients(SECRET, COOKIE, *tokens)

    async def in_both_worlds(case: HostileCookie) -> list[object]:
        header = case.header(filling).decode("latin-1")
        stranger = Browser()
        answers = [
            await sync_to_async(stranger.visit)(content_of, HTTP_COOKIE=header),
            await stranger.avisit(acontent_of, headers={"cookie": header}),
        ]
        return [each for answer in answers for each in (answer.result, answer.cookie)]

    # Django's parser unquotes every cookie, for which old Pythons take a minute (CVE-2024-7592).
    cases = [case for case in HOSTILE if "quotes" not in case.label]
    expected = {"valid": [{"who": "valid"}, None] * 2}
    found = {case.label: async_to_sync(in_both_worlds)(case) for case in cases}
    assert found == {case.label: expected.get(case.kind, [{}, None] * 2) for case in cases}


def test_a_cookie_beside_another_field_with_cookies_is_found(browser: Browser) -> None:
    """As HTTP/2 may split them: Django's ASGI handler joins the fields by a comma."""
    browser.visit(storing(a=1))
    answer = async_to_sync(browser.avisit)(acontent_of, headers={"cookie": "theme=dark"})
    assert answer.result == {"a": 1}


def test_a_flush_deletes_the_row_and_the_cookie(browser: Browser, database: Database) -> None:
    browser.visit(storing(a=1))
    answer = browser.visit(lambda request: request.session.flush())
    assert answer.deletes_cookie
    assert answer.headers["Vary"] == "Cookie"
    assert database.count() == 0
    assert Browser("abc").visit(lambda request: request.session.flush()).deletes_cookie
    assert Browser().visit(lambda request: request.session.flush()).cookie is None


def test_the_cookie_goes_too_if_an_ended_session_is_flushed_again(browser: Browser) -> None:
    def flush(request: Request) -> None:
        request.session.flush()

    def delete(request: Request) -> None:
        request.session.get("a")
        request.session.delete()

    def flush_again(request: Request) -> None:
        flush(request)
        flush(request)

    def delete_and_flush(request: Request) -> None:
        delete(request)
        flush(request)

    for act in (flush_again, delete_and_flush):
        browser.visit(storing(a=1))
        known = browser.key
        assert browser.visit(act).deletes_cookie
        assert Browser(known).visit(lambda request: dict(request.session.items())).result == {}


def test_what_is_stored_after_a_flush_goes_into_a_new_session(
    browser: Browser, database: Database
) -> None:
    browser.visit(storing(a=1))
    known = browser.key

    def again(request: Request) -> None:
        request.session.flush()
        request.session["b"] = 2

    browser.visit(again)
    assert browser.key != known
    assert browser.content() == {"b": 2}
    assert database.count() == 1


def test_an_emptied_session_keeps_its_row_and_cookie(browser: Browser, database: Database) -> None:
    browser.visit(storing(a=1))
    known = browser.key
    answer = browser.visit(lambda request: request.session.pop("a"))
    assert answer.cookie.value == known
    assert browser.content() == {}
    assert database.count() == 1
    browser.visit(storing(b=2))
    assert browser.content() == {"b": 2}
    browser.visit(lambda request: request.session.clear())
    assert (browser.content(), browser.key, database.count()) == ({}, known, 1)


def test_a_session_that_two_requests_empty_together_is_still_there(
    browser: Browser, database: Database
) -> None:
    browser.visit(storing(a=1, b=2))
    tab = browser.twin()

    def slow(request: Request) -> None:
        del request.session["a"]
        tab.visit(lambda other: other.session.pop("b"))

    assert browser.visit(slow).status == 200
    assert browser.content() == {}
    assert database.count() == 1
    browser.visit(storing(c=3))
    assert browser.content() == {"c": 3}


def test_clearing_replaces_what_a_parallel_request_stored(browser: Browser) -> None:
    browser.visit(storing(a=1))
    tab = browser.twin()

    def slow(request: Request) -> None:
        request.session.clear()
        request.session["new"] = 1
        tab.visit(storing(yours=2))

    browser.visit(slow)
    assert browser.content() == {"new": 1}


def test_a_session_that_ended_meanwhile_makes_it_a_bad_request(
    browser: Browser, database: Database
) -> None:
    browser.visit(storing(a=1))
    tab = browser.twin()

    def slow(request: Request) -> None:
        request.session["a"] = 2
        tab.visit(lambda other: other.session.delete())

    answer = browser.visit(slow)
    assert (answer.status, answer.cookie) == (400, None)
    assert database.count() == 0


@pytest.mark.parametrize("put", [None, "another"])
def test_a_cookie_that_a_middleware_has_taken_out_or_replaced_stays_so(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, put: str | None
) -> None:
    """As for pages that a cache keeps, or for a look at the site with another's eyes."""

    class Replacing:
        def __init__(self, get_response: Callable[[Request], Any]) -> None:
            self.get_response = get_response

        def __call__(self, request: Request) -> Any:
            del request.COOKIES[COOKIE]
            if put is not None:
                request.COOKIES[COOKIE] = other.key
            return self.get_response(request)

    other = Browser()
    other.visit(storing(who="another"))
    browser.visit(storing(who="me"))
    monkeypatch.setattr(site, "Replacing", Replacing, raising=False)
    with override_settings(MIDDLEWARE=["tests.django.site.Replacing", *settings.MIDDLEWARE]):
        found = browser.twin().content()
    assert found == ({} if put is None else {"who": put})


def saying_that_it_was_modified(request: Request) -> None:
    request.session.modified = True


@pytest.mark.parametrize("end", ["flush", "cycle_key"])
@pytest.mark.parametrize("save", [saying_that_it_was_modified, storing(a=1)])
def test_a_late_save_without_a_change_does_not_bring_the_old_cookie_back(
    browser: Browser, database: Database, end: str, save: Callable[[Request], None]
) -> None:
    browser.visit(storing(a=1))
    tab = browser.twin()

    def slow(request: Request) -> None:
        request.session.get("a")
        tab.visit(lambda other: getattr(other.session, end)())
        save(request)

    answer = browser.visit(slow)
    assert (answer.status, answer.cookie) == (400, None)


@pytest.mark.parametrize("status", [500, 503])
def test_a_failed_response_saves_nothing(browser: Browser, database: Database, status: int) -> None:
    def fail(request: Request) -> HttpResponse:
        request.session["a"] = 1
        return HttpResponse(status=status)

    assert browser.visit(fail).cookie is None
    assert browser.visit(lambda request: 1 // 0).status == 500
    assert database.count() == 0


def test_what_cannot_be_stored_is_said_and_nothing_is_written(
    browser: Browser, database: Database
) -> None:
    browser.visit(storing(cart=[]))
    browser.client.raise_request_exception = True
    with pytest.raises(SerializationError, match="cart"):
        browser.visit(lambda request: request.session["cart"].append(object()))
    assert browser.content() == {"cart": []}


def test_the_variables_in_a_failing_save_do_not_show_the_key(browser: Browser) -> None:
    """As Django's own page for errors shows them."""
    browser.visit(storing(a=1))
    browser.client.raise_request_exception = True
    with pytest.raises(SerializationError) as refused:
        browser.visit(storing(a=object()))
    leaks = Leaks()
    leaks.token(str(browser.key))
    leaks.variables(refused.value, "/sessionware/")
    assert leaks.seen_in("variables of _write")
    leaks.check()
