"""The store is down: 503 for who needs the session, and nobody gets an empty one in its place."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from sessionware import Session, StoreUnavailable
from sessionware.wsgi import SessionMiddleware
from tests.apps import Answer
from tests.asgi.failing import FailingStore
from tests.asgi.site import Act
from tests.byhand import Clock
from tests.frameworks.importing import framework
from tests.wsgi.site import PLAIN, Body, WsgiBrowser, WsgiSite, WsgiVisitor, session_in, stored


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def site(make_site: Callable[..., WsgiSite], store: FailingStore) -> WsgiSite:
    return make_site(store=store)


@pytest.fixture
def visitor(site: WsgiSite) -> WsgiVisitor:
    return stored(site, a=1)


def is_unavailable(answer: Answer, body: bytes = b"Service Unavailable") -> bool:
    return (
        answer.status,
        answer.body,
        answer.complete,
        answer.all("retry-after"),
        answer.all("cache-control"),
        answer.all("content-length"),
        answer.set_cookies,
    ) == (503, body, True, ["2"], ["no-store"], ["19"], [])


READS: dict[str, Act] = {
    "read": dict,
    "write": lambda s: s.update(a=2),
    "clear": Session.clear,
    "invalidate": Session.invalidate,
    "rotate": Session.rotate,
    "incr": lambda s: s.incr("n"),
    "set_expiry": lambda s: s.set_expiry(1),
    "pop": lambda s: s.pop("a", None),
    "setdefault": lambda s: s.setdefault("a", 2),
}


@pytest.mark.parametrize("act", READS.values(), ids=READS)
def test_who_needs_a_session_that_cannot_be_read_gets_503(
    visitor: WsgiVisitor, store: FailingStore, act: Act
) -> None:
    store.down = {"*"}
    assert is_unavailable(visitor.visit(act))
    store.down.clear()
    assert visitor.content() == {"a": 1}


def test_who_never_touches_it_is_served_and_the_store_not_asked(
    visitor: WsgiVisitor, store: FailingStore
) -> None:
    store.down = {"*"}
    store.calls.clear()
    assert visitor.visit(None, validated=False).json() is None
    assert store.calls == []


def test_visitors_without_a_cookie_are_served(site: WsgiSite, store: FailingStore) -> None:
    store.down = {"*"}
    assert site.browser().visit(dict).json() == {}
    assert is_unavailable(site.browser().visit(lambda s: s.update(a=1)))


SAVES: dict[str, tuple[str, Act]] = {
    "save": ("replace", lambda s: s.update(a=2)),
    "rotate": ("rotate", Session.rotate),
    "login": ("rotate", lambda s: s.update(user_id="alice")),
    "clear": ("remove", Session.clear),
    "invalidate": ("remove", Session.invalidate),
    "empty": ("remove", lambda s: s.pop("a")),
}


def answering(act: Act, shape: str, status: str = "200 OK") -> WSGIApplication:
    """An app whose body has this shape."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        act(session_in(environ))
        write = start_response(status, [*PLAIN, ("X-App", "1")])
        if shape == "write":
            write(b"done")
            return []
        return [b"done"] if shape == "list" else iter([b"done"])

    return app


@pytest.mark.parametrize("shape", ["list", "generator", "write"])
@pytest.mark.parametrize(("method", "act"), SAVES.values(), ids=SAVES)
def test_a_response_whose_save_failed_is_replaced_by_503(
    visitor: WsgiVisitor, store: FailingStore, method: str, act: Act, shape: str
) -> None:
    store.down = {method}
    answer = visitor.serve(answering(act, shape))
    assert is_unavailable(answer)
    assert answer.all("x-app") == []
    assert store.calls[-1] == method
    store.down.clear()
    assert visitor.content() == {"a": 1}


@pytest.mark.parametrize("shape", ["list", "generator", "write"])
def test_a_head_request_gets_the_503_without_a_body(
    visitor: WsgiVisitor, store: FailingStore, shape: str
) -> None:
    store.down = {"*"}
    assert is_unavailable(visitor.visit(dict, method="HEAD"), b"")
    store.down = {"replace"}
    app = answering(lambda s: s.update(a=2), shape)
    assert is_unavailable(visitor.serve(app, method="HEAD"), b"")


def test_an_app_that_discards_its_changes_answers_itself(
    visitor: WsgiVisitor, store: FailingStore
) -> None:
    store.down = {"replace"}
    answer = visitor.serve(answering(lambda s: s.update(a=2), "list", "500 Sorry"))
    assert (answer.status, answer.body) == (500, b"done")


CATCHING = ["before start_response", "after write", "in a generator"]


