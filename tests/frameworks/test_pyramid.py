"""Pyramid with ``PyramidSessions`` as its session factory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionware import ConfigurationError, SessionManager, StoreUnavailable
from sessionware.wsgi import SessionMiddleware
from tests.apps import SECRET, Browser
from tests.asgi.failing import FailingStore
from tests.frameworks.browsers import WsgiBrowser
from tests.frameworks.importing import framework
from tests.frameworks.rules import NAMES, Refused, Rules, is_unavailable, rows, serve

framework("pyramid.config")

from pyramid.authentication import SessionAuthenticationHelper  # type: ignore[import-untyped]  # noqa: E402
from pyramid.config import Configurator  # type: ignore[import-untyped]  # noqa: E402
from pyramid.csrf import check_csrf_token, get_csrf_token  # type: ignore[import-untyped]  # noqa: E402
from pyramid.events import NewResponse  # type: ignore[import-untyped]  # noqa: E402
from pyramid.httpexceptions import status_map  # type: ignore[import-untyped]  # noqa: E402
from pyramid.interfaces import ISession  # type: ignore[import-untyped]  # noqa: E402
from pyramid.request import Request  # type: ignore[import-untyped]  # noqa: E402
from pyramid.response import Response  # type: ignore[import-untyped]  # noqa: E402
from zope.interface.verify import verifyObject  # type: ignore[import-untyped]  # noqa: E402

from sessionware.pyramid import PyramidSessions  # noqa: E402

View = Callable[[Any], Any]


def configured(manager: SessionManager, **views: View) -> Any:
    """A configuration with the common views and those given."""
    config = Configurator(session_factory=PyramidSessions(manager=manager))
    for name in NAMES:
        add_view(config, name, common(name))
    for name, view in views.items():
        add_view(config, name, view)
    return config


def add_view(config: Any, name: str, view: View) -> None:
    config.add_route(name, f"/{name}")
    config.add_view(view, route_name=name, renderer="json")


def common(name: str) -> View:
    def view(request: Any) -> object:
        try:
            return serve(name, request, lambda: request.session, dict(request.params))
        except Refused as error:
            raise status_map[error.status] from None

    return view


def browser_of(config: Any) -> Browser:
    return WsgiBrowser(config.make_wsgi_app())


class TestPyramid(Rules):
    eager = False

    def browser(self, manager: SessionManager) -> Browser:
        return browser_of(configured(manager))

    async def test_flash_messages_are_there_once(self, manager: SessionManager) -> None:
        def flash(request: Any) -> str:
            for message in ("one", "two", "one"):
                request.session.flash(message)
                request.session.flash(message, "unique", allow_duplicate=False)
            return "ok"

        def show(request: Any) -> Any:
            peeked = request.session.peek_flash()
            assert request.session.pop_flash() == peeked
            return [peeked, request.session.pop_flash("unique")]

        browser = browser_of(configured(manager, flash=flash, show=show))
        await browser.get("/flash")
        assert (await browser.get("/show")).json() == [["one", "two", "one"], ["one", "two"]]
        assert (await browser.get("/show")).json() == [[], []]
        assert browser.token is None, "an emptied session is deleted"

    async def test_pyramids_csrf_token_lives_in_the_session(self, manager: SessionManager) -> None:
        views = {
            "token": get_csrf_token,
            "renew": lambda request: request.session.new_csrf_token(),
            "check": lambda request: check_csrf_token(request, raises=False),
        }
        browser = browser_of(configured(manager, **views))
        token = (await browser.get("/token")).json()
        assert (await browser.get("/token")).json() == token
        assert (await browser.get("/check", headers=[("x-csrf-token", token)])).json() is True
        renewed = (await browser.get("/renew")).json()
        assert renewed != token
        assert (await browser.get("/check", headers=[("x-csrf-token", token)])).json() is False
        assert (await browser.get("/check", headers=[("x-csrf-token", renewed)])).json() is True

    async def test_a_session_is_what_pyramid_calls_one(self, manager: SessionManager) -> None:
        def look(request: Any) -> Any:
            session = request.session
            assert verifyObject(ISession, session)
            found = [session.new, session.created]
            session["a"] = 1
            session.changed()
            return found

        browser = browser_of(configured(manager, look=look))
        is_new, before = (await browser.get("/look")).json()
        assert is_new is True
        is_new, created = (await browser.get("/look")).json()
        assert is_new is False
        assert before <= created <= before + 5

    async def test_the_login_of_pyramids_own_helper_changes_the_id(
        self, store: FailingStore
    ) -> None:
        helper = SessionAuthenticationHelper()
        sessions = PyramidSessions(secret_key=SECRET, store=store, purge_interval=None)
        config = Configurator(session_factory=sessions)
        add_view(config, "write", common("write"))
        add_view(config, "remember", lambda request: helper.remember(request, "alice"))
        add_view(config, "forget", lambda request: helper.forget(request))
        browser = browser_of(config)
        await browser.get("/write?a=1")
        seen = [browser.token]
        for path in ("/remember", "/forget"):
            await browser.get(path)
            assert browser.token not in seen
            seen.append(browser.token)
        sessions.manager.shutdown()

    async def test_an_exception_view_answers_for_a_failing_store(
        self, manager: SessionManager, store: FailingStore
    ) -> None:
        config = configured(manager)
        config.add_exception_view(lambda error, request: Response("sorry", 503), StoreUnavailable)
        browser = browser_of(config)
        await browser.get("/write?a=1")
        store.down.add("*")
        answer = await browser.get("/read")
        assert (answer.status, answer.body) == (503, b"sorry")

    async def test_a_view_for_every_exception_does_not_hide_a_failing_store(
        self, manager: SessionManager, store: FailingStore
    ) -> None:
        config = configured(manager)
        config.add_exception_view(lambda error, request: Response("oh", 500), Exception)
        browser = browser_of(config)
        await browser.get("/write?a=1")
        store.down.add("*")
        answer = await browser.get("/read")
        assert answer.status == 503
        assert answer.all("retry-after") == ["2"]

    @pytest.mark.parametrize(
        "act",
        [
            lambda session: session.save(),
            lambda session: session.take("a"),
            lambda session: session.incr("n"),
            lambda session: session.revalidate(),
        ],
        ids=["save", "take", "incr", "revalidate"],
    )
    async def test_a_store_that_fails_in_the_view_is_a_503(
        self, act: Callable[[Any], object], manager: SessionManager, store: FailingStore
    ) -> None:
        def view(request: Any) -> object:
            request.session["b"] = 2
            store.down.add("*")
            return act(request.session)

        browser = browser_of(configured(manager, view=view))
        await browser.get("/write?a=1")
        answer = await browser.get("/view")
        assert answer.status == 503
        assert answer.all("retry-after") == ["2"]

    async def test_a_change_by_a_body_that_is_being_sent_is_an_error(
        self, manager: SessionManager
    ) -> None:
        def stream(request: Any) -> Any:
            def body() -> Iterator[bytes]:
                yield b"first"
                request.session["late"] = True

            request.session["a"] = 1
            return Response(app_iter=body())

        browser = browser_of(configured(manager, stream=stream))
        with pytest.raises(Exception, match="after the response had begun"):
            await browser.get("/stream")

    async def test_a_change_after_the_save_is_an_error(self, manager: SessionManager) -> None:
        def view(request: Any) -> str:
            request.session["a"] = 1
            request.add_response_callback(lambda request, _: request.session.update(late=True))
            return "ok"

        browser = browser_of(configured(manager, view=view))
        with pytest.raises(Exception, match="after the response had begun"):
            await browser.get("/view")

    async def test_a_session_that_is_first_looked_at_after_the_response_is_no_exception(
        self, manager: SessionManager
    ) -> None:
        def store_later(event: Any) -> None:
            event.request.session["late"] = True

        config = configured(manager)
        config.add_subscriber(store_later, NewResponse)
        browser = browser_of(config)
        with pytest.raises(Exception, match="after the response had begun"):
            await browser.get("/noop")

    async def test_a_view_that_fails_keeps_its_own_error(self, manager: SessionManager) -> None:
        def view(request: Any) -> None:
            request.session["a"] = 1
            raise KeyError("its own")

        with pytest.raises(Exception, match="its own"):
            await browser_of(configured(manager, view=view)).get("/view")

    async def test_a_views_own_500_does_not_hide_a_failing_store(
        self, manager: SessionManager, store: FailingStore
    ) -> None:
        def careful(request: Any) -> Any:
            try:
                return dict(request.session)
            except StoreUnavailable:
                return Response("oh", 500)

        browser = browser_of(configured(manager, careful=careful))
        await browser.get("/write?a=1")
        store.down.add("*")
        assert is_unavailable(await browser.get("/careful"))

    async def test_a_subrequest_shares_the_session(
        self, manager: SessionManager, store: FailingStore
    ) -> None:
        def outer(request: Any) -> Any:
            request.session["outer"] = 1
            inner = Request(dict(request.environ, PATH_INFO="/inner"))
            return request.invoke_subrequest(inner).json

        def inner(request: Any) -> Any:
            request.session["inner"] = 2
            return dict(request.session)

        browser = browser_of(configured(manager, outer=outer, inner=inner))
        assert (await browser.get("/outer")).json() == {"outer": 1, "inner": 2}
        assert (await browser.get("/read")).json() == {"outer": 1, "inner": 2}
        assert rows(store) == 1

    async def test_an_excluded_path_has_no_session(self, store: FailingStore) -> None:
        sessions = PyramidSessions(secret_key=SECRET, store=store, exclude=["/api"])
        config = Configurator(session_factory=sessions)
        add_view(
            config, "api", lambda request: [len(request.session), request.session.peek_flash()]
        )
        answer = await browser_of(config).get("/api")
        assert answer.json() == [0, []]
        assert store.calls == []
        sessions.manager.shutdown()

    async def test_the_middleware_around_it_is_refused(self, manager: SessionManager) -> None:
        app = SessionMiddleware(configured(manager).make_wsgi_app(), manager=manager)
        with pytest.raises(ConfigurationError, match="two session middlewares"):
            await WsgiBrowser(app).get("/read")
