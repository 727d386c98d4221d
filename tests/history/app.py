"""The app under test, set up by the environment: it does one thing to its session a request.

Run by uvicorn, one process a port, so that the driver can choose which worker answers.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sessionware import (
    Session,
    SessionGone,
    SessionManager,
    SessionMiddleware,
    manager_of,
    session_of,
)
from sessionware.coherence import Validate
from sessionware.coherence.redis import RedisChannel
from tests.apps import SECRET
from tests.history import bugs
from tests.history.records import value_text

Handler = Callable[[Session, Mapping[str, str]], Awaitable[Any]]


def content(session: Session) -> dict[str, Any]:
    """What the session holds, with the nested value brought to the top."""
    found: dict[str, Any] = dict(session)
    if "nest" in found:
        found["nest"] = found["nest"]["v"]
    return found


def _value(session: Session, query: Mapping[str, str]) -> str:
    return value_text(query["s"], int(query["i"]), session.get("user_id"))


async def read(session: Session, query: Mapping[str, str]) -> None:
    """Only says what it found, as all do."""


async def set_(session: Session, query: Mapping[str, str]) -> None:
    session[query["k"]] = _value(session, query)


async def delete(session: Session, query: Mapping[str, str]) -> None:
    session.pop(query["k"], None)


async def nest(session: Session, query: Mapping[str, str]) -> None:
    """Changes a value inside a value."""
    session.setdefault("nest", {})["v"] = _value(session, query)


async def incr(session: Session, query: Mapping[str, str]) -> Any:
    return await session.aincr("n")


async def take(session: Session, query: Mapping[str, str]) -> Any:
    return await session.atake(query["k"], None)


async def login(session: Session, query: Mapping[str, str]) -> None:
    session["user_id"] = query["u"]
    session["sid"] = query["s"]
    session["who"] = _value(session, query)
    session.rotate(authenticated=True)


async def rotate(session: Session, query: Mapping[str, str]) -> None:
    session.rotate()


async def reset(session: Session, query: Mapping[str, str]) -> None:
    """Replaces all but the name and the user."""
    kept = {key: session[key] for key in ("sid", "user_id", "who") if key in session}
    session.clear()
    session.update(kept)
    session[query["k"]] = _value(session, query)


async def logout(session: Session, query: Mapping[str, str]) -> None:
    session.invalidate()


async def clear(session: Session, query: Mapping[str, str]) -> None:
    session.clear()


HANDLERS: Mapping[str, Handler] = {
    "read": read,
    "set": set_,
    "del": delete,
    "nest": nest,
    "boom": nest,
    "incr": incr,
    "take": take,
    "login": login,
    "rotate": rotate,
    "reset": reset,
    "logout": logout,
    "clear": clear,
}


async def act(request: Request) -> Response:
    """``/set?s=session&i=operation&k=key``; what found no session changes nothing."""
    session = session_of(request)
    kind, query = request.path_params["kind"], request.query_params
    seen = content(session)
    if not seen:
        return JSONResponse({"seen": {}})
    try:
        result = await HANDLERS[kind](session, query)
        if "x" in query:
            await session.asave()
    except SessionGone:
        return JSONResponse({"seen": seen, "gone": True}, 409)
    return JSONResponse({"seen": seen, "result": result}, 500 if kind == "boom" else 200)


async def create(request: Request) -> Response:
    session = session_of(request)
    query = request.query_params
    session["sid"] = query["s"]
    session["nest"] = {"v": _value(session, query)}
    return JSONResponse({"seen": {}})


async def revoke(request: Request) -> Response:
    ended = await manager_of(request).arevoke_user(request.query_params["u"])
    return JSONResponse({"result": ended})


async def ping(request: Request) -> Response:
    """Whether the worker is ready, its channel included, which starts with the first use."""
    store = manager_of(request).store
    await store.aload(bytes(32), 0)
    alive = store.channel.alive or isinstance(store.channel, Validate)
    return PlainTextResponse("ready" if alive else "no channel")


def make_manager(environment: Mapping[str, str]) -> SessionManager:
    """The manager that the ``HISTORY_`` variables describe."""
    coherence: Any = environment.get("HISTORY_COHERENCE", "auto")
    if coherence.startswith("redis:"):
        coherence = RedisChannel(coherence)
    return SessionManager(
        secret_key=SECRET,
        store=environment["HISTORY_STORE"],
        table_name=environment.get("HISTORY_TABLE", "sessions"),
        coherence=coherence,
        listen_url=environment.get("HISTORY_LISTEN") or None,
        cache_ttl=float(environment.get("HISTORY_TTL", "30")),
        store_timeout=float(environment.get("HISTORY_TIMEOUT", "5")),
    )


def make_app(manager: SessionManager) -> Starlette:
    routes = [
        Route("/create", create),
        Route("/revoke", revoke),
        Route("/ping", ping),
        Route("/{kind}", act),
    ]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, manager=manager)])


if "HISTORY_STORE" in os.environ:
    bugs.plant(os.environ.get("HISTORY_BUGS", ""))
    app = make_app(make_manager(os.environ))
