"""On Starlette: the floor, sessionware, Starlette's own cookie, starsessions."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..site import (
    ANSWER,
    LARGE,
    LIFETIME,
    PAGES,
    PAYLOAD,
    SECRET,
    Place,
    Site,
    libpq,
    postgres,
    redis,
)
from .ours import manager_for, site_of

Handler = Callable[[Request], Awaitable[Response]]


async def plain(request: Request) -> Response:
    return PlainTextResponse(ANSWER)


async def read(request: Request) -> Response:
    request.session.get("user")
    return PlainTextResponse(ANSWER)


async def write(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return PlainTextResponse(ANSWER)


async def login(request: Request) -> Response:
    request.session["user_id"] = "alice"
    return PlainTextResponse(ANSWER)


async def logout(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse(ANSWER)


async def seed(request: Request) -> Response:
    request.session.update(PAYLOAD)
    return PlainTextResponse(ANSWER)


async def seed20(request: Request) -> Response:
    request.session.update(LARGE)
    return PlainTextResponse(ANSWER)


async def show(request: Request) -> Response:
    return PlainTextResponse(json.dumps(dict(getattr(request.session, "data", request.session))))


HANDLERS: dict[str, Handler] = {
    handler.__name__: handler for handler in (plain, read, write, login, logout, seed, seed20, show)
}


def application(handlers: dict[str, Handler], middleware: list[Middleware]) -> Starlette:
    routes = [Route(f"/{name}", handlers[name]) for name in PAGES]
    return Starlette(routes=routes, middleware=middleware)


def bare() -> Starlette:
    return application(dict.fromkeys(PAGES, plain), [])


def build(place: Place, kind: str, **options: Any) -> Site:
    return _BUILDERS[kind](place, **options)


def _sessionware(place: Place, **options: Any) -> Site:
    from sessionware import SessionMiddleware

    manager = manager_for(place, **options)
    app = application(HANDLERS, [Middleware(SessionMiddleware, manager=manager)])
    return site_of(manager, app, bare(), close=manager.ashutdown)


def _floor(
    place: Place, driver: str = "sqlite", synchronous: str = "normal", inline: bool = False
) -> Site:
    from . import floor, floor_loop, floor_threads

    # Set up in the test's own way: a Floor is no Starlette middleware with settings.
    stack = application(HANDLERS, [])
    store: floor.FloorStore
    match driver:
        case "sqlite":
            store = floor_threads.on_sqlite(place.file, synchronous, inline=inline)
        case "aiosqlite":
            store = floor_loop.on_aiosqlite(place.file, synchronous)
        case "psycopg":
            store = floor_threads.on_postgres(libpq(postgres()), place.table)
        case _:
            store = floor_loop.on_asyncpg(libpq(postgres()), place.table)
    made = floor.Floor(stack, store)
    return Site(made, bare(), chill=made.cache.clear)


def _cookie(place: Place) -> Site:
    from starlette.middleware.sessions import SessionMiddleware

    return Site(application(HANDLERS, [Middleware(SessionMiddleware, secret_key=SECRET)]), bare())


def _starsessions(place: Place, redis: bool = False) -> Site:
    """https://github.com/alex-oleshkevich/starsessions: sessions are loaded where they are used."""
    from starsessions import (
        InMemoryStore,
        SessionMiddleware,
        SessionStore,
        load_session,
        regenerate_session_id,
    )

    def loading(handler: Handler) -> Handler:
        async def loaded(request: Request) -> Response:
            await load_session(request)
            return await handler(request)

        return loaded

    async def log_in(request: Request) -> Response:
        request.session["user_id"] = "alice"
        regenerate_session_id(request)
        return PlainTextResponse(ANSWER)

    store: SessionStore = InMemoryStore()
    close: Callable[[], Any] = lambda: None  # noqa: E731
    if redis:
        from redis.asyncio import BlockingConnectionPool, Redis
        from starsessions.stores.redis import RedisStore

        # A pool that does not wait fails when 500 requests come at once.
        connection = Redis.from_pool(BlockingConnectionPool.from_url(_redis_url()))
        store = RedisStore(connection=connection, prefix=f"{place.table}:")
        close = connection.aclose
    handlers = {name: loading(handler) for name, handler in HANDLERS.items()}
    handlers |= {"plain": plain, "login": loading(log_in)}
    middleware = Middleware(
        SessionMiddleware, store=store, lifetime=LIFETIME, cookie_https_only=False
    )
    return Site(application(handlers, [middleware]), bare(), close=close)


_redis_url = redis
_BUILDERS: dict[str, Callable[..., Site]] = {
    "sessionware": _sessionware,
    "floor": _floor,
    "cookie": _cookie,
    "starsessions": _starsessions,
}
