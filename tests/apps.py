"""A small app with a session, and a client that sees every header: what most tests need.

The client speaks ASGI itself: no cookie jar with rules of its own, no thread, no change to a
header, so it can send what no HTTP library would, ten thousand times.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message

from sessionware import Session, SessionManager, SessionMiddleware
from sessionware.manager import ManagerOptions

SECRET: Final = "a secret for tests only, long enough: 0123456789"
COOKIE: Final = "session"
KEPT: Final[list[bytes]] = []
"""The cookie that the browser keeps, as opposed to one that the test gives."""


async def read(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def write(request: Request) -> Response:
    """``/write?color=red`` stores ``session["color"] = "red"``."""
    request.session.update(request.query_params)
    return await read(request)


async def append(request: Request) -> Response:
    """``/append?item=tea`` changes a list inside the session and nothing else."""
    request.session["cart"].append(request.query_params["item"])
    return await read(request)


async def login(request: Request) -> Response:
    """``/login?user=alice`` is all that an application does to log somebody in."""
    request.session["user_id"] = request.query_params["user"]
    return await read(request)


async def logout(request: Request) -> Response:
    """End the session."""
    assert isinstance(request.session, Session)
    request.session.invalidate()
    return PlainTextResponse("bye")


async def rotate(request: Request) -> Response:
    assert isinstance(request.session, Session)
    request.session.rotate()
    return await read(request)


async def clear(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("cleared")


async def noop(request: Request) -> Response:
    """Does not look at the session."""
    return PlainTextResponse("no session here")


async def boom(request: Request) -> Response:
    """``/boom?k=v`` stores it and fails."""
    request.session.update(request.query_params)
    raise RuntimeError("boom")


async def status(request: Request) -> Response:
    """``/status/404?k=v`` stores it and answers 404."""
    request.session.update(request.query_params)
    return PlainTextResponse("as you like", status_code=request.path_params["code"])


HANDLERS: Final = (read, write, append, login, logout, rotate, clear, noop, boom)
ROUTES: Final[Sequence[BaseRoute]] = (
    *(Route(f"/{handler.__name__}", handler) for handler in HANDLERS),
    Route("/status/{code:int}", status),
)


def app_of(manager: SessionManager, *more: BaseRoute) -> Starlette:
    """The common app, and what a test adds to it, behind the manager's sessions."""
    return Starlette(
        routes=[*more, *ROUTES], middleware=[Middleware(SessionMiddleware, manager=manager)]
    )


class Managers:
    """Makes managers, and lets go of their connections and threads in the end."""

    def __init__(self) -> None:
        self._open: list[SessionManager] = []

    def __call__(self, **settings: Any) -> SessionManager:
        chosen: ManagerOptions = {"secret_key": SECRET, "purge_interval": None, **settings}  # type: ignore[typeddict-item]
        manager = SessionManager(**chosen)
        self._open.append(manager)
        return manager

    async def aclose(self) -> None:
        for manager in self._open:
            await manager.ashutdown()


class Answer:
    """One response, with its header fields as they were sent."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = False
        for message in messages:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = list(message["headers"])
            elif message["type"] == "http.response.body":
                self.body += message.get("body", b"")
                self.complete = not message.get("more_body", False)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.body[:200]!r}>"

    def all(self, name: str) -> list[str]:
        """The values of a header, one a field."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]

    @property
    def set_cookies(self) -> list[str]:
        return self.all("set-cookie")

    @property
    def set_cookie(self) -> str:
        """The only Set-Cookie."""
        (value,) = self.set_cookies
        return value

    @property
    def token(self) -> str:
        """The value that the only Set-Cookie gives the cookie."""
        return self.set_cookie.partition(";")[0].partition("=")[2]

    def json(self) -> Any:
        return json.loads(self.body)


def attributes(set_cookie: str) -> dict[str, str]:
    """The attributes of a Set-Cookie, names in lower case."""
    parts = [part.strip() for part in set_cookie.split(";")[1:]]
    pairs = (part.partition("=") for part in parts)
    return {name.lower(): value for name, _, value in pairs}


class Browser:
    """Calls an ASGI app and keeps its session cookie as a browser would.

    ``token`` is the cookie's value, None without one. ``cookie=`` of a request sends another Cookie
    header in its place: a value as it is, or None for no header, and then nothing is kept.
    """

    def __init__(
        self, app: ASGIApp, token: str | None = None, *, name: str = COOKIE, scheme: str = "http"
    ) -> None:
        self.app = app
        self.token = token
        self.name = name
        self.scheme = scheme
        self.address = "127.0.0.1"

    async def get(
        self,
        path: str,
        *,
        cookie: bytes | str | Sequence[bytes] | None = KEPT,
        headers: Iterable[tuple[str, str]] = (),
        may_fail: bool = False,
    ) -> Answer:
        """One GET. An exception of the app's is raised, or with ``may_fail`` swallowed."""
        fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        fields += [(b"cookie", field) for field in self._cookie_fields(cookie)]
        messages: list[Message] = []
        with suppress(*([Exception] if may_fail else [])):
            await self._call(path, fields, messages)
        answer = Answer(messages)
        if cookie is KEPT:
            self.keep(answer)
        return answer

    def _cookie_fields(self, cookie: bytes | str | Sequence[bytes] | None) -> Iterator[bytes]:
        if cookie is KEPT:
            if self.token is not None:
                yield f"{self.name}={self.token}".encode()
        elif isinstance(cookie, str):
            yield cookie.encode("latin-1")
        elif isinstance(cookie, bytes):
            yield cookie
        elif cookie is not None:
            yield from cookie

    async def _call(
        self, path: str, fields: list[tuple[bytes, bytes]], messages: list[Message]
    ) -> None:
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": self.scheme,
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"host", b"testserver"), *fields],
            "client": (self.address, 50000),
            "server": ("testserver", 80),
        }
        received, complete = False, anyio.Event()

        async def receive() -> Message:
            nonlocal received
            if received:
                # As servers do: there are applications that wait for it.
                await complete.wait()
                return {"type": "http.disconnect"}
            received = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                complete.set()

        await self.app(scope, receive, send)

    def keep(self, answer: Answer) -> None:
        """Store or delete the session cookie as the answer says."""
        for value in answer.set_cookies:
            name, _, token = value.partition(";")[0].partition("=")
            if name == self.name:
                self.token = None if "expires" in attributes(value) else token
