"""A TCP proxy in front of a database, which fails on demand as networks and servers do."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

CHUNK: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: close with a reset."""

When = Literal["before", "after"]


class Proxy:
    """Passes bytes on between clients and a server, in threads of its own.

    ``stop`` resets the connections there are and refuses new ones, ``start`` ends that. ``freeze``
    keeps whatever comes (a black hole), ``thaw`` delivers it. ``cut_at`` waits for its moment.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._trigger: tuple[int, When] | None = None
        self._open = threading.Event()
        self._open.set()
        self._closed = threading.Event()
        self.delay = 0.0
        """Seconds that each answer of the server takes longer."""
        self._listener: socket.socket | None = None
        self.port = 0
        self.start()

    # Faults.

    def start(self) -> None:
        """Accept connections, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """The server is gone: every connection is reset, new ones are refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone does not wake the thread that accepts.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.reset()

    def reset(self) -> None:
        """Reset the connections there are; new ones work."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.cut()

    def freeze(self) -> None:
        """Nothing gets through, and nobody is told; new connections are accepted and dumb."""
        self._open.clear()

    def thaw(self) -> None:
        """What was kept is delivered."""
        self._open.set()

    def lose(self) -> None:
        """The connections there are go dead for ever without a word; new ones work."""
        with self._lock:
            for link in self._links:
                link.lost.set()

    def cut_at(self, number: int, when: When) -> None:
        """Cut the connection on which a client sends something for the n-th time from now on.

        Before that reaches the server, or when it has answered, before the client hears of it.
        """
        with self._lock:
            self._trigger = (number, when)

    def disarm(self) -> bool:
        """Don't cut any more; whether that was still to come."""
        with self._lock:
            armed, self._trigger = self._trigger is not None, None
            return armed

    def close(self) -> None:
        self.stop()
        self._open.set()
        self._closed.set()

    # How it works.

    def triggered(self) -> When | None:
        """Whether what a client has just sent sets the trigger off; it is spent then."""
        with self._lock:
            if self._trigger is None:
                return None
            number, when = self._trigger
            self._trigger = (number - 1, when) if number > 1 else None
            return when if number == 1 else None

    def pause(self, lost: threading.Event) -> None:
        """Wait while nothing gets through."""
        self._open.wait()
        if lost.is_set():
            self._closed.wait()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(self, client, server)
            with self._lock:
                self._links.add(link)
            link.start()


class _Link:
    """One client's connection and its counterpart at the server."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._answer_is_lost = False
        self.lost = threading.Event()

    def start(self) -> None:
        for pump in (self._requests, self._answers):
            threading.Thread(target=self._run, args=(pump,), daemon=True).start()

    def cut(self) -> None:
        """Reset both ends, at once."""
        for end in (self._client, self._server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _run(self, pump: Callable[[], None]) -> None:
        with suppress(OSError):
            pump()
        self.cut()

    def _requests(self) -> None:
        while data := self._client.recv(CHUNK):
            when = self._proxy.triggered()
            if when == "before":
                return
            self._answer_is_lost = self._answer_is_lost or when == "after"
            self._proxy.pause(self.lost)
            self._server.sendall(data)

    def _answers(self) -> None:
        while data := self._server.recv(CHUNK):
            if self._answer_is_lost:
                return
            if self._proxy.delay:
                time.sleep(self._proxy.delay)
            self._proxy.pause(self.lost)
            self._client.sendall(data)
