"""How long a session lives, in the store and in the browser."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth import login
from django.utils import timezone

from sessionware.tokens import Tokens, new_id
from tests.apps import SECRET
from tests.byhand import Clock
from tests.django.conftest import Configure, Database
from tests.django.site import COOKIE, Browser, Request, User, storing, untouched, username

KEYS = Tokens(SECRET, [], COOKIE)
DAY = 24 * 3600


def test_a_session_lives_as_long_as_the_cookie(
    browser: Browser, clock: Clock, configure: Configure
) -> None:
    configure(SESSION_COOKIE_AGE=100)
    assert browser.visit(storing(a=1)).cookie["max-age"] == 100
    clock.tick(99)
    assert browser.content() == {"a": 1}
    clock.tick(1)
    assert browser.content() == {}


LIFETIMES: dict[str, tuple[Callable[[Clock], Any], int, int | str]] = {
    "seconds": (lambda clock: 60, 60, 60),
    "a timedelta": (lambda clock: timedelta(hours=1), 3600, 3600),
    "a moment": (lambda clock: timezone.now() + timedelta(hours=2), 7200, 7200),
    "until the browser is closed": (lambda clock: 0, 14 * DAY, ""),
    "the default": (lambda clock: None, 14 * DAY, 14 * DAY),
}


@pytest.mark.parametrize("case", LIFETIMES)
def test_the_row_lives_as_long_as_set_expiry_says(
    browser: Browser, clock: Clock, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    choose, seconds, max_age = LIFETIMES[case]
    now = datetime.fromtimestamp(clock() / 1000, UTC)
    monkeypatch.setattr(timezone, "now", lambda: now)

    def choosing(request: Request) -> None:
        request.session["a"] = 1
        request.session.set_expiry(choose(clock))

    assert browser.visit(choosing).cookie["max-age"] == max_age
    clock.tick(seconds - 1)
    assert browser.content()["a"] == 1
    clock.tick(1)
    assert browser.content() == {}


def test_an_expiry_can_be_taken_back(browser: Browser, clock: Clock) -> None:
    browser.visit(storing(a=1))
    browser.visit(lambda request: request.session.set_expiry(60))
    browser.visit(lambda request: request.session.set_expiry(None))
    clock.tick(3600)
    assert browser.content() == {"a": 1}


def expiring(when: Any, request: Request) -> None:
    request.session.set_expiry(when)


def test_an_expiry_in_the_past_ends_the_session(browser: Browser) -> None:
    browser.visit(storing(a=1))
    for past in (-1, timedelta(days=-1), timezone.now() - timedelta(days=1)):
        browser.visit(storing(a=1))
        browser.visit(partial(expiring, past))
        assert browser.content() == {}


@pytest.mark.parametrize("past", [-1, timedelta(days=-1)])
def test_an_expiry_in_the_past_may_be_saved_by_hand(browser: Browser, past: Any) -> None:
    def end(request: Request) -> None:
        request.session.set_expiry(past)
        request.session.save()

    browser.visit(storing(a=1))
    answer = browser.visit(end)
    assert answer.status == 200
    assert answer.cookie["max-age"] < 0
    assert browser.content() == {}


def test_a_session_of_the_browsers_run_has_a_cookie_without_max_age(
    browser: Browser, clock: Clock, configure: Configure
) -> None:
    configure(SESSION_EXPIRE_AT_BROWSER_CLOSE=True)
    assert browser.visit(storing(a=1)).cookie["max-age"] == ""
    clock.tick(13 * DAY)
    assert browser.content() == {"a": 1}
    clock.tick(DAY)
    assert browser.content() == {}


def test_saying_that_it_was_modified_renews_the_session(browser: Browser, clock: Clock) -> None:
    """Django renews at each save, whether or not there is anything to save."""

    def renew(request: Request) -> None:
        request.session.modified = True

    browser.visit(storing(a=1))
    for _ in range(3):
        clock.tick(10 * DAY)
        assert browser.visit(renew).cookie["max-age"] == 14 * DAY
    assert browser.content() == {"a": 1}
    browser.visit(storing(b=2))
    assert browser.content() == {"a": 1, "b": 2}


def test_a_session_that_is_only_read_ends(browser: Browser, clock: Clock) -> None:
    browser.visit(storing(a=1))
    clock.tick(10 * DAY)
    assert browser.content() == {"a": 1}
    clock.tick(4 * DAY)
    assert browser.content() == {}


# SESSION_SAVE_EVERY_REQUEST, rolling, idle_timeout.


def test_every_request_saved_renews_row_and_cookie(
    browser: Browser, clock: Clock, configure: Configure, database: Database
) -> None:
    configure(SESSION_SAVE_EVERY_REQUEST=True)
    browser.visit(storing(a=1))
    for _ in range(3):
        clock.tick(10 * DAY)
        assert browser.visit(untouched).cookie["max-age"] == 14 * DAY
    assert browser.content() == {"a": 1}
    database.verbs()
    browser.visit(untouched)
    assert "UPDATE" not in database.verbs(), "renewals are throttled"


def test_every_request_saved_makes_no_row_of_a_cookie_that_is_worth_nothing(
    configure: Configure, database: Database
) -> None:
    configure(SESSION_SAVE_EVERY_REQUEST=True)
    for key in (None, "abc", f"{new_id()}.{new_id()}", KEYS.sign(new_id())):
        for what in (untouched, username):
            answer = Browser(key).visit(what)
            assert answer.status == 200
            # Nothing else can be said to Django's middleware but to save it.
            assert answer.cookie is None or answer.deletes_cookie
    assert database.count() == 0


def test_rolling_lifetimes_renew_row_and_cookie_but_not_with_each_request(
    browser: Browser, clock: Clock, with_settings: Callable[..., None]
) -> None:
    with_settings(rolling=True)
    browser.visit(storing(a=1))
    for _ in range(3):
        clock.tick(10 * DAY)
        assert browser.visit(username).cookie["max-age"] == 14 * DAY
        assert browser.visit(username).cookie is None
    assert browser.content() == {"a": 1}


def test_an_idle_timeout_counts_from_the_last_request_that_used_the_session(
    browser: Browser, clock: Clock, with_settings: Callable[..., None]
) -> None:
    with_settings(idle_timeout=1800)
    browser.visit(storing(a=1))
    for _ in range(4):
        clock.tick(1000)
        assert browser.content() == {"a": 1}
    clock.tick(1800)
    assert browser.content() == {}


def test_the_cookie_ends_with_the_absolute_timeout(
    browser: Browser, clock: Clock, with_settings: Callable[..., None], user: User
) -> None:
    def log_in(request: Request) -> Any:
        login(request, user, "django.contrib.auth.backends.ModelBackend")
        return request.session.get_expiry_age()

    with_settings(absolute_timeout=3600)
    assert browser.visit(storing(a=1)).cookie["max-age"] == 3600
    clock.tick(3000)
    assert browser.visit(storing(a=2)).cookie["max-age"] == 600
    answer = browser.visit(log_in)
    assert (answer.result, answer.cookie["max-age"]) == (3600, 3600)
    clock.tick(3000)
    assert browser.visit(storing(a=3)).cookie["max-age"] == 600

    def log_out(request: Request) -> Any:
        del request.session["_auth_user_id"]
        return request.session.get_expiry_age()

    assert browser.visit(log_out).result == 0


@pytest.mark.anyio
async def test_an_async_view_hears_of_the_absolute_timeout_too(
    browser: Browser, clock: Clock, with_settings: Callable[..., None]
) -> None:
    async def store(request: Request) -> None:
        await request.session.aset("a", 1)

    async def age(request: Request) -> Any:
        await request.session.aget("a")
        return await request.session.aget_expiry_age()

    with_settings(absolute_timeout=3600)
    await browser.avisit(store)
    clock.tick(3000)
    assert (await browser.avisit(age)).result == 600
