"""ASGI and WSGI side by side: one app inside the other, or services that share a database."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from types import ModuleType
from typing import Any, TypeAlias
from uuid import UUID
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from sessionware import (
    ConfigurationError,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    session_of,
    wsgi,
)
from sessionware.config import DEFAULTS
from tests.apps import COOKIE, SECRET, Browser
from tests.databases import drivers, url_of
from tests.frameworks.browsers import DatedBrowser, WsgiBrowser
from tests.frameworks.importing import framework

flask = framework("flask")
a2wsgi = framework("a2wsgi")
quart = framework("quart")

framework("django")
framework("pyramid.config")

from sessionware.flask import FlaskSessions  # noqa: E402
from sessionware.pyramid import PyramidSessions  # noqa: E402
from sessionware.quart import QuartSessions  # noqa: E402
from tests.django import site  # noqa: E402

pytestmark = pytest.mark.anyio

Act: TypeAlias = Callable[[Any], object]
Serve: TypeAlias = Callable[[Any], None]

VALUES = {
    "tuple": (1, (2, 3)),
    "bytes": b"\x00\xff",
    "uuid": UUID(int=7),
    "datetime": datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC),
    "decimal": Decimal("1.10"),
    "set": {1, 2},
    "dict": {1: {"nested": [None, True]}},
}


@pytest.mark.parametrize("no_manager", ["sqlite:///a.db", False, SessionManager, MemoryStore()])
def test_what_is_no_manager_is_refused_by_every_adapter(no_manager: Any) -> None:
    makers: list[Callable[..., object]] = [
        partial(SessionMiddleware, Starlette()),
        partial(wsgi.SessionMiddleware, flask.Flask(__name__)),
        FlaskSessions,
        QuartSessions,
        PyramidSessions,
    ]
    for make in makers:
        with pytest.raises(ConfigurationError, match="SW035 manager"):
            make(manager=no_manager)


def starlette_app(manager: SessionManager, serve: Serve, *routes: Any) -> Any:
    async def answer(request: Request) -> Response:
        serve(session_of(request))
        return PlainTextResponse("ok")

    middleware = [Middleware(SessionMiddleware, manager=manager)]
    return Starlette(routes=[*routes, Route("/", answer)], middleware=middleware)


def flask_app(manager: SessionManager, serve: Serve) -> Any:
    app = flask.Flask(__name__, static_folder=None)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    FlaskSessions(app, manager=manager)

    @app.get("/")  # type: ignore[untyped-decorator]
    def answer() -> str:
        serve(flask.request.session)
        return "ok"

    return app


def quart_app(manager: SessionManager, serve: Serve) -> Any:
    app = quart.Quart(__name__, static_folder=None)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    QuartSessions(app, manager=manager)

    @app.get("/")  # type: ignore[untyped-decorator]
    async def answer() -> str:
        serve(quart.request.session)
        return "ok"

    return app


def bare_app(manager: SessionManager, serve: Serve) -> Any:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        serve(environ["sessionware.session"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    return wsgi.SessionMiddleware(answer, manager=manager)


def django_app(manager: SessionManager, serve: Serve) -> Any:
    """Under the settings of the fixture ``django_settings``, which make a manager of its own."""
    from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
    from django.http import HttpResponse  # type: ignore[import-untyped]
    from django.urls import path  # type: ignore[import-untyped]

    def answer(request: Any) -> Any:
        serve(request.session)
        return HttpResponse(b"ok")

    URLS.urlpatterns = [path("", answer)]  # type: ignore[attr-defined]
    return WSGIHandler()


URLS = ModuleType("urls")
APPS: dict[str, tuple[Callable[[SessionManager, Serve], Any], Callable[[Any], Browser]]] = {
    "starlette": (starlette_app, DatedBrowser),
    "flask": (flask_app, WsgiBrowser),
    "quart": (quart_app, DatedBrowser),
    "bare": (bare_app, WsgiBrowser),
    "django": (django_app, WsgiBrowser),
}


class Visitor:
    """One browser, which visits several services of a site, or several apps of one service."""

    def __init__(self) -> None:
        self.token: str | None = None
        self._act: Act = bool

    def serve(self, session: Any) -> None:
        """What the visited app does with its session."""
        self._act(session)

    async def visit(self, browser: Browser, act: Act, path: str = "/") -> None:
        self._act = act
        browser.token = self.token
        answer = await browser.get(path)
        assert answer.status == 200
        self.token = browser.token

    async def content(self, browser: Browser, path: str = "/") -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        await self.visit(browser, found.update, path)
        return found


@pytest.fixture
def visitor() -> Visitor:
    return Visitor()


@pytest.fixture
def make_manager(table_name: str) -> Iterator[Callable[[str], SessionManager]]:
    """Makes managers of one database, as several processes do."""
    made = []

    def make(url: str) -> SessionManager:
        # What one has answered is seen by the others at once, not within milliseconds.
        made.append(SessionManager(secret_key=SECRET, store=url, table_name=table_name, **SHARED))
        return made[-1]

    yield make
    for manager in made:
        manager.shutdown()


SHARED: Any = {"coherence": "validate", "purge_interval": None}


@pytest.fixture
def url(driver: str, request: pytest.FixtureRequest) -> str:
    return url_of(driver, request)


@pytest.fixture
def django_settings(url: str, table_name: str) -> Iterator[None]:
    """Django's, with the same secret, database, cookie and key of the user as all others."""
    from django.test import override_settings  # type: ignore[import-untyped]
    from django.urls import clear_url_caches

    assert site.ENGINE == "sessionware.django", "the project is configured there"

    own = {"store": url, "table_name": table_name, "user_key": DEFAULTS["user_key"], **SHARED}
    with override_settings(
        ROOT_URLCONF=URLS, SESSION_COOKIE_NAME=COOKIE, SECRET_KEY=SECRET, SESSIONWARE=own
    ):
        clear_url_caches()
        yield
    clear_url_caches()


