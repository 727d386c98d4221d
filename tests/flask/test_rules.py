"""The rules of a session's life are the same in Flask as everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flask
import pytest

from sessionware import MemoryStore, SessionManager, manager_of
from sessionware.flask import FlaskSessions
from tests.apps import COOKIE, SECRET, Browser
from tests.asgi.site import row, rows, statements
from tests.flask.conftest import Visitor, add_views, manager_for, set_cookie_of, storing
from tests.frameworks.browsers import WsgiBrowser
from tests.frameworks.rules import Refused, Rules, serve
from tests.hostile_cookies import HOSTILE, HostileCookie, Ingredients, ingredients


class TestFlask(Rules):
    eager = False

    def browser(self, manager: SessionManager) -> Browser:
        app = flask.Flask("rules")
        FlaskSessions(app, manager=manager)

        @app.get("/<name>")
        def answer(name: str) -> Any:
            request = flask.request
            try:
                content = serve(name, request, lambda: request.session, request.args)  # type: ignore[attr-defined]
            except Refused as error:
                flask.abort(error.status)
            return flask.jsonify(content)

        return WsgiBrowser(app)


class Targets(NamedTuple):
    """An app with two sessions, whose tokens go into hostile headers."""

    app: flask.Flask
    store: MemoryStore
    filling: Ingredients


@pytest.fixture(scope="module")
def targets() -> Iterator[Targets]:
    store = MemoryStore()
    app = flask.Flask("targets")
    app.secret_key = SECRET
    FlaskSessions(app, store=store, purge_interval=None)
    add_views(app)
    tokens: list[str] = []
    for who in ("valid", "other"):
        visitor = Visitor(app)
        visitor.visit(storing(who=who))
        assert visitor.token is not None
        tokens.append(visitor.token)
    yield Targets(app, store, ingredients(SECRET, COOKIE, *tokens))
    manager_for(app).shutdown()


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.label)
def test_a_hostile_cookie_opens_what_it_opens_elsewhere(
    targets: Targets, case: HostileCookie
) -> None:
    stranger = Visitor(targets.app)
    stranger.client = targets.app.test_client(use_cookies=False)
    header = case.header(targets.filling).decode("latin-1")

    answer = stranger.visit(dict, environ_base={"HTTP_COOKIE": header})

    assert answer.json == ({"who": "valid"} if case.kind == "valid" else {})
    assert answer.headers.getlist("Set-Cookie") == []
    assert targets.store.count(0) == 2


def test_a_forged_cookie_asks_no_store_and_gets_no_cookie(visitor: Visitor) -> None:
    visitor.visit(storing(a=1))
    visitor.token = "A" * 43 + "." + "A" * 43
    with statements() as seen:
        assert visitor.visit(dict).headers.getlist("Set-Cookie") == []
        assert visitor.visit(lambda session: session.clear()).headers.getlist("Set-Cookie") == []
    assert seen == []
    assert len(rows()) == 1


def test_an_unknown_id_is_never_adopted(visitor: Visitor) -> None:
    visitor.visit(storing(a=1))
    chosen = visitor.token
    visitor.visit(lambda session: session.invalidate())
    assert chosen is not None
    visitor.token = chosen
    visitor.visit(storing(a=2))
    assert visitor.token not in (None, chosen)


@pytest.mark.parametrize(
    "act",
    [
        dict,
        lambda session: session.clear(),
        lambda session: session.invalidate(),
        lambda session: session.rotate(),
        lambda session: setattr(session, "permanent", True),
        lambda session: session.pop("a", None),
        lambda session: flask.get_flashed_messages(),
    ],
)
def test_who_stored_nothing_gets_no_row_and_no_cookie(
    visitor: Visitor, act: Callable[[Any], Any]
) -> None:
    with statements() as seen:
        answer = visitor.visit(act)
    assert answer.status_code == 200
    assert answer.headers.getlist("Set-Cookie") == []
    assert answer.headers["Vary"] == "Cookie"
    assert seen == []


def test_a_change_of_user_drops_what_this_request_did_not_write(visitor: Visitor) -> None:
    visitor.visit(storing(user_id="alice", cart=["tea"]))
    visitor.visit(storing(user_id="bob", note="hello"))
    assert visitor.content() == {"user_id": "bob", "note": "hello"}


def test_flask_logins_key_counts_as_a_login(visitor: Visitor) -> None:
    visitor.visit(storing(cart=["tea"]))
    before = visitor.token
    visitor.visit(storing(_user_id="alice"))
    assert visitor.token != before
    assert row().user_id == "alice"


def test_a_cookie_goes_with_vary_and_no_store(visitor: Visitor) -> None:
    def cached(session: Any) -> flask.Response:
        session["a"] = 1
        response = flask.make_response("x")
        response.headers["Cache-Control"] = "public, max-age=60"
        response.vary.add("Accept")
        response.set_cookie("session", "the app's own")
        return response

    answer = visitor.visit(cached)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers.getlist("Vary") == ["Accept, Cookie"]
    assert set_cookie_of(answer).startswith(f"session={visitor.token}; ")


def test_a_stricter_cache_control_stays(visitor: Visitor) -> None:
    def strict(session: Any) -> flask.Response:
        session["a"] = 1
        return flask.Response("x", headers={"Cache-Control": "no-store, private"})

    assert visitor.visit(strict).headers["Cache-Control"] == "no-store, private"


def test_a_read_adds_vary_and_nothing_else(visitor: Visitor) -> None:
    visitor.visit(storing(a=1))
    for read in (bool, len, lambda session: "a" in session, lambda session: session == {}):
        answer = visitor.visit(read)
        assert answer.headers["Vary"] == "Cookie"
        assert "Cache-Control" not in answer.headers
        assert answer.headers.getlist("Set-Cookie") == []


def test_an_excluded_path_has_no_session(make_visitor: Callable[..., Visitor]) -> None:
    visitor = make_visitor(exclude=["/assets"])
    visitor.visit(storing(a=1))
    with statements() as seen:
        answer = visitor.visit(dict, path="/assets/x")
    assert (answer.json, answer.headers.get("Vary"), seen) == ({}, None, [])
    assert not visitor.visit(lambda session: session.permanent, path="/assets").json
    lasting = visitor.visit(lambda session: setattr(session, "permanent", True), path="/assets")
    assert lasting.status_code == 200
    assert visitor.visit(storing(a=2), path="/assets").status_code == 500
    assert visitor.content() == {"a": 1}


def test_the_client_of_a_login_is_kept_where_it_is_wanted(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor = make_visitor(record_client=True)
    visitor.visit(storing(user_id="alice"), headers={"User-Agent": "Netscape"})

    def devices(session: Any) -> list[Any]:
        listed = manager_of(flask.request).list_sessions("alice", current=session)
        return [(info.ip, info.user_agent, info.current) for info in listed]

    assert visitor.visit(devices).json == [["127.0.0.1", "Netscape", True]]
