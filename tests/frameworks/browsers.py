"""Clients beside ``tests.apps.Browser``: the same for a WSGI app, and one for a WebSocket."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import closing
from typing import Any
from urllib.parse import unquote
from wsgiref.types import WSGIApplication, WSGIEnvironment
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import anyio
import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.apps import COOKIE, Answer, Browser, attributes


class DatedBrowser(Browser):
    """Knows what ``Expires`` says: Flask and Quart send it with cookies that are to be kept too."""

    def keep(self, answer: Answer) -> None:
        for value in answer.set_cookies:
            # Django leaves a space before the name.
            name, _, token = value.strip().partition(";")[0].partition("=")
            if name == self.name:
                expired = attributes(value).get("expires", "").startswith("Thu, 01 Jan 1970")
                self.token = None if expired else token


class WsgiBrowser(DatedBrowser):
    """Calls a WSGI app, in a thread as a WSGI server does, under ``wsgiref``'s validator."""

    def __init__(self, app: WSGIApplication, token: str | None = None) -> None:
        super().__init__(_never, token)
        self._wsgi_app = validator(app)

    async def _call(
        self, path: str, fields: list[tuple[bytes, bytes]], messages: list[Message]
    ) -> None:
        await anyio.to_thread.run_sync(self._exchange, environ_of(path, fields), messages)

    def _exchange(self, environ: WSGIEnvironment, messages: list[Message]) -> None:
        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            started.append(
                {
                    "type": "http.response.start",
                    "status": int(status[:3]),
                    "headers": [
                        (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers
                    ],
                }
            )
            return lambda data: messages.append({"type": "http.response.body", "body": data})

        started: list[Message] = []
        result: Any = self._wsgi_app(environ, start_response)
        with closing(result):
            body = b"".join(result)
        messages.append(started[-1])
        messages.append({"type": "http.response.body", "body": body, "more_body": False})


def environ_of(path: str, fields: Iterable[tuple[bytes, bytes]]) -> WSGIEnvironment:
    """What a server makes of a GET request."""
    path, _, query = path.partition("?")
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path, "latin-1"),
        "QUERY_STRING": query,
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.input": io.BytesIO(),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "testserver",
    }
    for name, value in fields:
        environ[f"HTTP_{name.decode().upper().replace('-', '_')}"] = value.decode("latin-1")
    setup_testing_defaults(environ)
    return environ


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("this is a WSGI application")


async def websocket(
    app: ASGIApp, path: str, *texts: str, token: str | None = None, denials: bool = True
) -> list[Message]:
    """One WebSocket, on which the client says ``texts`` and then leaves; what the app sent."""
    fields = [(b"host", b"testserver")]
    if token is not None:
        fields.append((b"cookie", f"{COOKIE}={token}".encode()))
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": fields,
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}} if denials else {},
    }
    incoming: list[Message] = [
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in texts),
    ]
    sent: list[Message] = []
    closed = anyio.Event()

    async def receive() -> Message:
        if incoming:
            return incoming.pop(0)
        # The client waits until the app has had its say.
        await closed.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Message) -> None:
        sent.append(message)
        refused = message["type"] == "websocket.http.response.body"
        if message["type"] == "websocket.close" or (refused and not message.get("more_body")):
            closed.set()

    await app(scope, receive, send)
    return sent