@pytest.fixture
def services(
    url: str, make_manager: Any, visitor: Visitor, django_settings: None
) -> dict[str, Browser]:
    """A service of each kind, each with a manager of its own."""
    return {
        name: browser(make(make_manager(url), visitor.serve))
        for name, (make, browser) in APPS.items()
    }


def storing(key: str, value: object) -> Act:
    def act(session: Any) -> None:
        session[key] = value

    return act


def appending(name: str) -> Act:
    return lambda session: session["seen"].append(name)


def end(session: Any) -> None:
    """Log out, as an application of the framework does."""
    if isinstance(session, Session):
        session.invalidate()
    else:
        session.flush()


@drivers("sqlite", "psycopg")
async def test_services_of_one_database_read_what_the_others_stored(
    services: dict[str, Browser], visitor: Visitor
) -> None:
    for name in services:
        await visitor.visit(services[name], storing(name, VALUES))
    expected = dict.fromkeys(services, VALUES)
    for browser in services.values():
        assert typed(await visitor.content(browser)) == typed(expected)


@drivers("sqlite", "psycopg")
async def test_a_login_at_one_service_is_one_at_all_and_so_is_the_logout(
    services: dict[str, Browser], visitor: Visitor
) -> None:
    for here, there in itertools.permutations(services, 2):
        visitor.token = None
        await visitor.visit(services[there], storing("cart", ["tea"]))
        fixed = visitor.token
        await visitor.visit(services[here], storing("user_id", "alice"))
        assert visitor.token != fixed
        logged_in = visitor.token
        for browser in services.values():
            assert await visitor.content(browser) == {"cart": ["tea"], "user_id": "alice"}

        await visitor.visit(services[there], end)
        assert visitor.token is None
        for old in (fixed, logged_in):
            visitor.token = old
            for browser in services.values():
                assert await visitor.content(browser) == {}


