"""Flask applications with our sessions, and visitors who say what their requests do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from sessionware import SessionManager
from sessionware.flask import FlaskSession, FlaskSessions
from sessionware.wsgi import SessionMiddleware
from tests.apps import SECRET

STORE = "sqlite:///sessions.db"


class Visitor:
    """A browser in front of an app of `make_app`; its requests do what the test says."""

    def __init__(self, app: flask.Flask) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()

    def visit(
        self, act: Callable[[Any], Any] | None = None, path: str = "/", **request: Any
    ) -> TestResponse:
        """A request that does ``act`` with ``flask.session``, or with None doesn't touch it. What
        ``act`` returns is the answer, as JSON where it isn't a response.

        The answer is closed as servers do, which ends the request.
        """
        self.app.extensions["tests.act"] = act
        answer = self.client.get(path, **request)
        answer.get_data()
        answer.close()
        return answer

    def content(self) -> Any:
        return self.visit(dict).json

    @property
    def token(self) -> str | None:
        cookie = self.client.get_cookie("session")
        return None if cookie is None else cookie.value

    @token.setter
    def token(self, value: str) -> None:
        self.client.set_cookie("session", value)


def act(path: str = "") -> Any:
    """The view of every path."""
    doing = flask.current_app.extensions["tests.act"]
    if doing is None:
        return "no session here"
    result = doing(flask.session)
    return result if isinstance(result, flask.Response | tuple) else flask.jsonify(result)


def add_views(app: flask.Flask) -> None:
    app.add_url_rule("/", view_func=act)
    app.add_url_rule("/<path:path>", view_func=act)


def manager_for(app: flask.Flask) -> SessionManager:
    interface = app.session_interface
    assert isinstance(interface, FlaskSessions)
    return interface.manager_of(app)


def inside(visitor: Visitor) -> Visitor:
    """A visitor of the same app, which is inside a middleware of ours with the same manager."""
    app: Any = visitor.app
    app.wsgi_app = SessionMiddleware(app.wsgi_app, manager=manager_for(app))
    return visitor


def set_cookie_of(answer: TestResponse) -> str:
    """The only Set-Cookie."""
    (value,) = answer.headers.getlist("Set-Cookie")
    return value


def storing(**content: Any) -> Callable[[FlaskSession], None]:
    return lambda session: session.update(content)


@pytest.fixture
def make_app() -> Iterator[Callable[..., flask.Flask]]:
    """Makes Flask apps; configuration keys are in capitals, settings of ours are not."""
    made: list[flask.Flask] = []

    def make(**settings: Any) -> flask.Flask:
        app = flask.Flask(f"{__name__}_{len(made)}")
        config = {key: settings.pop(key) for key in list(settings) if key.isupper()}
        app.config.update({"SECRET_KEY": SECRET, **config})
        if "manager" not in settings:
            usual = {"store": STORE, "purge_interval": None, "coherence": "validate"}
            settings = {**usual, **settings}
        FlaskSessions(app, **settings)
        add_views(app)
        made.append(app)
        return app

    yield make
    for app in made:
        manager_for(app).shutdown()


@pytest.fixture
def make_visitor(make_app: Callable[..., flask.Flask]) -> Callable[..., Visitor]:
    """Makes visitors of apps with the settings given."""
    return lambda **settings: Visitor(make_app(**settings))


@pytest.fixture
def visitor(make_visitor: Callable[..., Visitor]) -> Visitor:
    """A visitor of an app with the default settings."""
    return make_visitor()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
