"""Where the settings come from: keywords, and the application's configuration at each request."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import flask
import pytest

from sessionware import ConfigurationError, SessionManager, config
from sessionware.flask import FlaskSessions
from sessionware.flask_config import CONFIG_KEYS
from tests.apps import COOKIE, SECRET, attributes
from tests.asgi.site import rows
from tests.flask.conftest import STORE, Visitor, add_views, manager_for, set_cookie_of, storing

NEWER = "a newer secret for tests, long enough: 9876543210"


def test_the_cookie_has_what_flask_configures(make_visitor: Callable[..., Visitor]) -> None:
    visitor = make_visitor(
        SESSION_COOKIE_NAME="sid",
        SESSION_COOKIE_DOMAIN="example.com",
        SESSION_COOKIE_PATH="/shop",
        SESSION_COOKIE_HTTPONLY=False,
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_PARTITIONED=True,
    )
    place = {"base_url": "https://example.com/"}
    stored = set_cookie_of(visitor.visit(storing(a=1), "/shop", **place))
    expected = {
        "domain": "example.com",
        "path": "/shop",
        "secure": "",
        "samesite": "Strict",
        "partitioned": "",
    }
    assert stored.startswith("sid=")
    assert attributes(stored) == expected
    ended = set_cookie_of(visitor.visit(lambda session: session.clear(), "/shop", **place))
    assert attributes(ended) == {
        **expected,
        "expires": "Thu, 01 Jan 1970 00:00:00 GMT",
        "max-age": "0",
    }


def test_the_defaults_are_flasks(visitor: Visitor) -> None:
    assert attributes(set_cookie_of(visitor.visit(storing(a=1)))) == {"httponly": "", "path": "/"}


def test_keywords_win_over_the_configuration(make_visitor: Callable[..., Visitor]) -> None:
    visitor = make_visitor(
        SESSION_COOKIE_NAME="sid",
        SESSION_COOKIE_PATH="/shop",
        SESSION_COOKIE_SAMESITE="Strict",
        SECRET_KEY=None,
        secret_key=NEWER,
        session_cookie="mine",
        path="/",
        same_site="lax",
        https_only=True,
        domain=None,
    )
    stored = set_cookie_of(visitor.visit(storing(a=1), base_url="https://localhost/"))
    assert stored.startswith("mine=")
    assert attributes(stored) == {"httponly": "", "path": "/", "samesite": "Lax", "secure": ""}


def test_the_configuration_is_read_anew_for_each_request(visitor: Visitor) -> None:
    config = visitor.app.config
    visitor.visit(storing(a=1))
    config["SESSION_COOKIE_SAMESITE"] = "Strict"
    again = set_cookie_of(visitor.visit(storing(a=1)))
    assert attributes(again)["samesite"] == "Strict"
    config["SESSION_COOKIE_NAME"] = "other"
    assert visitor.content() == {}
    assert set_cookie_of(visitor.visit(storing(b=1))).startswith("other=")
    config["SESSION_COOKIE_NAME"] = "session"
    assert visitor.content() == {"a": 1}


def test_a_bad_samesite_is_a_value_error_at_the_request(visitor: Visitor) -> None:
    visitor.app.testing = True
    visitor.app.config["SESSION_COOKIE_SAMESITE"] = "invalid"
    with pytest.raises(ValueError, match="SESSION_COOKIE_SAMESITE"):
        visitor.visit(storing(a=1))
    visitor.app.config["SESSION_COOKIE_SAMESITE"] = None
    visitor.visit(storing(a=1))
    assert visitor.content() == {"a": 1}


def test_a_changed_secret_opens_old_sessions_through_fallbacks_only(visitor: Visitor) -> None:
    visitor.visit(storing(a=1))
    before = visitor.token
    visitor.app.secret_key = NEWER
    assert visitor.content() == {}
    visitor.app.config["SECRET_KEY_FALLBACKS"] = [SECRET]
    assert visitor.content() == {"a": 1}
    set_cookie_of(visitor.visit(storing(b=2)))
    assert visitor.token != before
    visitor.app.config["SECRET_KEY_FALLBACKS"] = None
    assert visitor.content() == {"a": 1, "b": 2}


MISTAKES: dict[str, dict[str, Any]] = {
    "SECRET_KEY_FALLBACKS: it must be a list": {"SECRET_KEY_FALLBACKS": SECRET},
    r"pass a list, newest first: SECRET_KEY_FALLBACKS=\[": {"SECRET_KEY_FALLBACKS": "o"},
    "SECRET_KEY_FALLBACKS: the secret is empty": {"SECRET_KEY_FALLBACKS": [""]},
    "SECRET_KEY_FALLBACKS: it must be one secret": {"SECRET_KEY_FALLBACKS": [["a"]]},
    "set SESSION_COOKIE_SECURE=True": {"SESSION_COOKIE_SAMESITE": "None"},
    "pass SESSION_COOKIE_SECURE=True": {"SESSION_COOKIE_SECURE": "False"},
    "pass SESSION_COOKIE_PARTITIONED=True": {"SESSION_COOKIE_PARTITIONED": "False"},
    "set SESSION_COOKIE_HTTPONLY=True": {"SESSION_COOKIE_HTTPONLY": "False"},
    "SESSION_COOKIE_HTTPONLY: browsers drop": {
        "SESSION_COOKIE_HTTPONLY": False,
        "SESSION_COOKIE_NAME": "__Http-session",
        "SESSION_COOKIE_SECURE": True,
    },
    "SESSION_REFRESH_EACH_REQUEST: 'False' is not a bool": {
        "SESSION_REFRESH_EACH_REQUEST": "False"
    },
    "PERMANENT_SESSION_LIFETIME: '3600' is not a number": {"PERMANENT_SESSION_LIFETIME": "3600"},
    "PERMANENT_SESSION_LIFETIME: nan is not a number": {"PERMANENT_SESSION_LIFETIME": math.nan},
    "PERMANENT_SESSION_LIFETIME: inf is over": {"PERMANENT_SESSION_LIFETIME": math.inf},
    "PERMANENT_SESSION_LIFETIME: True is not a number": {"PERMANENT_SESSION_LIFETIME": True},
    "SESSION_COOKIE_NAME: browsers drop": {"SESSION_COOKIE_NAME": "__Host-session"},
    "SESSION_COOKIE_DOMAIN: it is a public suffix": {"SESSION_COOKIE_DOMAIN": "co.uk"},
    "SESSION_COOKIE_PATH: it must begin": {"SESSION_COOKIE_PATH": "shop"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_in_the_configuration_is_refused_by_its_own_name(
    make_visitor: Callable[..., Visitor], message: str
) -> None:
    visitor = make_visitor(TESTING=True, **MISTAKES[message])
    with pytest.raises(ConfigurationError, match=message) as caught:
        visitor.visit(None)
    assert SECRET not in str(caught.value)
    for key in MISTAKES[message]:
        visitor.app.config[key] = flask.Flask.default_config[key]
    visitor.visit(storing(a=1))


def test_a_mistake_that_a_keyword_mends_is_refused_by_the_keywords_name(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor = make_visitor(TESTING=True, SESSION_COOKIE_SAMESITE="None", https_only=False)
    with pytest.raises(ConfigurationError, match=r"SAMESITE: .* set https_only=True"):
        visitor.visit(None)
    visitor.app.config["SESSION_COOKIE_SAMESITE"] = None
    visitor.visit(None)


def test_a_partitioned_cookie_is_secure_as_flask_makes_it(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor = make_visitor(SESSION_COOKIE_PARTITIONED=True)
    found = attributes(set_cookie_of(visitor.visit(storing(a=1))))
    assert {"partitioned", "secure"} <= set(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cokie": 1}, "cokie: there is no such setting"),
        ({"same_site": "no"}, "same_site"),
        ({"same_site": "none", "https_only": False}, "https_only=True"),
        ({"secret_key_fallbacks": "old"}, "secret_key_fallbacks"),
        ({"secret_key": ""}, "secret_key: the secret is empty"),
        ({"strict": True, "https_only": False}, "https_only"),
        ({"store": "sqlite+aiosqlite:///x.db"}, "sync twin, sqlite://"),
    ],
)
def test_a_mistake_in_the_keywords_is_refused_at_once(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FlaskSessions(**settings)


def test_strict_mode_looks_at_the_configuration_too(make_visitor: Callable[..., Visitor]) -> None:
    visitor = make_visitor(strict=True, TESTING=True, absolute_timeout=3600)
    with pytest.raises(ConfigurationError, match="SESSION_COOKIE_SECURE"):
        visitor.visit(None)
    visitor.app.config["SESSION_COOKIE_SECURE"] = True
    assert "secure" in attributes(
        set_cookie_of(visitor.visit(storing(a=1), base_url="https://localhost/"))
    )
    visitor.app.config["SESSION_COOKIE_SECURE"] = False
    with pytest.raises(ConfigurationError, match="SESSION_COOKIE_SECURE"):
        visitor.visit(None)


def test_a_cookie_that_scripts_can_read_is_warned_of_and_strict_mode_refuses_it(
    make_visitor: Callable[..., Visitor],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config, "_logged", set())
    make_visitor(SESSION_COOKIE_HTTPONLY=False).visit(storing(a=1))
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert [text.split(":")[0] for text in warnings] == ["SW012 SESSION_COOKIE_HTTPONLY"]
    strict = make_visitor(strict=True, https_only=True, TESTING=True, SESSION_COOKIE_HTTPONLY=False)
    with pytest.raises(ConfigurationError, match="SW012 SESSION_COOKIE_HTTPONLY"):
        strict.visit(None)


@pytest.mark.parametrize(
    ("configured", "max_age"),
    [
        (1.5, 1),
        (timedelta.max, 34_560_000),
        (10**400, 34_560_000),
        (0, 0),
        (None, None),
        (timedelta(hours=1), 3600),
    ],
)
def test_a_lifetime_is_cut_to_what_a_cookie_can_have(
    make_visitor: Callable[..., Visitor], configured: object, max_age: int | None
) -> None:
    visitor = make_visitor(PERMANENT_SESSION_LIFETIME=configured)
    visitor.visit(None)
    assert manager_for(visitor.app).settings.max_age == max_age


def test_a_short_secret_works_and_is_not_shown(
    make_visitor: Callable[..., Visitor], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    visitor = make_visitor(SECRET_KEY="xyzzy")
    visitor.visit(storing(a=1))
    assert visitor.content() == {"a": 1}
    assert "xyzzy" not in caplog.text


def test_a_factory_makes_apps_that_know_nothing_of_each_other() -> None:
    sessions = FlaskSessions(purge_interval=None, store=STORE)

    def create_app(secret: str, name: str) -> flask.Flask:
        app = flask.Flask(name)
        app.config.update(SECRET_KEY=secret, SESSION_COOKIE_NAME=name)
        sessions.init_app(app)
        add_views(app)
        return app

    first, second = Visitor(create_app(SECRET, "first")), Visitor(create_app(NEWER, "second"))
    first.visit(storing(a=1))
    second.visit(storing(b=2))
    assert (first.content(), second.content()) == ({"a": 1}, {"b": 2})
    assert manager_for(first.app) is not manager_for(second.app)
    for each in (first, second):
        manager_for(each.app).shutdown()


def test_two_apps_of_one_manager_share_a_session(make_visitor: Callable[..., Visitor]) -> None:
    manager = SessionManager(secret_key=SECRET, store=STORE, purge_interval=None)
    first = make_visitor(manager=manager, SECRET_KEY="not looked at", SESSION_COOKIE_NAME="nor")
    second = make_visitor(manager=manager, SECRET_KEY=None)
    first.visit(storing(a=1))
    assert first.token is not None
    second.token = first.token
    assert second.content() == {"a": 1}
    assert manager_for(first.app) is manager


def test_settings_beside_a_manager_are_refused() -> None:
    manager = SessionManager(secret_key=SECRET)
    with pytest.raises(ConfigurationError, match="either a manager or settings"):
        FlaskSessions(manager=manager, max_age=60)


@pytest.mark.parametrize("place", ["app", "class", "late"])
def test_it_works_wherever_the_interface_is_put(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    sessions = FlaskSessions(purge_interval=None, store=STORE)

    class App(flask.Flask):
        pass

    app = App(__name__)
    app.secret_key = SECRET
    add_views(app)
    if place == "late":
        Visitor(app).visit(None)
    monkeypatch.setattr(App if place == "class" else app, "session_interface", sessions)
    visitor = Visitor(app)
    visitor.visit(storing(a=1))
    assert visitor.content() == {"a": 1}
    assert len(rows()) == 1
    manager_for(app).shutdown()


@pytest.mark.parametrize(
    "key", [{"SESSION_COOKIE_NAME": "other"}, {"SECRET_KEY": NEWER}], ids=["name", "secret"]
)
def test_a_cookie_is_signed_as_configured_when_it_is_set(
    visitor: Visitor, key: dict[str, str]
) -> None:
    def view(session: Any) -> str:
        session["a"] = 1
        flask.current_app.config.update(key)
        return "ok"

    visitor.visit(view)
    assert visitor.content() == {"a": 1}


def test_a_subclass_says_of_each_request_how_its_cookie_is_made(
    make_app: Callable[..., flask.Flask],
) -> None:
    class PerHost(FlaskSessions):
        def get_cookie_name(self, app: flask.Flask) -> str:
            return f"sid-{flask.request.host.partition('.')[0]}"

    app = make_app()
    app.session_interface = PerHost(store=STORE, purge_interval=None)
    visitor = Visitor(app)
    for host in ("a", "b"):
        answer = visitor.visit(storing(host=host), base_url=f"http://{host}.test/")
        assert set_cookie_of(answer).startswith(f"sid-{host}=")
    assert visitor.visit(dict, base_url="http://a.test/").json == {"host": "a"}


def test_a_middleware_around_it_that_writes_the_same_cookie_is_refused(
    make_visitor: Callable[..., Visitor],
) -> None:
    from sessionware.wsgi import SessionMiddleware

    visitor = make_visitor(TESTING=True)
    wrapped: Any = SessionMiddleware(visitor.app.wsgi_app, SECRET, COOKIE, store=STORE)
    visitor.app.wsgi_app = wrapped  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="two session middlewares"):
        visitor.visit(None)


def test_requests_that_begin_at_once_make_one_manager(make_app: Callable[..., flask.Flask]) -> None:
    app = make_app()
    made: list[SessionManager] = []
    barrier = threading.Barrier(8)

    def begin() -> None:
        barrier.wait(10)
        made.append(manager_for(app))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 8
    assert len(set(map(id, made))) == 1


def test_states_of_the_configuration_are_bounded(visitor: Visitor) -> None:
    for number in range(100):
        visitor.app.config["SESSION_COOKIE_NAME"] = f"sid{number}"
        visitor.visit(None)
    assert len(visitor.app.extensions["sessionware"].keys) <= 32


def test_every_configuration_key_is_one_of_flasks() -> None:
    assert set(CONFIG_KEYS.values()) <= set(flask.Flask.default_config)