@drivers("sqlite", "psycopg")
async def test_a_nested_change_at_one_service_is_seen_by_the_others(
    services: dict[str, Browser], visitor: Visitor
) -> None:
    await visitor.visit(services["starlette"], storing("seen", []))
    for name in services:
        await visitor.visit(services[name], appending(name))
    for browser in services.values():
        assert await visitor.content(browser) == {"seen": list(services)}


def flask_inside(manager: SessionManager, serve: Serve) -> Any:
    return a2wsgi.WSGIMiddleware(flask_app(manager, serve), workers=2)


@pytest.fixture(params=[flask_inside, quart_app], ids=["flask", "quart"])
def inside(
    request: pytest.FixtureRequest, make_manager: Any, sqlite_url: str, visitor: Visitor
) -> tuple[SessionManager, Any]:
    """A manager, and an ASGI app with its sessions for a Starlette app to mount."""
    manager = make_manager(sqlite_url)
    return manager, request.param(manager, visitor.serve)


@pytest.fixture
def mounted(inside: tuple[SessionManager, Any], visitor: Visitor) -> Browser:
    """Another app under a Starlette app, with one manager."""
    manager, app = inside
    return DatedBrowser(starlette_app(manager, visitor.serve, Mount("/inside", app)))


INSIDE = "/inside/"


async def test_an_app_inside_a_starlette_app_has_the_same_session(
    mounted: Browser, visitor: Visitor
) -> None:
    await visitor.visit(mounted, storing("outer", VALUES))
    await visitor.visit(mounted, storing("inner", VALUES), INSIDE)
    expected = typed({"outer": VALUES, "inner": VALUES})
    assert typed(await visitor.content(mounted)) == expected
    assert typed(await visitor.content(mounted, INSIDE)) == expected


@pytest.mark.parametrize(("login", "logout"), [("/", INSIDE), (INSIDE, "/")])
async def test_a_login_inside_holds_outside_and_the_other_way_round(
    login: str, logout: str, mounted: Browser, visitor: Visitor
) -> None:
    await visitor.visit(mounted, storing("cart", ["tea"]), logout)
    fixed = visitor.token
    await visitor.visit(mounted, storing("user_id", "alice"), login)
    assert visitor.token != fixed
    logged_in = visitor.token
    for path in ("/", INSIDE):
        content = await visitor.content(mounted, path)
        assert content == {"cart": ["tea"], "user_id": "alice"}
    await visitor.visit(mounted, end, logout)
    assert visitor.token is None
    for old in (fixed, logged_in):
        visitor.token = old
        for path in ("/", INSIDE):
            assert await visitor.content(mounted, path) == {}


async def test_a_session_that_begins_inside_has_one_cookie(
    mounted: Browser, visitor: Visitor
) -> None:
    visitor._act = lambda session: session.update(a=1)
    answer = await mounted.get(INSIDE)
    assert len(answer.set_cookies) == 1


@pytest.mark.parametrize("known", [False, True], ids=["new visitor", "known visitor"])
async def test_what_outside_and_inside_store_in_one_request_is_one_commit_and_one_cookie(
    known: bool, inside: tuple[SessionManager, Any], visitor: Visitor
) -> None:
    manager, app = inside

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["visits"] = scope["session"].get("visits", 0) + 1
        await app(scope, receive, send)

    outside = DatedBrowser(starlette_app(manager, visitor.serve, Mount("/inside", counting)))
    if known:
        await visitor.visit(outside, storing("cart", ["tea"]), INSIDE)
    before = visitor.token
    await visitor.visit(outside, storing("user_id", "alice"), INSIDE)
    assert visitor.token not in (None, before)
    expected = {"visits": 2, "cart": ["tea"]} if known else {"visits": 1}
    assert await visitor.content(outside, "/") == {**expected, "user_id": "alice"}
    await visitor.visit(outside, end, INSIDE)
    assert visitor.token is None


def typed(value: Any) -> Any:
    """Equal only to what is equal and of the same type, all the way down."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    return type(value), value
