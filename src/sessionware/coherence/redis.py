"""Redis or Valkey publish/subscribe as a transport, for databases that have no channel."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ..errors import ConfigurationError, Finding
from .broadcast import Broadcast
from .messages import channel_key
from .waking import Waker


class RedisChannel(Broadcast):
    """Tell other processes of changes through a Redis or Valkey server: for MySQL, MariaDB and
    others, ``coherence=RedisChannel("redis://...")``.

    The same lease as PostgreSQL's LISTEN/NOTIFY: while messages do not come back, each hit asks the
    database. Redis holds no session data, and its loss costs speed only. No I/O before its first
    use; raises ``ConfigurationError`` for a bad URL or if the redis package is missing.
    """

    def __init__(self, url: str) -> None:
        _client(url).close()
        self._setup = setup = _Setup(url)
        super().__init__(lambda: _RedisTransport(setup))

    def bind(self, table_name: str) -> RedisChannel:
        """The channel that is shared with the processes that use the same table: this one, or for
        a second manager another one, since each has a cache of its own.
        """
        if self._setup.name is not None:
            return RedisChannel(self._setup.url).bind(table_name)
        self._setup.name = "sessionware:" + channel_key(table_name)
        return self

    def __repr__(self) -> str:
        return "RedisChannel()"


class _Setup:
    """Which server, and which of its channels; not before ``bind``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name: str | None = None


class _RedisTransport:
    """See ``Transport``."""

    def __init__(self, setup: _Setup) -> None:
        self._client = _client(setup.url)
        self._name = setup.name or "sessionware"
        self._waker = Waker()
        self._heard: Any = None
        self._socket: Any = None
        self._come: deque[str] = deque()

    def connect(self) -> None:
        self._come.clear()
        self._heard = self._client.pubsub()
        self._heard.subscribe(self._name)
        # The answer to the subscription: from here on everything is heard.
        if self._heard.get_message(timeout=4) is None:
            raise TimeoutError
        self._socket = self._heard.connection._sock
        self._waker.open()

    def prove(self, text: str) -> None:
        self.say(text)

    def say(self, text: str) -> None:
        self._client.publish(self._name, text)

    def hear(self, seconds: float) -> Iterable[str]:
        self._drain()
        if not self._come:
            self._waker.wait(self._socket, seconds)
            self._drain()
        while self._come:
            yield self._come.popleft()

    def _drain(self) -> None:
        connection = self._heard.connection
        while connection._sock is self._socket and connection.can_read(timeout=0):
            message = self._heard.get_message(timeout=0)
            if message is not None and message["type"] == "message":
                data = message["data"]
                self._come.append(
                    data if isinstance(data, str) else data.decode("utf-8", "replace")
                )
        if connection._sock is not self._socket:
            # The client connects again by itself, and what was said in between is lost.
            raise ConnectionError

    def wake(self) -> None:
        self._waker.wake()

    def disconnect(self) -> None:
        heard, self._heard, self._socket = self._heard, None, None
        self._waker.close()
        for close in (getattr(heard, "close", None), self._client.close):
            if close is not None:
                with suppress(Exception):
                    close()


def _client(url: str) -> Any:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise _refused(
            "the redis package is not installed.", 'pip install "sessionware[redis]"'
        ) from None
    try:
        # Whoever tries again is the thread, which knows what follows for the lease.
        return Redis.from_url(
            url, socket_timeout=4, socket_connect_timeout=4, retry=Retry(NoBackoff(), 0)
        )
    except (ValueError, TypeError, AttributeError):
        raise _refused("it is no Redis URL.", 'pass one such as "redis://host:6379/0".') from None


def _refused(message: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Finding("SW017", "coherence", message, fix)])
