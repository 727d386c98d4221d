"""The middleware among others: shared, nested, mounted, under FastAPI and BaseHTTPMiddleware."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import anyio
import fastapi
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sessionware import (
    ConfigurationError,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    StoreUnavailable,
    manager_of,
    session_of,
)
from tests.apps import SECRET, Browser, write
from tests.asgi.failing import FailingStore
from tests.asgi.site import rows, statements
from tests.services import AS_STARLETTE_DOES

Managers = Callable[..., SessionManager]
Client = Callable[..., TestClient]

pytestmark = pytest.mark.anyio


class CountingStore(MemoryStore):
    """Counts what it is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.closed = 0

    def load(self, sid_hash: bytes, now: int) -> Any:
        self.loads += 1
        return super().load(sid_hash, now)

    def close(self) -> None:
        self.closed += 1
        super().close()


def behind(manager: SessionManager, *routes: Any) -> Starlette:
    return Starlette(
        routes=[*routes, Route("/write", write)],
        middleware=[Middleware(SessionMiddleware, manager=manager)],
    )


@AS_STARLETTE_DOES
def test_the_positional_parameters_are_starlettes() -> None:
    ours = list(inspect.signature(SessionMiddleware).parameters.values())
    theirs = list(inspect.signature(StarlettesMiddleware).parameters.values())
    for mine, other in zip(ours, theirs, strict=False):
        assert (mine.name, mine.kind) == (other.name, other.kind)
        if mine.name != "secret_key":
            assert mine.default == other.default
    assert all(
        extra.kind in (extra.KEYWORD_ONLY, extra.VAR_KEYWORD) for extra in ours[len(theirs) :]
    )


async def test_construction_does_no_io() -> None:
    with statements() as executed:
        SessionMiddleware(Starlette(), SECRET)
    assert (executed, os.listdir()) == ([], [])


async def test_two_apps_that_share_a_manager_share_the_sessions(make_manager: Managers) -> None:
    manager = make_manager()
    first, second = Browser(behind(manager)), Browser(behind(manager))
    await first.get("/write?a=1")
    second.token = first.token
    assert (await second.get("/write?b=2")).json() == {"a": "1", "b": "2"}
    assert len(rows()) == 1


@pytest.mark.parametrize("settings", [{"secret_key": SECRET}, {"rolling": True}])
def test_a_manager_and_settings_beside_it_are_refused(
    make_manager: Managers, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="manager"):
        SessionMiddleware(Starlette(), manager=make_manager(), **settings)


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="idle_timeout"):
        SessionMiddleware(Starlette(), SECRET, idle_timeuot=60)  # type: ignore[call-arg]


async def test_the_same_manager_twice_loads_once_and_sends_one_cookie(
    make_manager: Managers,
) -> None:
    manager = make_manager(store=CountingStore(), cache_ttl=0)
    inner = behind(manager)
    browser = Browser(behind(manager, Mount("/inner", app=inner)))
    answer = await browser.get("/inner/write?a=1")
    assert len(answer.set_cookies) == 1
    assert (await browser.get("/inner/write?b=2")).json() == {"a": "1", "b": "2"}
    assert manager.store.store.loads == 1


async def test_a_scope_that_is_used_again_is_that_of_a_new_request(make_manager: Managers) -> None:
    app = behind(make_manager())
    kept: Scope = {}

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        kept.update(scope)
        await app(kept, receive, send)

    browser = Browser(server)
    for asked in ("a=1", "b=2", "c=3"):
        await browser.get(f"/write?{asked}")
    answer = await Browser(app, browser.token).get("/write")
    assert answer.json() == {"a": "1", "b": "2", "c": "3"}


async def test_a_request_that_is_tried_again_after_an_error_is_saved(
    make_manager: Managers,
) -> None:
    async def unlucky(request: Request) -> Response:
        request.session["tries"] = tries = len(seen)
        seen.append(dict(request.session))
        if not tries:
            raise LookupError
        return Response()

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(LookupError):
            await app(scope, receive, send)
        await app(scope, receive, send)

    seen: list[dict[str, Any]] = []
    app = SessionMiddleware(
        Router([Route("/", unlucky), Route("/write", write)]), manager=make_manager()
    )
    browser = Browser(server)
    assert len((await browser.get("/")).set_cookies) == 1
    answer = await Browser(app, browser.token).get("/write")
    assert (answer.json(), len(seen)) == ({"tries": 1}, 2)


