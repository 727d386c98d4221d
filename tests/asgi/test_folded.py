"""A session that is decoded at its first use: nobody can tell, whichever way it is used."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography.fernet import Fernet
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from sessionware import Session, SessionManager, SessionMiddleware
from tests.apps import Browser, Managers
from tests.asgi.folding import CONTENT, Site, is_folded, warm

pytestmark = pytest.mark.anyio


@pytest.fixture
async def site(make: Managers, sqlite_url: str) -> Site:
    return await warm(make(store=sqlite_url, coherence="bounded"))


def matched(session: Any) -> Any:
    match session:
        case {"user": user, "cart": [first, {"n": n}], **rest}:
            return user, first, n, rest
    return None


def keywords(**content: Any) -> Any:
    return content


WAYS: dict[str, Callable[[Any], Any]] = {
    "dict()": dict,
    "{**s}": lambda session: {**session},
    "json.dumps": lambda session: json.loads(json.dumps(session)),
    "json in Python": lambda session: json.loads(json.dumps(session, indent=1)),
    "== on the left": lambda session: session == CONTENT,
    "== on the right": lambda session: CONTENT == session,  # noqa: SIM300
    "s | d": lambda session: session | {"x": 1},
    "d | s": lambda session: {"x": 1} | session,
    "d |= s": lambda session: merged(session),
    "d.update(s)": lambda session: updated(session),
    "in": lambda session: ("user" in session, "none" in session),
    "len": len,
    "bool": bool,
    "iter": list,
    "reversed": lambda session: list(reversed(session)),
    "sorted": sorted,
    "[]": lambda session: session["cart"],
    "get": lambda session: session.get("user"),
    "keys": lambda session: list(session.keys()),
    "values": lambda session: list(session.values()),
    "items": lambda session: list(session.items()),
    "copy": lambda session: session.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda session: pickle.loads(pickle.dumps(session)),
    "format": lambda session: f"{session}{session!r}",
    "format_map": lambda session: "{user} {n}".format_map(session),
    "percent": lambda session: "%(user)s" % session,  # noqa: UP031
    "match": matched,
    "f(**s)": lambda session: keywords(**session),
    "msgspec.json": lambda session: msgspec.json.decode(msgspec.json.encode(session)),
    "msgspec.msgpack": lambda session: msgspec.msgpack.decode(msgspec.msgpack.encode(session)),
    "msgspec.to_builtins": msgspec.to_builtins,
    "pydantic": TypeAdapter(dict[str, Any]).validate_python,
    "dict's own methods": lambda session: dict(dict.items(session)),
    "pop": lambda session: session.pop("user"),
    "popitem": lambda session: session.popitem(),
    "setdefault": lambda session: session.setdefault("user", 1),
}


def merged(session: Any) -> Any:
    found: dict[Any, Any] = {}
    found |= session
    return found


def updated(session: Any) -> Any:
    found: dict[Any, Any] = {}
    found.update(session)
    return found


@pytest.mark.parametrize("way", WAYS)
async def test_whoever_asks_request_session_sees_what_is_in_it(site: Site, way: str) -> None:
    seen: list[Any] = []
    await site.visit(lambda request: seen.append(WAYS[way](request.session)))
    assert site.folded[-1]
    assert seen == [WAYS[way](Session(copy.deepcopy(CONTENT)))]


async def test_orjson_sees_what_is_in_it(site: Site) -> None:
    orjson = pytest.importorskip("orjson")
    seen: list[Any] = []
    await site.visit(lambda request: seen.append(orjson.loads(orjson.dumps(request.session))))
    assert seen == [CONTENT]


THROUGH_METHODS = WAYS.keys() - {
    "msgspec.json",
    "msgspec.msgpack",
    "msgspec.to_builtins",
    "dict's own methods",
    "format",
}


@pytest.mark.parametrize("way", sorted(THROUGH_METHODS))
async def test_scope_session_shows_it_to_whatever_goes_through_its_methods(
    site: Site, way: str
) -> None:
    seen: list[Any] = []
    await site.visit(lambda request: seen.append(WAYS[way](request.scope["session"])))
    assert site.folded[-1]
    assert seen == [WAYS[way](Session(copy.deepcopy(CONTENT)))]


@pytest.mark.parametrize("way", ["msgspec.json", "msgspec.msgpack"])
async def test_whoever_looks_into_the_dict_unannounced_fails_and_does_not_find_it_empty(
    site: Site, way: str
) -> None:
    with pytest.raises((TypeError, ValueError)):
        await site.visit(lambda request: WAYS[way](request.scope["session"]))


# Where it is decoded.


def routed(*routes: BaseRoute) -> Callable[[SessionManager], ASGIApp]:
    def build(manager: SessionManager) -> ASGIApp:
        return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, manager=manager)])

    return build


FOLDED: list[bool] = []


async def note(request: Request) -> Response:
    FOLDED.append(is_folded(request.scope))
    return JSONResponse(dict(request.session))


class Raw:
    """An application of no framework."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        FOLDED.append(is_folded(scope))
        body = msgspec.json.encode(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def fastapi_app(manager: SessionManager) -> ASGIApp:
    from fastapi import APIRouter, FastAPI

    router = APIRouter()
    router.add_api_route("/note", note)
    app = FastAPI()
    app.include_router(router)
    app.add_middleware(SessionMiddleware, manager=manager)
    return app


class Own(BaseRoute):
    """A kind of route that nobody knows."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.NONE, {}


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return await note(request)


NOTE = Route("/note", note)
APPS: dict[str, tuple[bool, Callable[[SessionManager], ASGIApp]]] = {
    "Starlette": (True, routed(NOTE)),
    "Starlette inside": (
        True,
        lambda manager: SessionMiddleware(Starlette(routes=[NOTE]), manager=manager),
    ),
    "FastAPI": (True, fastapi_app),
    "mounted Starlette": (True, routed(Mount("/", app=Starlette(routes=[NOTE])))),
    "mounted routes": (True, routed(Mount("/", routes=[NOTE]))),
    "an endpoint that is a class": (True, routed(Route("/note", Endpoint))),
    "static files": (True, routed(NOTE, Mount("/static", StaticFiles(directory=".")))),
    "a mounted app of another kind": (False, routed(NOTE, Mount("/raw", Raw()))),
    "one mounted further in": (
        False,
        routed(Mount("/", routes=[NOTE, Mount("/raw", routes=[Mount("/further", Raw())])])),
    ),
    "a route to another kind": (False, routed(NOTE, Route("/raw", Raw()))),
    "a route class of somebody's own": (False, routed(NOTE, Own())),
    "raw": (False, lambda manager: SessionMiddleware(Raw(), manager=manager)),
    "raw in a mount": (False, lambda manager: mounted_alone(manager)),
}


def mounted_alone(manager: SessionManager) -> ASGIApp:
    """A middleware of ours around a mounted application only, under Starlette."""
    return Starlette(routes=[Mount("/", SessionMiddleware(Raw(), manager=manager))])


@pytest.mark.parametrize("kind", APPS)
async def test_only_an_application_that_announces_each_use_is_given_it_undecoded(
    make: Managers, sqlite_url: str, kind: str
) -> None:
    folds, build = APPS[kind]
    site = await warm(make(store=sqlite_url, coherence="bounded"))
    browser = Browser(build(site.manager), site.browser.token)
    FOLDED.clear()
    for _ in range(2):
        assert (await browser.get("/note")).json() == CONTENT
    assert [folds, folds] == FOLDED


async def test_one_middleware_in_two_applications_looks_at_each(
    make: Managers, sqlite_url: str
) -> None:
    site = await warm(make(store=sqlite_url, coherence="bounded"))
    ours = SessionMiddleware(Starlette(routes=[NOTE]), manager=site.manager)
    raw = SessionMiddleware(Raw(), manager=site.manager)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (raw if scope["path"] == "/raw" else ours)(scope, receive, send)

    browser = Browser(either, site.browser.token)
    FOLDED.clear()
    for path in ("/note", "/raw", "/note", "/raw"):
        assert (await browser.get(path)).json() == CONTENT
    assert FOLDED == [True, False, True, False]


async def test_what_nobody_has_decoded_yet_is_decoded_at_once(
    make: Managers, sqlite_url: str
) -> None:
    site = await warm(make(store=sqlite_url, coherence="bounded"))
    site.manager.store.cache.clear()
    await site.visit()
    await site.visit()
    await site.visit()
    # Loaded from the store, then decoded from the cache for the first time, then left alone.
    assert site.folded[-3:] == [False, False, True]


async def test_content_that_marshal_does_not_know_is_decoded_at_its_first_use(
    make: Managers, sqlite_url: str
) -> None:
    content = {"at": datetime(2030, 1, 1, tzinfo=UTC), "n": 1}
    site = await warm(make(store=sqlite_url, coherence="bounded"), content)
    await site.visit()
    assert site.folded[-1]
    assert await site.content() == content


@pytest.mark.parametrize("sealed", [True, False])
async def test_what_is_encrypted_is_decrypted_at_its_first_use(
    make: Managers, sqlite_url: str, sealed: bool
) -> None:
    settings = {"encryption_key": Fernet.generate_key().decode()} if sealed else {}
    site = await warm(make(store=sqlite_url, coherence="bounded", **settings))
    assert await site.content() == CONTENT
    assert site.folded[-1]
