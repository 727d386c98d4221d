"""Requests while the store fails: 503, and never an empty session in its place."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
import pytest

from sessionware import StoreUnavailable
from tests.asgi.failing import FailingStore
from tests.django.conftest import Configure
from tests.django.site import Browser, Request, storing, untouched, username


@pytest.fixture
def failing(configure: Configure) -> FailingStore:
    store = FailingStore()
    configure(SESSIONWARE={"store": store, "purge_interval": None, "cache_ttl": 0})
    return store


def test_a_request_whose_session_cannot_be_read_gets_a_503(failing: FailingStore) -> None:
    browser = Browser()
    browser.visit(storing(a=1))
    failing.down = {"*"}
    for what in (username, storing(a=2), lambda request: request.session.flush()):
        answer = browser.visit(what)
        assert (answer.status, answer.cookie) == (503, None)
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Cache-Control"] == "no-store"
    assert browser.visit(untouched).status == 200
    failing.down = set()
    assert browser.content() == {"a": 1}


def test_a_request_whose_session_cannot_be_saved_gets_a_503(failing: FailingStore) -> None:
    browser = Browser()
    failing.down = {"insert"}
    answer = browser.visit(storing(a=1))
    assert (answer.status, answer.cookie) == (503, None)
    assert int(answer.headers["Retry-After"]) >= 1


def test_an_application_can_handle_a_store_that_fails(failing: FailingStore) -> None:
    browser = Browser()
    browser.visit(storing(a=1))
    failing.down = {"*"}

    def tolerant(request: Request) -> str:
        try:
            return str(request.session["a"])
        except StoreUnavailable:
            return "a page without a session"

    answer = browser.visit(tolerant)
    assert (answer.result, answer.cookie) == ("a page without a session", None)


def test_without_our_middleware_it_is_djangos_500(
    configure: Configure, failing: FailingStore
) -> None:
    configure(MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"])
    browser = Browser()
    browser.visit(storing(a=1))
    failing.down = {"*"}
    assert browser.visit(storing(a=2)).status == 500


@pytest.mark.anyio
async def test_async_requests_get_a_503_too(failing: FailingStore) -> None:
    browser = Browser()
    await browser.avisit(lambda request: request.session.aset("a", 1))
    failing.down = {"*"}
    answer = await browser.avisit(lambda request: request.session.aget("a"))
    assert (answer.status, answer.cookie) == (503, None)
