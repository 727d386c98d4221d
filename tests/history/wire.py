"""A client's connection to one worker: HTTP/1.1, kept alive, as little work as can be."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

from tests.apps import COOKIE

_SET_COOKIE = f"set-cookie: {COOKIE}=".encode()


class NotSent(Exception):
    """The worker does not listen: the request was never made."""


class NoAnswer(Exception):
    """The connection broke, or the time was over: nobody knows what became of the request."""


class Answer(NamedTuple):
    """``cookie`` is the session cookie that it sets, ``""`` where it expires it."""

    status: int
    body: bytes
    cookie: str | None

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """Makes one request at a time; connects when it has to."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self._port = port
        self._timeout = timeout
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, token: str | None = None) -> Answer:
        """One GET. Raises ``NotSent`` or ``NoAnswer``."""
        if self._ends is None or self._ends[0].at_eof():
            self.close()
            try:
                self._ends = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                raise NotSent from None
        reader, writer = self._ends
        cookie = "" if token is None else f"Cookie: {COOKIE}={token}\r\n"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{cookie}\r\n".encode())
        try:
            async with asyncio.timeout(self._timeout):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(_between(head, b"content-length: ", b"\r\n") or b"0")
                body = await reader.readexactly(length)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            self.close()
            raise NoAnswer from None
        except BaseException:
            self.close()
            raise
        found = _between(head, _SET_COOKIE, b"\r\n")
        set_cookie = None if found is None else found.decode().partition(";")
        token = None
        if set_cookie is not None:
            token = "" if "expires=Thu, 01 Jan 1970" in set_cookie[2] else set_cookie[0]
        return Answer(int(head[9:12]), body, token)

    def close(self) -> None:
        """Let go of the socket."""
        ends, self._ends = self._ends, None
        if ends is not None:
            ends[1].close()


def _between(text: bytes, start: bytes, end: bytes) -> bytes | None:
    at = text.find(start)
    if at < 0:
        return None
    at += len(start)
    return text[at : text.index(end, at)]
