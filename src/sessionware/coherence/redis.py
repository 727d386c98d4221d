"""Redis or Valkey publish/subscribe as a transport, for databases that have no channel."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from typing import Any

from ..errors import ConfigurationError, Finding
from .broadcast import Broadcast
from .waking import Waker


class RedisChannel(Broadcast):
    """Tell other processes of changes through a Redis or Valkey server: for MySQL, MariaDB and
    others, ``coherence=RedisChannel("redis://...")``.

    The same lease as PostgreSQL's LISTEN/NOTIFY: while messages do not come back, each hit asks the
    database. Redis holds no session data, and its loss costs speed only. One object serves one
    manager. No I/O before its first use; raises ``ConfigurationError`` for a bad URL or if the
    redis package is missing.
    """

    def __init__(self, url: str) -> None:
        super().__init__(_RedisTransport(_client(url)))

    def bind(self, table_name: str) -> None:
        """Share the channel with the processes that use the same table."""
        assert isinstance(self._transport, _RedisTransport)
        self._transport.name = "sessionware:" + sha256(table_name.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return "RedisChannel()"


class _RedisTransport:
    """See ``Transport``."""

    name = "sessionware"

    def __init__(self, client: Any) -> None:
        self._client = client
        self._waker = Waker()
        self._heard: Any = None
        self._come: deque[str] = deque()

    def connect(self) -> None:
        self._client.connection_pool.reset()
        self._heard = self._client.pubsub(ignore_subscribe_messages=True)
        self._heard.subscribe(self.name)
        # The answer to the subscription: from here on everything is heard.
        self._heard.get_message(ignore_subscribe_messages=False, timeout=5)
        self._waker.open()

    def prove(self, text: str) -> None:
        self.say(text)

    def say(self, text: str) -> None:
        self._client.publish(self.name, text)

    def hear(self, seconds: float) -> Iterable[str]:
        self._drain()
        if not self._come:
            self._waker.wait(self._heard.connection._sock, seconds)
            self._drain()
        while self._come:
            yield self._come.popleft()

    def _drain(self) -> None:
        while self._heard.connection.can_read(timeout=0):
            message = self._heard.get_message(timeout=0)
            if message is not None and message["type"] == "message":
                self._come.append(message["data"].decode("utf-8", "replace"))

    def wake(self) -> None:
        self._waker.wake()

    def disconnect(self) -> None:
        heard, self._heard = self._heard, None
        self._waker.close()
        for close in (getattr(heard, "close", None), self._client.close):
            if close is not None:
                with suppress(Exception):
                    close()


def _client(url: str) -> Any:
    try:
        from redis import Redis
    except ImportError:
        raise _refused(
            "the redis package is not installed.", 'pip install "sessionware[redis]"'
        ) from None
    try:
        return Redis.from_url(url, socket_timeout=4, socket_connect_timeout=4)
    except (ValueError, TypeError, AttributeError):
        raise _refused("it is no Redis URL.", 'pass one such as "redis://host:6379/0".') from None


def _refused(message: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Finding("SW017", "coherence", message, fix)])
