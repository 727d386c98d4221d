"""A load generator: keep-alive connections that ask, read the answer to its end, and ask again.

    python -m benchmarks.load PORT

Takes orders as lines of JSON on stdin: ``{"page": "read", "seconds": 2, "cookies": [...]}`` for
load, ``{"page": "seed", "sessions": 256}`` for the cookies of so many new sessions, ``{"page":
"show", "cookies": [...]}`` for what they hold.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import Any

from .calling import Jar, Reply

CONNECTIONS = 32


class Connection(asyncio.Protocol):
    """One connection, one request in flight."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[Any] | None = None
        self._requests: list[bytes] = []
        self._until = 0.0
        self._sent = 0.0
        self.times: list[float] = []
        self.failures = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))

    async def run(self, requests: list[bytes], seconds: float) -> None:
        """Send them one after the other, again and again, until the time is over."""
        self.times.clear()
        self._requests, self._until = requests, perf_counter() + seconds
        self._done = asyncio.get_running_loop().create_future()
        self._send()
        await self._done

    async def ask(self, request: bytes) -> Reply:
        self._requests, self._until = [request], 0.0
        self._done = asyncio.get_running_loop().create_future()
        self._send()
        head, _, body = (await self._done).partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        cookies = [line[12:] for line in lines[1:] if line.lower().startswith("set-cookie: ")]
        return Reply(int(lines[0].split()[1]), body, tuple(cookies))

    def _send(self) -> None:
        assert self._transport is not None
        self._sent = perf_counter()
        self._transport.write(self._requests[len(self.times) % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        at = buffer.lower().find(b"content-length: ", 0, end)
        length = int(buffer[at + 16 : buffer.find(b"\r\n", at)])
        if len(buffer) < end + 4 + length:
            return
        self._buffer = b""
        now = perf_counter()
        self.times.append(now - self._sent)
        self.failures += buffer[9:12] != b"200"
        if now < self._until:
            self._send()
        elif self._done is not None:
            self._done.set_result(buffer)


def request(page: str, cookie: str | None) -> bytes:
    lines = [
        f"GET /{page} HTTP/1.1",
        "Host: 127.0.0.1",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "Accept-Language: en-GB,en;q=0.5",
        "Accept-Encoding: gzip, deflate, br",
    ]
    lines += [] if cookie is None else [f"Cookie: {cookie}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def load(
    connections: list[Connection], page: str, seconds: float, cookies: list[str]
) -> dict[str, Any]:
    start = perf_counter()
    shares = [cookies[at :: len(connections)] for at in range(len(connections))]
    running = [
        connection.run([request(page, cookie) for cookie in share], seconds)
        for connection, share in zip(connections, shares, strict=True)
    ]
    await asyncio.gather(*running)
    taken = perf_counter() - start
    times = sorted(time for connection in connections for time in connection.times)
    return {
        "requests": len(times),
        "per_second": len(times) / taken,
        "p50": times[len(times) // 2] * 1000,
        "p99": times[len(times) * 99 // 100] * 1000,
        "failures": sum(connection.failures for connection in connections),
    }


async def begin(connections: list[Connection], page: str, sessions: int) -> dict[str, Any]:
    jars = [Jar() for _ in range(sessions)]
    for jar in jars:
        jar.keep(await connections[0].ask(request(page, None)))
    return {"cookies": [jar.header for jar in jars]}


async def show(connections: list[Connection], page: str, cookies: list[str]) -> dict[str, Any]:
    replies = [await connections[0].ask(request(page, cookie)) for cookie in cookies]
    return {"n": sum(json.loads(reply.body)["n"] for reply in replies)}


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        connections.append(connection)
    print(json.dumps({"connections": len(connections)}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        try:
            if "seconds" in order:
                answer = await load(connections, **order)
            elif "sessions" in order:
                answer = await begin(connections, **order)
            else:
                answer = await show(connections, **order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
