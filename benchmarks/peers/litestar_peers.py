"""On Litestar: its own server-side sessions."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from typing import Any

from litestar import Litestar, MediaType, Request, get
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.base import Store
from litestar.stores.memory import MemoryStore
from litestar.stores.redis import RedisStore
from redis.asyncio import BlockingConnectionPool, Redis

from ..site import ANSWER, LARGE, PAGES, PAYLOAD, Place, Site
from ..site import redis as redis_url


@get("/plain", media_type=MediaType.TEXT)
async def plain() -> str:
    return ANSWER


@get("/read", media_type=MediaType.TEXT)
async def read(request: Request[Any, Any, Any]) -> str:
    request.session.get("user")
    return ANSWER


@get("/write", media_type=MediaType.TEXT)
async def write(request: Request[Any, Any, Any]) -> str:
    request.session["n"] = request.session.get("n", 0) + 1
    return ANSWER


@get("/login", media_type=MediaType.TEXT)
async def login(request: Request[Any, Any, Any]) -> str:
    request.session["user_id"] = "alice"
    return ANSWER


@get("/logout", media_type=MediaType.TEXT)
async def logout(request: Request[Any, Any, Any]) -> str:
    request.clear_session()
    return ANSWER


@get("/seed", media_type=MediaType.TEXT)
async def seed(request: Request[Any, Any, Any]) -> str:
    request.session.update(PAYLOAD)
    return ANSWER


@get("/seed20", media_type=MediaType.TEXT)
async def seed20(request: Request[Any, Any, Any]) -> str:
    request.session.update(LARGE)
    return ANSWER


@get("/show", media_type=MediaType.TEXT)
async def show(request: Request[Any, Any, Any]) -> str:
    return json.dumps(dict(request.session))


@get([f"/{name}" for name in PAGES], media_type=MediaType.TEXT)
async def bare() -> str:
    return ANSWER


def build(place: Place, redis: bool) -> Site:
    store: Store = MemoryStore()
    if redis:
        # A pool that does not wait fails when 500 requests come at once.
        pool = BlockingConnectionPool.from_url(redis_url())
        store = RedisStore(Redis.from_pool(pool), namespace=f"{place.table}:")
    app = Litestar(
        [plain, read, write, login, logout, seed, seed20, show],
        middleware=[ServerSideSessionConfig().middleware],
        stores={"sessions": store},
        openapi_config=None,
    )
    return Site(app, Litestar([bare], openapi_config=None))
