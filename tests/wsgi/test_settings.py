"""What the middleware is made of: settings, a shared manager, its place among others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sessionware import (
    ConfigurationError,
    MemoryStore,
    SessionManager,
    manager_of,
    session_of,
)
from sessionware.adapting import MANAGER_KEY, SESSION_KEY
from sessionware.wsgi import SessionMiddleware
from tests.apps import COOKIE, SECRET
from tests.asgi.site import rows, statements
from tests.wsgi.site import (
    PLAIN,
    WsgiBrowser,
    WsgiSite,
    answering,
    routes,
    session_in,
    showing,
    stored,
)

MakeManager = Callable[..., SessionManager]


def test_the_middleware_makes_its_own_manager_of_the_settings() -> None:
    app = SessionMiddleware(
        routes, SECRET, "sid", 60, "/app", "strict", False, purge_interval=None, rolling=True
    )
    browser = WsgiBrowser(app, name="sid")
    set_cookie = browser.get("/write?a=1").set_cookie
    assert set_cookie.endswith("; path=/app; Max-Age=60; httponly; samesite=strict")
    assert browser.get("/read").json() == {"a": "1"}
    app.manager.shutdown()


def test_construction_does_no_io(tmp_path: Any) -> None:
    SessionMiddleware(routes, SECRET)
    assert list(tmp_path.iterdir()) == []


def test_settings_beside_a_manager_are_refused(make_manager: MakeManager) -> None:
    given: list[dict[str, Any]] = [
        {"rolling": True},
        {"secret_key": SECRET},
        {"session_cookie": "sid"},
    ]
    for settings in given:
        with pytest.raises(ConfigurationError, match="SW035"):
            SessionMiddleware(routes, manager=make_manager(), **settings)


def test_a_misspelt_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="idle_timeout"):
        SessionMiddleware(routes, SECRET, idle_timout=60)  # type: ignore[call-arg]


def test_the_session_and_its_manager_are_found_from_the_environ(site: WsgiSite) -> None:
    found: list[Any] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        found.extend([session_of(environ) is environ[SESSION_KEY], manager_of(environ)])
        return answering()(environ, start_response)

    site.browser().serve(app, validated=False)
    assert found == [True, site.manager]


def test_two_apps_share_sessions_through_one_manager(make_manager: MakeManager) -> None:
    manager = make_manager()
    first = WsgiBrowser(SessionMiddleware(routes, manager=manager))
    second = WsgiBrowser(SessionMiddleware(routes, manager=manager))
    first.get("/write?a=1")
    second.token = first.token
    assert second.get("/read").json() == {"a": "1"}


def test_a_middleware_inside_another_of_the_same_manager_leaves_the_work_to_it(
    make_manager: MakeManager,
) -> None:
    manager = make_manager()
    inner = SessionMiddleware(routes, manager=manager)
    browser = WsgiBrowser(SessionMiddleware(inner, manager=manager))
    with statements() as executed:
        assert len(browser.get("/write?a=1").set_cookies) == 1
    assert executed == ["INSERT"]
    assert browser.get("/read").json() == {"a": "1"}


def test_an_environ_that_is_used_again_is_that_of_a_new_request(site: WsgiSite) -> None:
    kept: WSGIEnvironment = {}

    def server(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        kept.update(environ)
        return site.app(kept, start_response)

    browser = WsgiBrowser(server)
    for asked in ("a=1", "b=2", "c=3"):
        browser.get(f"/write?{asked}", validated=False)
    assert site.browser(browser.token).content() == {"a": "1", "b": "2", "c": "3"}


def test_a_request_that_is_tried_again_after_an_error_is_saved(
    make_manager: MakeManager,
) -> None:
    def unlucky(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session_in(environ)["tries"] = tries = len(seen)
        seen.append(dict(session_in(environ)))
        if not tries:
            raise LookupError
        return routes(environ, start_response)

    def server(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with suppress(LookupError):
            return app(environ, start_response)
        return app(environ, start_response)

    seen: list[dict[str, Any]] = []
    app = SessionMiddleware(unlucky, manager=make_manager())
    browser = WsgiBrowser(server)
    assert len(browser.get("/read", validated=False).set_cookies) == 1
    assert browser.get("/read", validated=False).json() == {"tries": 2}
    assert seen == [{"tries": 0}, {"tries": 1}, {"tries": 2}]


def test_a_request_that_is_tried_again_after_nobody_read_its_answer_is_saved(
    make_manager: MakeManager,
) -> None:
    def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        yield from routes(environ, start_response)

    def server(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        unread: Any = app(environ, start_response)
        unread.close()
        return app(environ, start_response)

    app = SessionMiddleware(late, manager=make_manager())
    browser = WsgiBrowser(server)
    browser.get("/write?a=1", validated=False)
    assert browser.get("/read", validated=False).json() == {"a": "1"}


def test_two_middlewares_with_the_same_cookie_and_different_managers_are_refused(
    make_manager: MakeManager,
) -> None:
    inner = SessionMiddleware(routes, manager=make_manager())
    browser = WsgiBrowser(SessionMiddleware(inner, manager=make_manager()))
    with pytest.raises(ConfigurationError, match="session_cookie"):
        browser.get("/noop")


def test_two_middlewares_with_different_cookies_each_keep_a_session(
    make_manager: MakeManager,
) -> None:
    outer_manager = make_manager(session_cookie="outer", table_name="outer")

    def between(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session_in(environ)["outer"] = 1
        return inner(environ, start_response)

    inner = SessionMiddleware(routes, manager=make_manager())
    app = SessionMiddleware(between, manager=outer_manager)
    answer = WsgiBrowser(app).get("/write?a=1")
    names = [value.partition("=")[0] for value in answer.set_cookies]
    assert set(names) == {COOKIE, "outer"}
    assert len(names) == 2
    assert answer.all("vary") == ["Cookie"]
    jar = "; ".join(value.partition(";")[0] for value in answer.set_cookies)
    assert WsgiBrowser(app).get("/read", cookie=jar).json() == {"a": "1"}
    assert dict(outer_manager.open(jar)) == {"outer": 1}


@pytest.mark.parametrize(
    ("script", "path", "excluded"),
    [
        ("", "/static/x", True),
        ("", "/static", True),
        ("", "/statics", False),
        ("", "/app/static/x", False),
        ("/static", "/x", True),
        ("/static", "", True),
        ("/app", "/static/x", False),
        ("/app", "/health", True),
        ("/app", "/healthy", False),
        ("", "/über/x", True),
        ("/über", "/x", True),
        ("/%C3%BCber", "/x", False),
    ],
)
def test_an_excluded_path_is_matched_on_script_name_and_path_info_together(
    make_site: Callable[..., WsgiSite], script: str, path: str, excluded: bool
) -> None:
    site = make_site(exclude=["/static", "/app/health", "/über"])
    visitor = stored(site, a=1)
    environ: dict[str, Any] = {
        "SCRIPT_NAME": script.encode().decode("latin-1"),
        "PATH_INFO": path.encode().decode("latin-1"),
    }
    with statements() as executed:
        answer = visitor.visit(dict, **environ)
    assert answer.json() == ({} if excluded else {"a": 1})
    assert executed == ([] if excluded else ["SELECT"])
    assert answer.all("vary") == ([] if excluded else ["Cookie"])


def test_an_excluded_path_refuses_to_write(make_site: Callable[..., WsgiSite]) -> None:
    visitor = make_site(exclude=["/static"]).browser()
    with pytest.raises(RuntimeError, match="exclude"):
        visitor.visit(lambda s: s.update(a=1), "/static/x")
    assert rows() == []


def test_the_client_is_recorded_at_the_login_if_that_is_wanted(
    make_site: Callable[..., WsgiSite],
) -> None:
    agent = "Mozilla/5.0 é\N{NO-BREAK SPACE}" + "x" * 300
    for wanted in (True, False):
        site = make_site(record_client=wanted)
        visitor = site.browser()
        visitor.address = "2001:db8::1"
        user = f"alice{wanted}"
        visitor.get(f"/login?user={user}", HTTP_USER_AGENT=agent)
        (info,) = site.manager.list_sessions(user)
        if wanted:
            assert (info.ip, len(info.user_agent or "")) == ("2001:db8::1", 255)
            assert str(info.user_agent).startswith("Mozilla/5.0 éx")
        else:
            assert (info.ip, info.user_agent) == (None, None)


def test_a_server_that_names_no_client_is_no_error(make_site: Callable[..., WsgiSite]) -> None:
    site = make_site(record_client=True)
    visitor = site.browser()
    environ = visitor._environ("/login?user=bob", None, [], "GET")
    del environ["REMOTE_ADDR"]
    result = site.app(environ, lambda *_: lambda data: None)
    assert list(result) == [b'{"user_id": "bob"}']
    (info,) = site.manager.list_sessions("bob")
    assert (info.ip, info.user_agent) == (None, None)


@pytest.mark.parametrize(("scheme", "warned"), [("http", 1), ("https", 0)])
def test_a_secure_cookie_on_a_plain_connection_is_logged_once(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture, scheme: str, warned: int
) -> None:
    app = SessionMiddleware(routes, manager=make_manager(https_only=True))
    with caplog.at_level(logging.WARNING, "sessionware"):
        for _ in range(2):
            WsgiBrowser(app, scheme=scheme).get("/write?a=1")
    assert sum("SW039" in record.message for record in caplog.records) == warned


class Coroutines:
    """A store with coroutine methods only."""

    def __init__(self) -> None:
        self._rows = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("a") or name == "after_fork":
            raise AttributeError(name)
        method = getattr(self._rows, name[1:])

        async def call(*args: Any) -> Any:
            return method(*args)

        return call


def async_engine() -> Any:
    return create_async_engine("sqlite+aiosqlite:///sessions.db")


ASYNC: dict[str, tuple[Callable[[], Any], str]] = {
    "aiosqlite": (lambda: "sqlite+aiosqlite:///sessions.db", "sqlite://"),
    "asyncpg": (lambda: "postgresql+asyncpg://u@localhost/db", "postgresql+psycopg://"),
    "asyncmy": (lambda: "mysql+asyncmy://u@localhost/db", "mysql+pymysql://"),
    "asyncmy on MariaDB": (lambda: "mariadb+asyncmy://u@localhost/db", "mariadb+pymysql://"),
    "AsyncEngine": (async_engine, "sqlite://"),
    "coroutine methods": (Coroutines, "plain methods"),
}


@pytest.mark.parametrize("given", ["a store", "a manager"])
@pytest.mark.parametrize(("make", "twin"), ASYNC.values(), ids=ASYNC)
def test_an_async_driver_is_refused_with_the_name_of_its_sync_twin(
    make: Callable[[], Any], twin: str, given: str
) -> None:
    store = make()
    settings: dict[str, Any] = {"secret_key": SECRET, "store": store, "purge_interval": None}
    if given == "a manager":
        settings = {"manager": SessionManager(**settings)}
    with pytest.raises(ConfigurationError, match="SW020") as refused:
        SessionMiddleware(routes, **settings)
    assert f" {twin}" in str(refused.value)
    assert "WSGI" in str(refused.value)


def test_the_password_of_an_async_url_is_not_in_the_refusal() -> None:
    url = "postgresql+asyncpg://user:PASSWORD@localhost/db"
    with pytest.raises(ConfigurationError, match="SW020") as refused:
        SessionMiddleware(routes, SECRET, store=url, purge_interval=None)
    assert "PASSWORD" not in str(refused.value)


def test_a_path_that_is_not_utf_8_is_an_ordinary_one(make_site: Callable[..., WsgiSite]) -> None:
    visitor = stored(make_site(exclude=["/static"]), a=1)
    assert visitor.visit(dict, PATH_INFO="/\xff\xfe").json() == {"a": 1}


def test_a_response_without_a_session_is_left_as_the_app_made_it(site: WsgiSite) -> None:
    headers = [*PLAIN, ("X-Own", "1")]

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return [b"one"]

    answer = site.browser().serve(app, validated=False)
    assert answer.headers == [(b"Content-Type", b"text/plain"), (b"X-Own", b"1")]


def test_the_managers_key_is_in_the_environ_of_every_request_with_a_session(
    site: WsgiSite,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return showing(environ[MANAGER_KEY] is site.manager)(environ, start_response)

    assert site.browser().serve(app).json() is True