async def test_an_inner_application_called_after_the_response_finds_the_same_session(
    make_manager: Managers,
) -> None:
    async def unheard(message: Message) -> None:
        pass

    async def inner(request: Request) -> Response:
        seen.append(dict(request.session))
        return Response()

    async def login(request: Request) -> Response:
        async def afterwards() -> None:
            await called(request.scope, request.receive, unheard)

        request.session["user_id"] = "alice"
        return Response(background=BackgroundTask(afterwards))

    seen: list[dict[str, Any]] = []
    manager = make_manager()
    called = SessionMiddleware(Router([Route("/login", inner)]), manager=manager)
    browser = Browser(behind(manager, Route("/login", login)))
    await browser.get("/write?a=1")
    await browser.get("/login")
    assert seen == [{"a": "1", "user_id": "alice"}]


async def test_a_request_that_is_tried_again_after_a_cancellation_is_saved(
    make_manager: Managers,
) -> None:
    async def slow(request: Request) -> Response:
        request.session["tries"] = len(seen)
        seen.append(dict(request.session))
        if len(seen) == 1:
            await anyio.sleep_forever()
        return Response()

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.move_on_after(0.01):
            await app(scope, receive, send)
        await app(scope, receive, send)

    seen: list[dict[str, Any]] = []
    manager = make_manager()
    app = SessionMiddleware(Router([Route("/", slow)]), manager=manager)
    browser = Browser(server)
    assert len((await browser.get("/")).set_cookies) == 1
    answer = await Browser(behind(manager), browser.token).get("/write")
    assert (answer.json(), len(seen)) == ({"tries": 1}, 2)


async def test_a_request_that_is_tried_again_after_a_503_is_saved(make_manager: Managers) -> None:
    async def handling(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        try:
            await Response()(scope, receive, send)
        except StoreUnavailable:
            store.down.clear()
            await Response(status_code=500)(scope, receive, send)

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        first: list[Message] = []

        async def keep(message: Message) -> None:
            first.append(message)

        await app(scope, receive, keep)
        assert first[0]["status"] == 503
        await app(scope, receive, send)

    store = FailingStore()
    store.down.add("*")
    app = SessionMiddleware(handling, manager=make_manager(store=store))
    answer = await Browser(server).get("/")
    assert (answer.status, len(answer.set_cookies)) == (200, 1)


async def test_different_cookie_names_are_different_sessions_and_the_inner_one_is_seen(
    make_manager: Managers,
) -> None:
    outer, inner = make_manager(), make_manager(session_cookie="inner", table_name="inner")

    async def both(request: Request) -> Response:
        inside = session_of(request)
        inside["a"] = "inner"
        assert manager_of(inside) is inner
        return JSONResponse(dict(inside))

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = "outer"
        await SessionMiddleware(Starlette(routes=[Route("/", both)]), manager=inner)(
            scope, receive, send
        )

    answer = await Browser(SessionMiddleware(outside, manager=outer)).get("/")
    assert answer.json() == {"a": "inner"}
    pairs = dict(cookie.partition(";")[0].split("=") for cookie in answer.set_cookies)
    assert pairs.keys() == {"session", "inner"}
    for manager, name in ((outer, "session"), (inner, "inner")):
        session = await manager.aopen(f"{name}={pairs[name]}")
        assert dict(session) == {"a": "outer" if manager is outer else "inner"}
    assert answer.all("vary") == ["Cookie"]


@pytest.mark.parametrize("which", ["two of ours", "Starlette's inside", "Starlette's outside"])
async def test_two_owners_of_one_session_are_refused(make_manager: Managers, which: str) -> None:
    ours = behind(make_manager())
    app: ASGIApp
    if which == "two of ours":
        app = SessionMiddleware(ours, manager=make_manager())
    elif which == "Starlette's outside":
        app = StarlettesMiddleware(ours, SECRET, session_cookie="other")
    else:
        inner = Starlette(routes=[Route("/write", write)])
        app = SessionMiddleware(StarlettesMiddleware(inner, SECRET), manager=make_manager())
    with pytest.raises(ConfigurationError, match="SW035"):
        await Browser(app).get("/write?a=1")
    assert rows() == []


async def test_starlettes_session_inside_ours_keeps_to_its_own_cookie(
    make_manager: Managers,
) -> None:
    theirs = StarlettesMiddleware(
        Starlette(routes=[Route("/write", write)]), SECRET, session_cookie="other"
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["ours"] = 1
        await theirs(scope, receive, send)

    manager = make_manager()
    browser = Browser(SessionMiddleware(app, manager=manager))
    for _ in range(2):
        answer = await browser.get("/write?a=1")
        assert answer.json() == {"a": "1"}
    session = await manager.aopen(f"session={browser.token}")
    assert dict(session) == {"ours": 1}


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("http", {"type": "http.response.start", "status": 200, "headers": []}),
        ("websocket", {"type": "websocket.accept", "headers": []}),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"https_only": True, "record_client": True}])
