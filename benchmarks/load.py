"""A load generator: keep-alive connections that ask, read the answer to its end, and ask again.

    python -m benchmarks.load PORT

Takes orders as lines of JSON on stdin: ``{"page": "read", "seconds": 2, "cookies": [...]}`` for
load, ``{"page": "seed", "sessions": 256}`` for the cookies of so many new sessions, ``{"page":
"show", "cookies": [...]}`` for what they hold.

Sockets, ready-made requests and one wait for all of them, so that the server is what is measured:
``busy`` is the share of the time that this process was at work itself.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
from itertools import cycle
from time import perf_counter, process_time
from typing import Any

from .calling import Jar, Reply

CONNECTIONS = 32
_PATIENCE = 30.0
_MOST = 65_536


class Connection:
    """One connection, one request in flight."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def answer(self) -> bytes | None:
        """The whole answer, once all of it has come."""
        data = self.socket.recv(_MOST)
        if not data:
            raise ConnectionError("the server closed the connection")
        if self._rest:
            data = self._rest + data
        if _is_whole(data):
            self._rest = b""
            return data
        self._rest = data
        return None

    def ask(self, request: bytes) -> Reply:
        self.send(request)
        while (answer := self.answer()) is None:
            pass
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        cookies = [line[12:] for line in lines[1:] if line.lower().startswith("set-cookie: ")]
        return Reply(int(lines[0].split()[1]), body, tuple(cookies))


def _is_whole(data: bytes) -> bool:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = data.find(b"ontent-length: ", 0, end)
    if at < 0:
        at = data.lower().index(b"ontent-length: ", 0, end)
    return len(data) >= end + 4 + int(data[at + 15 : data.find(b"\r", at)])


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


def load(
    connections: list[Connection], page: str, seconds: float, cookies: list[str]
) -> dict[str, Any]:
    """Keep each connection busy with its share of the cookies, again and again."""
    wait = select.poll()
    asking: dict[int, tuple[Connection, Any]] = {}
    for at, connection in enumerate(connections):
        share = [request(page, cookie) for cookie in cookies[at :: len(connections)]]
        asking[connection.socket.fileno()] = (connection, cycle(share))
        wait.register(connection.socket, select.POLLIN)
    times: list[float] = []
    failures = 0
    sent: dict[int, float] = {}
    used, start = process_time(), perf_counter()
    until = start + seconds
    for number, (connection, requests) in asking.items():
        sent[number] = perf_counter()
        connection.send(next(requests))
    while sent:
        ready = wait.poll(_PATIENCE * 1000)
        if not ready:
            raise TimeoutError(f"no answer within {_PATIENCE:g} s")
        for number, _ in ready:
            connection, requests = asking[number]
            answer = connection.answer()
            if answer is None:
                continue
            now = perf_counter()
            times.append(now - sent[number])
            failures += answer[9:12] != b"200"
            if now < until:
                sent[number] = now
                connection.send(next(requests))
            else:
                del sent[number]
    taken = perf_counter() - start
    times.sort()
    return {
        "requests": len(times),
        "per_second": len(times) / taken,
        "p50": times[len(times) // 2] * 1000,
        "p99": times[len(times) * 99 // 100] * 1000,
        "failures": failures,
        "busy": (process_time() - used) / taken,
    }


def begin(connections: list[Connection], page: str, sessions: int) -> dict[str, Any]:
    jars = [Jar() for _ in range(sessions)]
    for jar in jars:
        jar.keep(connections[0].ask(request(page, None)))
    return {"cookies": [jar.header for jar in jars]}


def show(connections: list[Connection], page: str, cookies: list[str]) -> dict[str, Any]:
    replies = [connections[0].ask(request(page, cookie)) for cookie in cookies]
    return {"n": sum(json.loads(reply.body)["n"] for reply in replies)}


def main(port: int) -> None:
    connections = [Connection(port) for _ in range(CONNECTIONS)]
    print(json.dumps({"connections": len(connections)}), flush=True)
    gc.disable()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "seconds" in order:
                answer = load(connections, **order)
            elif "sessions" in order:
                answer = begin(connections, **order)
            else:
                answer = show(connections, **order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