def catching(place: str, act: Act) -> WSGIApplication:
    """A framework that makes a 500 of every exception."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            if place == "in a generator":
                start_response("200 OK", list(PLAIN))
            act(session_in(environ))
            if place == "after write":
                start_response("200 OK", list(PLAIN))(b"done")
        except Exception:
            start_response("500 Internal Server Error", list(PLAIN), sys.exc_info())
            yield b"an error page"
            return
        yield b"not reached"

    def called(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = app(environ, start_response)
        return body if place == "in a generator" else list(body)

    return called


@pytest.mark.parametrize("place", CATCHING)
def test_a_500_that_a_framework_made_of_it_becomes_503(
    visitor: WsgiVisitor, store: FailingStore, place: str
) -> None:
    act: Act = dict
    store.down = {"*"}
    if place == "after write":
        store.down = {"replace"}
        act = lambda s: s.update(a=2)  # noqa: E731
    assert is_unavailable(visitor.serve(catching(place, act)))


def bottle_app() -> Any:
    bottle = framework("bottle")
    app = bottle.Bottle()
    app.route("/read", callback=lambda: dict(bottle.request.environ["sessionware.session"]))
    app.route("/noop", callback=lambda: "served")
    return app


def falcon_app() -> Any:
    falcon = framework("falcon")

    class Read:
        def on_get(self, request: Any, response: Any) -> None:
            response.media = dict(request.env["sessionware.session"])

    class Noop:
        def on_get(self, request: Any, response: Any) -> None:
            response.text = "served"

    app = falcon.App()
    app.add_route("/read", Read())
    app.add_route("/noop", Noop())
    return app


@pytest.mark.parametrize("make", [bottle_app, falcon_app])
def test_a_framework_that_knows_nothing_of_it_answers_503(
    site: WsgiSite,
    visitor: WsgiVisitor,
    store: FailingStore,
    make: Callable[[], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = SessionMiddleware(make(), manager=site.manager)
    browser = WsgiBrowser(app, visitor.token)
    assert browser.get("/read").json() == {"a": 1}
    store.down = {"*"}
    assert is_unavailable(browser.get("/read"))
    assert browser.get("/noop").body == b"served"


def test_an_app_that_handles_it_answers_itself(visitor: WsgiVisitor, store: FailingStore) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            session_in(environ)["a"] = 2
        except StoreUnavailable:
            start_response("503 Later", [*PLAIN, ("Retry-After", "77")])
            return [b"our own page"]
        raise AssertionError

    store.down = {"*"}
    answer = visitor.serve(app)
    assert (answer.body, answer.all("retry-after")) == (b"our own page", ["77"])


def test_the_same_browser_goes_on_where_it_was_when_the_store_is_back(
    site: WsgiSite, visitor: WsgiVisitor, store: FailingStore
) -> None:
    for _ in range(2):
        store.down = {"*"}
        assert is_unavailable(visitor.visit(lambda s: s.update(lost=1)))
        store.down.clear()
        assert visitor.content() == {"a": 1}
    assert site.events == ["created", "store_error", "store_error"]


def test_an_explicit_save_that_fails_raises_in_the_app(
    visitor: WsgiVisitor, store: FailingStore
) -> None:
    def act(session: Session) -> str:
        session["a"] = 2
        store.down = {"*"}
        with pytest.raises(StoreUnavailable):
            session.save()
        store.down.clear()
        session.save()
        return "saved after all"

    assert visitor.visit(act).json() == "saved after all"
    assert visitor.content() == {"a": 2}


def test_a_lost_touch_fails_no_request(
    clock: Clock, make_site: Callable[..., WsgiSite], store: FailingStore
) -> None:
    site = make_site(store=store, rolling=True)
    visitor = stored(site, a=1)
    clock.tick(10 * 24 * 3600)
    for down, content in (("touch", {"a": 1}), ("*", None)):
        store.down = {down}
        answer = visitor.visit(dict if content else None, validated=False)
        assert (answer.status, answer.json(), answer.set_cookies) == (200, content, [])
    assert site.events == ["created", "store_error", "store_error"]


def test_a_store_that_fails_after_the_first_byte_breaks_the_response_off(
    visitor: WsgiVisitor, store: FailingStore
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"begun"
        dict(session_in(environ))

    store.down = {"*"}
    with pytest.raises(StoreUnavailable):
        visitor.serve(app, validated=False)
    answer = visitor.serve(app, may_fail=True, validated=False)
    assert (answer.status, answer.body, answer.complete) == (200, b"begun", False)


def test_a_body_that_needs_the_session_to_be_closed_is_answered_503_once(
    visitor: WsgiVisitor, store: FailingStore
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_in(environ)
        start_response("200 OK", list(PLAIN))
        return Body((bytes(len(session)) for _ in range(1)), lambda: session.pop("a"))

    store.down = {"*"}
    with pytest.raises(StoreUnavailable):
        visitor.serve(app, validated=False)
    assert is_unavailable(visitor.serve(app, validated=False, may_fail=True))


def test_a_defect_of_the_store_is_not_taken_for_a_failing_database(
    visitor: WsgiVisitor, store: FailingStore
) -> None:
    store.error = TypeError("a defect")
    store.down = {"load", "stamp"}
    with pytest.raises(TypeError, match="a defect"):
        visitor.visit(dict)


def test_a_logout_that_could_not_be_stored_is_not_acknowledged(
    visitor: WsgiVisitor, store: FailingStore
) -> None:
    def act(session: Session) -> None:
        session.invalidate()
        raise ValueError("the app's own")

    store.down = {"remove"}
    answer = visitor.visit(act, may_fail=True)
    assert (answer.status, answer.set_cookies) == (500, [])
    store.down.clear()
    assert visitor.content() == {"a": 1}


@pytest.fixture
def block() -> Iterator[threading.Event]:
    """Set, it lets go of whatever waits in the store."""
    event = threading.Event()
    yield event
    event.set()


def test_a_store_that_does_not_answer_in_time_is_a_store_that_is_down(
    make_site: Callable[..., WsgiSite], store: FailingStore, block: threading.Event
) -> None:
    visitor = stored(make_site(store=store, store_timeout=0.05, cache_ttl=0), a=1)
    store.block = block
    answer = visitor.visit(dict)
    assert (answer.status, answer.all("retry-after")) == (503, ["1"])
    assert visitor.visit(None, validated=False).status == 200
