"""Redis publish/subscribe as the channel of databases that have none: the lease of PostgreSQL's."""

from __future__ import annotations

import logging
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis import Redis, RedisError

from sessionware import SessionManager
from sessionware.coherence.redis import RedisChannel
from sessionware.errors import ConfigurationError
from sessionware.stores import CachedStore
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from tests.apps import SECRET, Browser, Managers, app_of
from tests.coherence.helping import (
    change,
    content,
    seconds_until_seen,
    session,
    survive_a_restart,
    until,
    warm,
)
from tests.faults.proxy import Proxy
from tests.processes.servers import free_port
from tests.services import unavailable, with_driver

Make = Callable[..., SessionManager]
LEASE = 1.0


@pytest.fixture
def make(mysql_url: str, table_name: str) -> Iterator[Make]:
    """Makes managers of a MariaDB store with a channel over a Redis server."""
    made: list[SessionManager] = []

    def manager(channel: str | RedisChannel) -> SessionManager:
        if isinstance(channel, str):
            channel = RedisChannel(channel)
        store = SQLStore(mysql_url, table_name=table_name)
        cached = CachedStore(store, coherence=channel)
        made.append(SessionManager(secret_key=SECRET, purge_interval=None, store=cached))
        return made[-1]

    yield manager
    for each in made:
        each.shutdown()


def channel_of(manager: SessionManager) -> RedisChannel:
    channel = manager.store.channel
    assert isinstance(channel, RedisChannel)
    return channel


def short(url: str) -> RedisChannel:
    """A channel with a short lease."""
    channel = RedisChannel(url)
    channel._seconds = LEASE
    channel._renew()
    return channel


def test_a_change_and_a_logout_are_seen_by_the_other_within_milliseconds(
    make: Make, redis_url: str
) -> None:
    took = seconds_until_seen(make(redis_url), make(redis_url))
    assert statistics.median(took) < 0.05


def test_the_channel_is_given_as_the_setting_coherence(
    mysql_url: str, redis_url: str, table_name: str
) -> None:
    manager = SessionManager(
        secret_key=SECRET,
        store=mysql_url,
        table_name=table_name,
        purge_interval=None,
        coherence=RedisChannel(redis_url),
    )
    cookie = session(manager, n=1)
    warm(manager, cookie)
    manager.shutdown()


def test_a_warm_read_asks_nobody(make: Make, redis_url: str, statements: list[str]) -> None:
    manager = make(redis_url)
    cookie = session(manager, n=1)
    warm(manager, cookie)
    statements.clear()
    for _ in range(50):
        assert content(manager, cookie) == {"n": 1}
    assert statements == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_with_asyncmy_too_and_nothing_blocks_the_loop(
    anyio_backend: str, mysql_url: str, redis_url: str, table_name: str
) -> None:
    managers = Managers()
    url = with_driver(mysql_url, "mysql+asyncmy")
    here, there = (
        managers(
            store=CachedStore(
                AsyncSQLStore(url, table_name=table_name), coherence=RedisChannel(redis_url)
            )
        )
        for _ in range(2)
    )
    browser = Browser(app_of(here))
    await browser.get("/write?n=1")
    other = Browser(app_of(there), browser.token)
    deadline = time.monotonic() + 10
    await other.get("/read")
    while not channel_of(there).alive:
        assert time.monotonic() < deadline
        await other.get("/read")
    await browser.get("/write?n=2")
    while (await other.get("/read")).json() != {"n": "2"}:
        assert time.monotonic() < deadline
    await managers.aclose()


