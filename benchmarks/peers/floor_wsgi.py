"""The floor as WSGI middleware: everything in the thread that the request came in."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from threading import Semaphore
from typing import Any, Final

from .floor import FloorSession, cookie_of, new_sid, sid_of

KEY: Final = "floor.session"


class Pool:
    """Connections that are held, the one used last first; who finds none free waits for one."""

    def __init__(self, connect: Callable[[], Any], connections: int) -> None:
        self._free = [connect() for _ in range(connections)]
        self._there = Semaphore(connections)

    def run(self, verb: str, *values: bytes) -> Any:
        with self._there:
            database = self._free.pop()
            try:
                return database.run([(verb, values)])[0]
            finally:
                self._free.append(database)


class WsgiFloor:
    def __init__(self, app: Any, readers: Pool, writers: Pool) -> None:
        self.app = app
        self.readers, self.writers = readers, writers
        self.cache: dict[bytes, bytes] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        header = environ.get("HTTP_COOKIE")
        sid = raw = None
        if header is not None:
            sid = sid_of(header.encode("latin-1"))
        if sid is not None:
            raw = self.cache.get(sid)
            if raw is None:
                raw = self.readers.run("load", sha256(sid).digest())
                if raw is None:
                    sid = None
                else:
                    self.cache[sid] = raw
        session = environ[KEY] = FloorSession(raw)

        def starting(status: str, headers: list[Any], exc_info: Any = None) -> Any:
            if session.dirty or session.ended:
                self.finish(sid, session, headers)
            return start_response(status, headers, exc_info)

        return self.app(environ, starting)

    def finish(self, sid: bytes | None, session: FloorSession, headers: list[Any]) -> None:
        if session.ended:
            if sid is not None:
                self.writers.run("remove", sha256(sid).digest())
                self.cache.pop(sid, None)
            return
        is_new = sid is None
        if sid is None:
            sid = new_sid()
        raw = session.encoded()
        self.writers.run("save", sha256(sid).digest(), raw)
        self.cache[sid] = raw
        if is_new:
            headers.append(("Set-Cookie", cookie_of(sid).decode()))
