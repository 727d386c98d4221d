"""Calls an application in this process and takes the time: no socket, no HTTP client."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

COOKIE = "session"


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    set_cookies: tuple[str, ...]


class Jar:
    """The cookies of one browser, as far as a session needs them."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}

    def keep(self, reply: Reply) -> None:
        for each in reply.set_cookies:
            name, _, value = each.partition(";")[0].partition("=")
            attributes = each.lower()
            if (
                "max-age=0" in attributes
                or "01 jan 1970" in attributes
                or "expires=thu, 01-jan-1970" in attributes
            ):
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value

    @property
    def header(self) -> str | None:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items()) or None


class Caller(Protocol):
    """One way to call applications; times are seconds for all calls together."""

    async def ask(self, app: Any, page: str, cookie: str | None) -> Reply: ...

    async def one_by_one(self, app: Any, page: str, cookie: str | None, calls: int) -> float: ...

    async def cold(
        self, app: Any, page: str, cookie: str | None, calls: int, chill: Callable[[], object]
    ) -> float: ...

    async def at_once(
        self, app: Any, page: str, cookies: Sequence[str | None], calls: int
    ) -> float:
        """As many in flight as there are cookies, so many calls each."""
        ...


class AsgiCaller:
    """Awaits the application in the loop that runs."""

    def __init__(self) -> None:
        self.failures = 0

    async def ask(self, app: Any, page: str, cookie: str | None) -> Reply:
        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        await app(_scope(page, cookie), _receive, send)
        start = messages[0]
        body = b"".join(each.get("body", b"") for each in messages[1:])
        cookies = [
            value.decode() for name, value in start["headers"] if name.lower() == b"set-cookie"
        ]
        return Reply(start["status"], body, tuple(cookies))

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            self.failures += 1

    async def one_by_one(self, app: Any, page: str, cookie: str | None, calls: int) -> float:
        template, send = _scope(page, cookie), self._send
        headers = template["headers"]
        start = perf_counter()
        for _ in range(calls):
            scope = template.copy()
            scope["headers"] = headers.copy()
            await app(scope, _receive, send)
        return perf_counter() - start

    async def cold(
        self, app: Any, page: str, cookie: str | None, calls: int, chill: Callable[[], object]
    ) -> float:
        taken = 0.0
        for _ in range(calls):
            chill()
            taken += await self.one_by_one(app, page, cookie, 1)
        return taken

    async def at_once(
        self, app: Any, page: str, cookies: Sequence[str | None], calls: int
    ) -> float:
        start = perf_counter()
        await asyncio.gather(*(self.one_by_one(app, page, each, calls) for each in cookies))
        return perf_counter() - start


class WsgiCaller:
    """Calls the application, in this thread or in as many as there are requests in flight."""

    def __init__(self, threads: int = 64) -> None:
        self.failures = 0
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    async def ask(self, app: Any, page: str, cookie: str | None) -> Reply:
        seen: list[Any] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            seen[:] = [status, headers]
            return lambda data: None

        result = app(_environ(page, cookie), start_response)
        body = b"".join(result)
        if hasattr(result, "close"):
            result.close()
        cookies = [value for name, value in seen[1] if name.lower() == "set-cookie"]
        return Reply(int(seen[0][:3]), body, tuple(cookies))

    def _start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if status[:3] != "200":
            self.failures += 1
        return None

    def _loop(self, app: Any, page: str, cookie: str | None, calls: int) -> float:
        template, start_response = _environ(page, cookie), self._start_response
        start = perf_counter()
        for _ in range(calls):
            environ = template.copy()
            environ["wsgi.input"] = io.BytesIO()
            result = app(environ, start_response)
            for _chunk in result:
                pass
            if hasattr(result, "close"):
                result.close()
        return perf_counter() - start

    async def one_by_one(self, app: Any, page: str, cookie: str | None, calls: int) -> float:
        return self._loop(app, page, cookie, calls)

    async def cold(
        self, app: Any, page: str, cookie: str | None, calls: int, chill: Callable[[], object]
    ) -> float:
        taken = 0.0
        for _ in range(calls):
            chill()
            taken += self._loop(app, page, cookie, 1)
        return taken

    async def at_once(
        self, app: Any, page: str, cookies: Sequence[str | None], calls: int
    ) -> float:
        start = perf_counter()
        waiting = [self._pool.submit(self._loop, app, page, each, calls) for each in cookies]
        for each in waiting:
            each.result()
        return perf_counter() - start


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


def _scope(page: str, cookie: str | None) -> dict[str, Any]:
    headers = [
        (b"host", b"shop.example"),
        (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"),
        (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        (b"accept-language", b"en-GB,en;q=0.5"),
        (b"accept-encoding", b"gzip, deflate, br"),
    ]
    if cookie is not None:
        headers.append((b"cookie", cookie.encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"/{page}",
        "raw_path": f"/{page}".encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }


def _environ(page: str, cookie: str | None) -> dict[str, Any]:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": f"/{page}",
        "QUERY_STRING": "",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "shop.example",
        "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
        "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "HTTP_ACCEPT_LANGUAGE": "en-GB,en;q=0.5",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate, br",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if cookie is not None:
        environ["HTTP_COOKIE"] = cookie
    return environ