@pytest.mark.parametrize("option", ["protocol=2", "protocol=3", "decode_responses=true"])
def test_what_a_url_may_say_changes_nothing(make: Make, redis_url: str, option: str) -> None:
    here, there = make(f"{redis_url}?{option}"), make(redis_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    change(there, cookie, n=2)
    until(lambda: content(here, cookie) == {"n": 2}, patience=1)


def test_connections_that_the_server_kills_come_back_and_every_row_is_asked_for(
    make: Make, redis_url: str
) -> None:
    here, there = make(redis_url), make(redis_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    service = channel_of(there)._service
    assert service is not None
    transport: Any = service.transport
    port = transport._socket.getsockname()[1]
    with Redis.from_url(redis_url) as admin:
        for client in admin.client_list(_type="pubsub"):
            if client["addr"].endswith(f":{port}"):
                admin.client_kill_filter(_id=client["id"])
    change(here, cookie, n=2)
    until(lambda: content(there, cookie) == {"n": 2}, patience=1)
    warm(there, cookie)


def test_a_client_that_connects_again_by_itself_counts_as_a_lost_connection(
    redis_url: str, table_name: str
) -> None:
    """redis-py does so under its own hand, and what was said in between is lost."""
    transport: Any = RedisChannel(redis_url).bind(table_name)._transport()
    transport.connect()
    transport.say("before")
    assert list(transport.hear(5)) == ["before"]
    transport._heard.connection.disconnect()
    transport._heard.connection.connect()
    with pytest.raises(ConnectionError):
        list(transport.hear(5))
    transport.disconnect()


@pytest.fixture
def proxied(redis_url: str) -> Iterator[tuple[Proxy, str]]:
    address = urlsplit(redis_url)
    proxy = Proxy(address.hostname or "127.0.0.1", address.port or 6379)
    yield proxy, f"redis://127.0.0.1:{proxy.port}{address.path}"
    proxy.close()


def test_a_connection_in_a_black_hole_is_trusted_no_longer_than_its_lease(
    make: Make, redis_url: str, proxied: tuple[Proxy, str]
) -> None:
    proxy, url = proxied
    here, there = make(short(redis_url)), make(short(url))
    cookie = session(here, n=1)
    warm(there, cookie)
    proxy.freeze()
    change(here, cookie, n=2)
    assert until(lambda: content(there, cookie) == {"n": 2}) <= LEASE + 0.2
    proxy.thaw()
    warm(there, cookie)


# A server of our own, which can be stopped.


class Server:
    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        options = ["--port", str(self._port), "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([self._program, *options], stdout=subprocess.DEVNULL)

        def answers() -> bool:
            with suppress(RedisError), Redis.from_url(self.url) as client:
                return bool(client.ping())
            return False

        until(answers)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    program = shutil.which("redis-server")
    if program is None:
        unavailable("redis-server is not there")
    server = Server(program, tmp_path)
    yield server
    server.stop()


def test_after_a_restart_of_the_server_every_row_is_asked_for_and_the_channel_comes_back(
    make: Make, own_server: Server
) -> None:
    here, there = make(own_server.url), make(own_server.url)
    survive_a_restart(here, there, own_server.stop, own_server.start)


def test_a_server_that_is_gone_for_good_costs_questions_and_one_log_line_a_manager(
    make: Make, own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = make(own_server.url), make(own_server.url)
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    with caplog.at_level(logging.WARNING, "sessionware"):
        own_server.stop()
        until(lambda: not (channel_of(here).alive or channel_of(there).alive), patience=1)
        for number in range(2, 10):
            change(here, cookie, n=number)
            assert content(there, cookie) == {"n": number}
            change(there, cookie, n=-number)
            assert content(here, cookie) == {"n": -number}
    assert all("SW017" in record.message for record in caplog.records)
    assert all(str(own_server.url) not in record.message for record in caplog.records)


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost", "redis://host:port/0", 7])
def test_a_url_that_is_none_is_refused_at_once(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="SW017"):
        RedisChannel(url)


def test_without_the_redis_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match="pip install"):
        RedisChannel("redis://localhost")


def test_two_managers_that_are_given_one_channel_hear_each_other(
    make: Make, redis_url: str
) -> None:
    """Each has a cache of its own, as when an application is built twice from one settings
    object.
    """
    channel = RedisChannel(redis_url)
    here, there = make(channel), make(channel)
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    change(here, cookie, n=2)
    until(lambda: content(there, cookie) == {"n": 2}, patience=1)


def test_workers_that_spell_one_table_in_two_ways_share_a_channel(redis_url: str) -> None:
    spellings = ("sessions", "app.sessions")
    here, there = (RedisChannel(redis_url).bind(name)._setup.name for name in spellings)
    assert here == there


def test_the_url_is_in_no_repr() -> None:
    assert "secret" not in repr(RedisChannel("redis://:secret@localhost"))
