"""A bare WSGI app with the routes of ``tests.apps``, and a browser that speaks WSGI itself.

The browser is as strict as the strictest server: it checks both sides of the middleware with
``wsgiref.validate``, and takes no byte, not even an empty one, before it has the headers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote_to_bytes
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from sessionware import Session, SessionEvent, SessionManager
from sessionware.adapting import SESSION_KEY
from sessionware.wsgi import SessionMiddleware
from tests.apps import COOKIE, KEPT, Answer, Browser
from tests.asgi.site import Act

OK: Final = "200 OK"
PLAIN: Final = [("Content-Type", "text/plain")]
JSON: Final = [("Content-Type", "application/json")]
CONTENT_LENGTH_FREE: Final = (204, 304)

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType]


def session_in(environ: WSGIEnvironment) -> Session:
    session = environ[SESSION_KEY]
    assert isinstance(session, Session)
    return session


def query(environ: WSGIEnvironment) -> dict[str, str]:
    return dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))


def line(code: int) -> str:
    """The status line's text."""
    known = code in HTTPStatus.__members__.values()
    return f"{code} {HTTPStatus(code).phrase if known else 'Unnamed'}"


def answering(text: str = "done", code: int = 200) -> WSGIApplication:
    """An app that gives this text."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = [] if code in CONTENT_LENGTH_FREE else list(PLAIN)
        start_response(line(code), headers)
        return [] if code in CONTENT_LENGTH_FREE else [text.encode()]

    return app


def showing(value: Any) -> WSGIApplication:
    """An app that gives this value as JSON."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", list(JSON))
        return [json.dumps(value).encode()]

    return app


