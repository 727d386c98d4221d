"""The store is down: a 503 that the application can have its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from werkzeug.test import TestResponse

from sessionware import SessionTooLarge, StoreUnavailable
from sessionware.flask import FlaskSessions
from tests.asgi.failing import FailingStore
from tests.flask.conftest import Visitor, add_views, inside, storing


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def visitor(make_visitor: Callable[..., Visitor], store: FailingStore) -> Visitor:
    visitor = make_visitor(store=store, cache_ttl=0)
    visitor.visit(storing(a=1))
    return visitor


def is_unavailable(answer: TestResponse) -> bool:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "2"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers.getlist("Set-Cookie") == []
    assert "db.internal" not in answer.text
    return True


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize(
    "act", [dict, storing(a=2), lambda session: session.clear(), lambda session: session.permanent]
)
def test_a_view_that_needs_the_session_gets_503(
    visitor: Visitor, store: FailingStore, act: Callable[[Any], Any], testing: bool
) -> None:
    visitor.app.testing = testing
    store.down = {"*"}
    assert is_unavailable(visitor.visit(act))
    store.down.clear()
    assert visitor.content() == {"a": 1}


def test_what_an_error_handler_puts_right_and_cannot_be_stored_is_503(
    make_visitor: Callable[..., Visitor], store: FailingStore
) -> None:
    visitor = make_visitor(store=store)

    @visitor.app.errorhandler(SessionTooLarge)
    def too_large(error: SessionTooLarge) -> str:
        flask.session["a"] = 2
        store.down.add("replace")
        return "put right"

    visitor.visit(storing(a=1))
    assert is_unavailable(visitor.visit(storing(a="x" * 100_000)))
    assert visitor.content() == {"a": 1}


def test_who_does_not_touch_the_session_is_served(visitor: Visitor, store: FailingStore) -> None:
    store.down = {"*"}
    answer = visitor.visit(None)
    assert (answer.status_code, answer.headers.getlist("Set-Cookie")) == (200, [])


@pytest.mark.parametrize("testing", [False, True])
def test_a_response_whose_save_failed_is_replaced(
    visitor: Visitor, store: FailingStore, testing: bool
) -> None:
    visitor.app.testing = testing

    def act(session: Any) -> flask.Response:
        session["a"] = 2
        response = flask.Response("done", headers={"X-Done": "yes"})
        response.set_cookie("done", "yes")
        return response

    store.down = {"replace"}
    answer = visitor.visit(act)
    assert is_unavailable(answer)
    assert "X-Done" not in answer.headers
    assert "done" not in answer.text
    store.down.clear()
    assert visitor.content() == {"a": 1}


def test_a_stream_whose_save_failed_never_begins_and_is_closed(
    visitor: Visitor, store: FailingStore
) -> None:
    class Body:
        begun = closed = False

        def __iter__(self) -> Iterator[str]:
            self.begun = True
            return iter(["never sent"])

        def close(self) -> None:
            self.closed = True

    body = Body()

    def act(session: Any) -> flask.Response:
        session["a"] = 2
        return flask.Response(body)

    store.down = {"replace"}
    assert is_unavailable(visitor.visit(act))
    assert (body.begun, body.closed) == (False, True)


def test_a_500_that_hides_an_unreadable_session_is_a_503(
    visitor: Visitor, store: FailingStore
) -> None:
    def act(session: Any) -> Any:
        try:
            return dict(session)
        except StoreUnavailable:
            return "swallowed", 500

    store.down = {"*"}
    assert is_unavailable(visitor.visit(act))


def own_app(store: FailingStore, *, first: bool, **handlers: Callable[[Any], Any]) -> Visitor:
    """An app with handlers of its own, registered before or after `init_app`."""
    app = flask.Flask(__name__)
    app.secret_key = "a secret of the application 0123456789"
    sessions = FlaskSessions(store=store, cache_ttl=0, purge_interval=None)
    kinds: dict[str, Any] = {"unavailable": StoreUnavailable, "page": 503, "every": Exception}
    if not first:
        sessions.init_app(app)
    for name, handler in handlers.items():
        app.register_error_handler(kinds[name], handler)
    if first:
        sessions.init_app(app)
    add_views(app)
    visitor = Visitor(app)
    visitor.visit(storing(a=1))
    return visitor


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("method", "act"), [("load", dict), ("replace", storing(a=2))])
def test_the_applications_own_handler_wins(
    store: FailingStore, first: bool, method: str, act: Callable[[Any], Any]
) -> None:
    def sorry(error: StoreUnavailable) -> Any:
        return "sorry", 503, {"X-Own": "yes"}

    visitor = own_app(store, first=first, unavailable=sorry)
    store.down = {method}
    answer = visitor.visit(act)
    assert (answer.status_code, answer.text, answer.headers["X-Own"]) == (503, "sorry", "yes")


def test_inside_a_middleware_of_ours_it_wins_too(store: FailingStore) -> None:
    visitor = inside(own_app(store, first=True, unavailable=lambda error: ("sorry", 503)))
    store.down = {"load"}
    answer = visitor.visit(dict)
    assert (answer.status_code, answer.text) == (503, "sorry")


def test_inside_a_middleware_of_ours_a_500_hides_no_unreadable_session_either(
    store: FailingStore,
) -> None:
    visitor = inside(own_app(store, first=True, unavailable=lambda error: ("swallowed", 500)))
    store.down = {"load"}
    assert is_unavailable(visitor.visit(dict))


@pytest.mark.parametrize(("method", "act"), [("load", dict), ("replace", storing(a=2))])
def test_the_applications_page_for_503_is_shown(
    store: FailingStore, method: str, act: Callable[[Any], Any]
) -> None:
    visitor = own_app(store, first=True, page=lambda error: ("come again", 503))
    store.down = {method}
    answer = visitor.visit(act)
    assert is_unavailable(answer)
    assert answer.text == "come again"


@pytest.mark.parametrize("name", ["page", "unavailable"])
def test_a_handler_that_needs_the_session_itself_gets_the_plain_503(
    store: FailingStore, name: str
) -> None:
    def needy(error: Any) -> Any:
        flask.session["error"] = "seen"
        return "never shown", 503

    visitor = own_app(store, first=True, **{name: needy})
    store.down = {"*"}
    answer = visitor.visit(dict)
    assert is_unavailable(answer)
    assert "never" not in answer.text


def test_a_catch_all_handler_does_not_hide_it(store: FailingStore) -> None:
    visitor = own_app(store, first=True, every=lambda error: ("caught", 500))
    store.down = {"*"}
    assert is_unavailable(visitor.visit(dict))


def test_a_save_that_fails_in_a_session_transaction_raises(
    visitor: Visitor, store: FailingStore
) -> None:
    def write() -> None:
        with visitor.client.session_transaction() as session:
            session["a"] = 2
            store.down = {"*"}

    with pytest.raises(StoreUnavailable):
        write()


def test_a_failing_logout_in_a_failing_request_keeps_its_own_error(
    visitor: Visitor, store: FailingStore
) -> None:
    visitor.app.testing = True

    def act(session: Any) -> None:
        session.invalidate()
        store.down = {"*"}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        visitor.visit(act)
