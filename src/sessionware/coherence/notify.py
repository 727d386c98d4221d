"""PostgreSQL's LISTEN and NOTIFY as a transport, on a connection outside any pool."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL

from ..flows import Call
from .broadcast import Broadcast, Unfit
from .lease import LEASE_SECONDS
from .messages import channel_key
from .waking import Waker, ready

if TYPE_CHECKING:
    import psycopg

# A silent network is noticed by the operating system too, not by the lease alone.
_PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4000,
}
_NAME = {"application_name": "sessionware-listener"}
_ANSWER_SECONDS: Final = 4.0
# To commit it no disk is waited for: what a crash of the server would lose, it tells nobody anyway.
_NOTIFY: Final = b"SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"
_ASYNCPG_ONLY = frozenset(
    {
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "statement_cache_size",
        "command_timeout",
        "timeout",
        "async_fallback",
    }
)


def notify_channel(
    url: URL, listen_url: URL | None, table_name: str, seconds: float = LEASE_SECONDS
) -> Broadcast:
    """The channel of all processes that share a table. No I/O: it connects with its first use."""
    name = "sessionware_" + channel_key(table_name)
    return Broadcast(
        lambda: NotifyTransport(url, listen_url or url, name),
        lambda text: Call("notify", (name, text)),
        seconds,
    )


class NotifyTransport:
    """See ``Transport``. Each statement is a transaction of its own: a NOTIFY in one that writes
    would make all commits of the server wait for each other.
    """

    def __init__(self, url: URL, listen_url: URL, name: str) -> None:
        self._url = url
        self._listen_url = listen_url
        self._name = name
        self._waker = Waker()
        self._connection: psycopg.Connection[Any] | None = None
        self._come: deque[str] = deque()

    def connect(self) -> None:
        self._come.clear()
        self._connection = connection = _connect(self._listen_url)
        self._waker.open()
        self._ask(connection, f'LISTEN "{self._name}"'.encode())

    def prove(self, text: str) -> None:
        with _connect(self._url) as another:
            self._ask(another, _NOTIFY, self._name, text)

    def say(self, text: str) -> None:
        assert self._connection is not None
        self._ask(self._connection, _NOTIFY, self._name, text)

    def _ask(self, connection: psycopg.Connection[Any], statement: bytes, *values: str) -> None:
        """Execute it. psycopg itself would wait for ever where nothing at all comes back."""
        pgconn, until = connection.pgconn, time.monotonic() + _ANSWER_SECONDS
        parameters: Sequence[bytes] = [value.encode() for value in values]
        pgconn.send_query_params(statement, parameters)
        while pgconn.flush():
            _wait(connection, until, to_write=True)
            pgconn.consume_input()
        failed = False
        while True:
            while pgconn.is_busy():
                _wait(connection, until)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            failed = failed or bool(result.error_message)
        if failed:
            raise ConnectionError("refused")

    def hear(self, seconds: float) -> Iterable[str]:
        assert self._connection is not None
        # Some may have come along with an answer: then there is nothing to wait for.
        self._drain(self._connection)
        if not self._come:
            self._waker.wait(self._connection, seconds)
            self._connection.pgconn.consume_input()
            self._drain(self._connection)
        while self._come:
            yield self._come.popleft()

    def _drain(self, connection: psycopg.Connection[Any]) -> None:
        while (heard := connection.pgconn.notifies()) is not None:
            self._come.append(heard.extra.decode("utf-8", "replace"))

    def wake(self) -> None:
        self._waker.wake()

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._waker.close()
        if connection is not None:
            with suppress(Exception):
                connection.close()


def _wait(connection: psycopg.Connection[Any], until: float, to_write: bool = False) -> None:
    if not ready(until - time.monotonic(), connection, to_write=to_write):
        raise TimeoutError


def _connect(url: URL) -> psycopg.Connection[Any]:
    try:
        import psycopg
    except ImportError:
        raise Unfit('it needs psycopg: pip install "sessionware[postgres]"') from None
    return psycopg.connect(autocommit=True, **{**_PATIENCE, **_arguments(url), **_NAME})


def _arguments(url: URL) -> dict[str, Any]:
    """What libpq takes, from the URL of any driver for PostgreSQL."""
    asyncpg = url.get_driver_name() == "asyncpg"
    url = url.set(drivername="postgresql+psycopg")
    if asyncpg:
        if "ssl" in url.query:
            url = url.update_query_dict({"sslmode": str(url.query["ssl"])})
        url = url.difference_update_query([*_ASYNCPG_ONLY, "ssl"])
    _, arguments = url.get_dialect()().create_connect_args(url)
    arguments.pop("context", None)
    return dict(arguments)