def routes(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The same routes as ``tests.apps.ROUTES``, which do the same."""
    session, asked = session_in(environ), query(environ)
    page = showing
    match environ["PATH_INFO"].split("/")[1:]:
        case ["read"]:
            answer = page(dict(session))
        case ["write"]:
            session.update(asked)
            answer = page(dict(session))
        case ["append"]:
            session["cart"].append(asked["item"])
            answer = page(dict(session))
        case ["login"]:
            session["user_id"] = asked["user"]
            answer = page(dict(session))
        case ["logout"]:
            session.invalidate()
            answer = answering("bye")
        case ["rotate"]:
            session.rotate()
            answer = page(dict(session))
        case ["clear"]:
            session.clear()
            answer = answering("cleared")
        case ["noop"]:
            answer = answering("no session here")
        case ["boom"]:
            session.update(asked)
            raise RuntimeError("boom")
        case ["status", code]:
            session.update(asked)
            answer = answering("as you like", int(code))
        case _:
            answer = answering("not here", 404)
    return answer(environ, start_response)


class WsgiBrowser:
    """Calls a WSGI app as a server does, and keeps its cookie; the twin of ``tests.apps.Browser``.

    ``validated=False`` leaves ``wsgiref.validate`` out, for what it hides, such as the body's type,
    and for apps that break its rules.
    """

    def __init__(
        self,
        app: WSGIApplication,
        token: str | None = None,
        *,
        name: str = COOKIE,
        scheme: str = "http",
    ) -> None:
        self.app = app
        self.token = token
        self.name = name
        self.scheme = scheme
        self.address = "127.0.0.1"

    def get(
        self,
        path: str,
        *,
        cookie: bytes | str | Sequence[bytes] | None = KEPT,
        headers: Iterable[tuple[str, str]] = (),
        may_fail: bool = False,
        method: str = "GET",
        validated: bool = True,
        **environ: Any,
    ) -> Answer:
        """One request. An exception of the app's is raised, or with ``may_fail`` answered by 500
        where no byte has left, as servers do.
        """
        ready = self._environ(path, cookie, headers, method) | environ
        exchange = Exchange(validator(self.app) if validated else self.app, ready)
        with suppress(*([Exception] if may_fail else [])):
            exchange.run()
        answer = exchange.answer()
        if cookie is KEPT:
            Browser.keep(self, answer)  # type: ignore[arg-type]
        return answer

    def _environ(
        self,
        path: str,
        cookie: bytes | str | Sequence[bytes] | None,
        headers: Iterable[tuple[str, str]],
        method: str,
    ) -> WSGIEnvironment:
        path, _, asked = path.partition("?")
        environ: WSGIEnvironment = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": asked,
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "testserver",
            "REMOTE_ADDR": self.address,
            "wsgi.url_scheme": self.scheme,
        }
        setup_testing_defaults(environ)
        for name, value in headers:
            environ["HTTP_" + name.upper().replace("-", "_")] = value
        fields = list(Browser._cookie_fields(self, cookie))  # type: ignore[arg-type]
        if fields:
            # What a gateway makes of bytes, and of several fields (PEP 3333, RFC 9113 8.2.3).
            environ["HTTP_COOKIE"] = b"; ".join(fields).decode("latin-1")
        return environ


class Exchange:
    """One request, as a server sees it."""

    def __init__(self, app: WSGIApplication, environ: WSGIEnvironment) -> None:
        self.app = app
        self.environ = environ
        self.status: str | None = None
        self.headers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []
        self.sent = False
        self.complete = False
        self.failed = False
        self.result: Iterable[bytes] = ()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], None]:
        if exc_info:
            if self.sent:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self.status is not None:
            raise AssertionError("start_response twice")
        self.status, self.headers = status, list(headers)
        return self.write

    def write(self, data: bytes, /) -> None:
        assert self.status is not None, "a chunk before the headers"
        assert type(data) is bytes
        self.sent = True
        self.chunks.append(data)

    def run(self) -> None:
        self.failed = True
        self.result = self.app(self.environ, self.start_response)
        try:
            for chunk in self.result:
                self.write(chunk)
            assert self.status is not None, "start_response was never called"
            self.complete = True
        finally:
            self.close()
        self.failed = False

    def close(self) -> None:
        close = getattr(self.result, "close", None)
        if close is not None:
            close()

    def answer(self) -> Answer:
        if self.failed and not self.sent and not self.complete:
            return Answer([{"type": "http.response.start", "status": 500, "headers": []}])
        assert self.status is not None
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        body = b"".join(self.chunks)
        status = int(self.status[:3]) if self.status[:3].isdecimal() else 0
        return Answer(
            [
                {
                    "type": "http.response.start",
                    "status": status,
                    "headers": raw,
                },
                {"type": "http.response.body", "body": body, "more_body": not self.complete},
            ]
        )


class WsgiSite:
    """An app of one manager, the next request's handler named by the test; ``events`` has the
    kinds of all events so far.
    """

    def __init__(self, manager: SessionManager, events: Sequence[SessionEvent] = ()) -> None:
        self.manager = manager
        self._events = events
        self._apps: dict[str, WSGIApplication] = {}
        self._numbers = map(str, itertools.count())
        self.app = SessionMiddleware(self._dispatch, manager=manager)

    def browser(self, token: str | None = None) -> WsgiVisitor:
        return WsgiVisitor(self, token)

    @property
    def events(self) -> list[str]:
        return [event.kind for event in self._events]

    def expect(self, app: WSGIApplication) -> str:
        number = next(self._numbers)
        self._apps[number] = app
        return number

    def _dispatch(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        number = environ.get("HTTP_X_HANDLER")
        app = routes if number is None else self._apps[number]
        return app(environ, start_response)


class WsgiVisitor(WsgiBrowser):
    """A browser that says what its requests do."""

    def __init__(self, site: WsgiSite, token: str | None = None) -> None:
        super().__init__(site.app, token)
        self._site = site

    def serve(self, app: WSGIApplication, path: str = "/", **request: Any) -> Answer:
        """A request that is answered by ``app``; see ``WsgiBrowser.get`` for the rest."""
        inner = validator(app) if request.get("validated", True) else app
        return self.get(path, headers=[("x-handler", self._site.expect(inner))], **request)

    def visit(
        self, act: Act | None = None, path: str = "/", code: int = 200, **more: Any
    ) -> Answer:
        """A request that does ``act`` with its session, or with None doesn't touch it.

        The answer's body is what ``act`` returned, as JSON.
        """

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            result = None if act is None else act(session_in(environ))
            start_response(line(code), list(JSON))
            return [json.dumps(result).encode()]

        return self.serve(app, path, **more)

    def content(self, **request: Any) -> dict[str, Any]:
        """What the session holds."""
        answer = self.visit(dict, **request)
        assert answer.status == 200
        content: dict[str, Any] = answer.json()
        return content

    @property
    def cookie(self) -> str:
        """The Cookie header that goes with the next request."""
        return f"{self.name}={self.token}"


def stored(site: WsgiSite, **content: Any) -> WsgiVisitor:
    """A browser whose session holds the content."""
    browser = site.browser()
    browser.visit(lambda session: session.update(content))
    assert browser.token is not None
    return browser


def chunks_of(*parts: bytes) -> Iterator[bytes]:
    """A body that is no list."""
    yield from parts


class Body:
    """An iterable with a ``close`` that the server has to call."""

    def __init__(self, chunks: Iterable[bytes], at_close: Callable[[], object] = bool) -> None:
        self._chunks = iter(chunks)
        self._at_close = at_close
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self.closed += 1
        self._at_close()