async def test_a_server_may_leave_out_what_asgi_makes_optional(
    make_manager: Managers, kind: str, start: Message, settings: dict[str, Any]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        await send(start)

    async def receive() -> Message:
        return {"type": f"{kind}.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "path": "/", "query_string": b"", "headers": [],
    }  # fmt: skip
    await SessionMiddleware(app, manager=make_manager(**settings))(scope, receive, send)
    assert b"set-cookie" in dict(sent[0]["headers"])


@pytest.mark.parametrize("kind", [list, tuple, iter])
async def test_the_headers_may_be_of_any_kind_and_are_there_for_the_application_too(
    make_manager: Managers, kind: Callable[[Any], Any]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["agent"] = dict(scope["headers"])[b"user-agent"].decode()
        await Response(scope["session"]["agent"])(scope, receive, send)

    wrapped = SessionMiddleware(app, manager=make_manager(record_client=True))

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        await wrapped({**scope, "headers": kind(scope["headers"])}, receive, send)

    answer = await Browser(server).get("/", headers=[("User-Agent", "Check/1")])
    assert (answer.body, len(answer.set_cookies)) == (b"Check/1", 1)


def test_the_end_of_the_lifespan_closes_the_store_it_owns(test_client_factory: Client) -> None:
    store = CountingStore()
    app = Starlette(
        routes=[Route("/write", write)],
        middleware=[Middleware(SessionMiddleware, secret_key=SECRET, store=store)],
    )
    for times in (1, 2):
        with test_client_factory(app) as client:
            assert client.get("/write?a=1").status_code == 200
            assert store.closed == times - 1
        assert store.closed == times


def test_a_shared_manager_is_left_open_at_the_end_of_the_lifespan(
    test_client_factory: Client, make_manager: Managers
) -> None:
    store = CountingStore()
    with test_client_factory(behind(make_manager(store=store))) as client:
        client.get("/write?a=1")
    assert store.closed == 0


def test_the_apps_own_lifespan_may_use_the_store_until_its_end(
    test_client_factory: Client,
) -> None:
    store = CountingStore()
    closed: list[int] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        closed.append(store.closed)

    app = Starlette(
        lifespan=lifespan,
        middleware=[Middleware(SessionMiddleware, secret_key=SECRET, store=store)],
    )
    with test_client_factory(app):
        pass
    assert (closed, store.closed) == ([0], 1)


@pytest.mark.parametrize("kind", ["lifespan", "something.else"])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive))
        await send({"type": "anything"})

    async def receive() -> Message:
        return {}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": kind}
    await SessionMiddleware(app, SECRET)(scope, receive, send)
    assert seen == [(scope, receive)]
    assert (scope, sent) == ({"type": kind}, [{"type": "anything"}])


async def test_a_request_finds_its_manager_and_session(make_manager: Managers) -> None:
    manager = make_manager()

    def handler(request: Request) -> Response:
        session = session_of(request)
        assert type(session) is Session
        assert session is request.session is session_of(request.scope)
        assert manager_of(request) is manager_of(request.scope) is manager_of(session) is manager
        return JSONResponse("found")

    answer = await Browser(behind(manager, Route("/", handler))).get("/")
    assert answer.json() == "found"


