"""Django's own login, logout and password change, with our sessions under them."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
from collections.abc import Callable

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import SESSION_KEY, aauthenticate, alogin, alogout, login
from django.test import Client

from sessionware import SessionManager, manager_of, session_of
from tests.django.conftest import Configure, Database
from tests.django.site import COOKIE, PASSWORD, Browser, Request, User, storing, untouched, username


def test_a_login_stays_and_a_logout_ends_it(
    browser: Browser, database: Database, user: User
) -> None:
    browser.login(user)
    key = browser.key
    assert browser.visit(username).result == user.username

    assert browser.post("/logout").deletes_cookie

    assert database.count() == 0
    assert Browser(key).visit(username).result == ""


def test_the_key_from_before_the_login_is_worth_nothing(browser: Browser, user: User) -> None:
    browser.visit(storing(cart="tea"))
    known = browser.key
    browser.login(user)

    assert browser.key != known
    assert Browser(known).visit(username).result == ""
    assert Browser(known).content() == {}
    assert browser.content()["cart"] == "tea", "what the visitor had chosen stays"


def test_an_application_that_logs_in_by_hand_gets_a_new_key_too(
    browser: Browser, user: User
) -> None:
    browser.visit(storing(cart="tea"))
    known = browser.key
    answer = browser.visit(storing(**{SESSION_KEY: str(user.pk)}))
    assert answer.cookie.value == browser.key != known
    assert Browser(known).content() == {}


def test_nothing_passes_from_one_user_to_the_next(
    browser: Browser, user: User, make_user: Callable[[], User]
) -> None:
    browser.login(user)
    browser.visit(storing(secret="mine"))
    other = make_user()
    browser.login(other)
    assert "secret" not in browser.content()
    assert browser.visit(username).result == other.username


def test_a_password_change_keeps_this_browser_and_ends_the_others(
    browser: Browser, user: User
) -> None:
    elsewhere = Browser()
    elsewhere.login(user)
    browser.login(user)
    known = browser.key
    new = PASSWORD + " but another"
    data = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert browser.post("/password", **data).status == 302

    assert browser.key != known
    assert browser.visit(username).result == user.username
    assert elsewhere.visit(username).result == ""
    assert Browser(known).visit(username).result == ""
    Browser().login(user, new)


def test_the_manager_lists_and_ends_the_sessions_of_a_user(
    browser: Browser, manager: SessionManager, user: User, make_user: Callable[[], User]
) -> None:
    elsewhere, stranger, other = Browser(), Browser(), make_user()
    for each, whose in ((browser, user), (elsewhere, user), (stranger, other)):
        each.login(whose)
    assert len(manager.list_sessions(user.pk)) == 2

    ended = browser.visit(
        lambda request: manager_of(request).revoke_user(user.pk, keep=session_of(request))
    )

    assert ended.result == 1
    assert browser.visit(username).result == user.username
    assert elsewhere.visit(username).result == ""
    assert stranger.visit(username).result == other.username
    assert [each.current for each in manager.list_sessions(user.pk)] == [False]
    assert manager.revoke_user(user.pk) == 1
    assert browser.visit(username).result == ""


def test_a_logout_wins_against_a_request_that_is_still_under_way(
    browser: Browser, database: Database, user: User
) -> None:
    browser.login(user)
    tab = browser.twin()

    def slow(request: Request) -> None:
        request.session["draft"] = "late"
        tab.post("/logout")

    answer = browser.visit(slow)

    assert (answer.status, answer.cookie) == (400, None), "SessionInterrupted, as Django has it"
    assert database.count() == 0


def test_a_logout_ends_a_session_that_another_request_has_just_rotated(
    browser: Browser, database: Database, user: User
) -> None:
    browser.login(user)
    tab = browser.twin()

    def logout(request: Request) -> None:
        assert request.session["_auth_user_id"]
        tab.visit(lambda other: other.session.cycle_key())
        request.session.flush()

    assert browser.visit(logout).deletes_cookie
    assert database.count() == 0
    assert tab.visit(username).result == ""


def test_two_clicks_on_the_login_button_both_log_in(browser: Browser, user: User) -> None:
    browser.visit(storing(cart="tea"))
    tab = browser.twin()

    def click(request: Request) -> None:
        assert request.session["cart"] == "tea"
        tab.login(user)
        login(request, user, "django.contrib.auth.backends.ModelBackend")

    browser.visit(click)

    assert browser.key != tab.key
    assert browser.visit(username).result == tab.visit(username).result == user.username
    assert "cart" not in browser.content(), "it went with the session that the first click rotated"


def test_a_parallel_request_with_the_old_key_does_not_undo_the_login(
    browser: Browser, user: User
) -> None:
    browser.visit(storing(cart="tea"))
    late = browser.twin()
    browser.login(user)

    assert late.visit(username).cookie is None
    assert late.visit(storing(cart="coffee")).cookie is None

    def read_and_clear(request: Request) -> None:
        assert "cart" not in request.session
        request.session.clear()

    answer = late.visit(read_and_clear)
    assert (answer.status, answer.cookie) == (200, None)
    assert browser.content()["cart"] == "tea"


def test_every_request_saved_does_not_undo_the_login_either(
    browser: Browser, configure: Configure, user: User
) -> None:
    configure(SESSION_SAVE_EVERY_REQUEST=True)
    browser.visit(storing(cart="tea"))
    late = browser.twin()
    browser.login(user)

    assert late.visit(username).cookie is None
    assert late.visit(untouched).cookie is None
    assert browser.visit(username).result == user.username


def test_the_clients_of_djangos_own_tests_log_in(database: Database, user: User) -> None:
    client = Client()
    client.force_login(user)
    key = client.cookies[COOKIE].value
    assert Browser(key).visit(username).result == user.username
    assert client.session["_auth_user_id"] == str(user.pk)

    client.logout()
    assert Browser(key).visit(username).result == ""
    assert client.login(username=user.username, password=PASSWORD)


@pytest.mark.anyio
async def test_login_and_logout_in_async_views(
    browser: Browser, database: Database, make_user: Callable[[], User]
) -> None:
    user = await sync_to_async(make_user)()
    await browser.avisit(lambda request: request.session.aset("cart", "tea"))
    known = browser.key

    async def enter(request: Request) -> None:
        found = await aauthenticate(request, username=user.username, password=PASSWORD)
        await alogin(request, found)

    async def whoami(request: Request) -> str:
        name: str = (await request.auser()).username
        return name

    await browser.avisit(enter)
    key = browser.key
    assert key != known
    assert (await browser.avisit(whoami)).result == user.username
    assert (await Browser(known).avisit(whoami)).result == ""

    assert (await browser.avisit(alogout)).deletes_cookie
    assert (await Browser(key).avisit(whoami)).result == ""


def test_the_client_of_a_login_is_recorded_where_that_is_wanted(
    browser: Browser, configure: Configure, database: Database, user: User
) -> None:
    from sessionware.django import manager

    store = {"store": database.engine, "table_name": database.table, "purge_interval": None}
    configure(SESSIONWARE={**store, "record_client": True})
    browser.client.defaults.update(REMOTE_ADDR="203.0.113.7", HTTP_USER_AGENT="Lynx")
    browser.login(user)
    (info,) = manager().list_sessions(user.pk)
    assert (info.ip, info.user_agent) == ("203.0.113.7", "Lynx")