@pytest.mark.parametrize("find", [session_of, manager_of])
def test_without_the_middleware_the_search_says_what_is_missing(find: Callable[..., Any]) -> None:
    request = Request({"type": "http", "headers": []})
    with pytest.raises(LookupError, match="middleware"):
        find(request)


def current_session(request: Request) -> Session:
    return session_of(request)


Current = Annotated[Session, fastapi.Depends(current_session)]


def fastapi_app() -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=SECRET)

    @app.get("/async")
    async def in_the_loop(session: Current) -> dict[str, Any]:
        session["n"] = await session.aincr("hits")
        await session.asave()
        return dict(session)

    @app.get("/def")
    def in_a_thread(session: Current) -> dict[str, Any]:
        session["n"] = session.incr("hits")
        session.save()
        assert session.revalidate()
        return dict(session)

    @app.get("/fail")
    def fail(session: Current) -> None:
        session["lost"] = 1
        raise fastapi.HTTPException(503)

    @app.get("/late")
    def late(session: Current, tasks: fastapi.BackgroundTasks) -> None:
        def task() -> None:
            session["late"] = 1
            session.save()

        tasks.add_task(task)

    return app


def test_fastapi_endpoints_of_both_kinds_use_the_session(test_client_factory: Client) -> None:
    with test_client_factory(fastapi_app()) as client:
        assert client.get("/async").json() == {"hits": 1, "n": 1}
        assert client.get("/def").json() == {"hits": 2, "n": 2}
        assert client.get("/fail").status_code == 503
        assert client.get("/late").status_code == 200
        assert client.get("/async").json() == {"hits": 3, "n": 3, "late": 1}
    assert len(rows()) == 1


async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Counts in the session before and after, as authentication and flash middlewares do."""
    request.session["before"] = request.session.get("before", 0) + 1
    response = await call_next(request)
    request.session["after"] = request.session.get("after", 0) + 1
    return response


def test_base_http_middleware_inside_saves_what_it_changes_before_and_after_the_endpoint(
    test_client_factory: Client,
) -> None:
    app = Starlette(
        routes=[Route("/write", write)],
        middleware=[
            Middleware(SessionMiddleware, secret_key=SECRET),
            Middleware(BaseHTTPMiddleware, dispatch=dispatch),
        ],
    )
    with test_client_factory(app) as client:
        response = client.get("/write?a=1")
        assert len(response.headers.get_list("set-cookie")) == 1
        assert response.headers.get_list("vary") == ["Cookie"]
        assert client.get("/write").json() == {"before": 2, "a": "1", "after": 1}


def test_base_http_middleware_outside_lets_sessions_through(test_client_factory: Client) -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-seen"] = "1"
        return response

    def fail(request: Request) -> Response:
        request.session["lost"] = 1
        raise ValueError("the app's own")

    app = Starlette(
        routes=[Route("/write", write), Route("/fail", fail)],
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=pass_on),
            Middleware(SessionMiddleware, secret_key=SECRET),
        ],
    )
    with test_client_factory(app) as client:
        response = client.get("/write?a=1")
        assert (response.headers["x-seen"], len(response.headers.get_list("set-cookie"))) == (
            "1",
            1,
        )
        with pytest.raises(ValueError, match="the app's own"):
            client.get("/fail")
        assert client.get("/write").json() == {"a": "1"}


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
async def test_a_store_that_is_down_is_503_through_base_http_middleware_too(
    make_manager: Managers, outside: bool
) -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    store = FailingStore()
    layers = [
        Middleware(SessionMiddleware, manager=make_manager(store=store)),
        Middleware(BaseHTTPMiddleware, dispatch=pass_on),
    ]
    app = Starlette(routes=[Route("/write", write)], middleware=layers[::-1] if outside else layers)
    browser = Browser(app)
    await browser.get("/write?a=1")
    for method in ("stamp", "replace"):
        store.down = {method}
        answer = await browser.get("/write?b=2")
        assert (answer.status, answer.all("retry-after"), answer.complete) == (503, ["2"], True)
    store.down.clear()
    assert (await browser.get("/write")).json() == {"a": "1"}
