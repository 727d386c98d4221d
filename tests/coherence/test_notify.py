"""PostgreSQL's LISTEN and NOTIFY: what one process changes others see within milliseconds, and a
channel that does not work costs questions to the database, never a stale answer or a request.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from sessionware import SessionManager
from sessionware.coherence import broadcast, notify
from sessionware.coherence.broadcast import Broadcast
from sessionware.coherence.messages import parse
from sessionware.coherence.notify import NotifyTransport, notify_channel
from sessionware.flows import Call
from tests.apps import Browser, Managers, app_of
from tests.coherence.helping import (
    change,
    content,
    seconds_until_seen,
    served_unasked,
    session,
    survive_a_restart,
    until,
    warm,
)
from tests.coherence.worker import Worker
from tests.faults.proxy import Proxy
from tests.processes.servers import free_port
from tests.services import unavailable, with_driver

Make = Callable[..., SessionManager]
LEASE = 1.0
"""Seconds, in place of ten."""


def channel_of(manager: SessionManager) -> Broadcast:
    channel = manager.store.channel
    assert isinstance(channel, Broadcast)
    return channel


def threads() -> int:
    return sum(thread.name == "sessionware-channel" for thread in threading.enumerate())


@pytest.fixture
def short(table_name: str) -> Callable[..., Broadcast]:
    """Makes channels with a short lease."""

    def make(url: str, listen_url: str | None = None) -> Broadcast:
        listen = None if listen_url is None else make_url(listen_url)
        return notify_channel(make_url(url), listen, table_name, LEASE)

    return make


@pytest.fixture
def heard(postgres_url: str, make_manager: Make) -> Iterator[Callable[[SessionManager], list[str]]]:
    """What is said on a manager's channel from now on."""
    with psycopg.connect(with_driver(postgres_url, "postgresql"), autocommit=True) as connection:

        def listen(manager: SessionManager) -> list[str]:
            call = channel_of(manager)._by_store
            assert call is not None
            if not listening:
                connection.execute(f'LISTEN "{call("").args[0]}"'.encode())
                listening.append(True)
            return [each.payload for each in connection.notifies(timeout=0.3)]

        listening: list[bool] = []
        yield listen


def terminate_listener(manager: SessionManager, url: str) -> None:
    service = channel_of(manager)._service
    assert service is not None
    transport: Any = service.transport
    with psycopg.connect(with_driver(url, "postgresql"), autocommit=True) as connection:
        pid = transport._connection.pgconn.backend_pid
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))


def test_a_change_and_a_logout_are_seen_by_the_other_within_milliseconds(
    make_manager: Make, postgres_url: str
) -> None:
    took = seconds_until_seen(make_manager(postgres_url), make_manager(postgres_url))
    assert statistics.median(took) < 0.05


def test_workers_that_spell_one_table_in_two_ways_hear_each_other(
    make_manager: Make, postgres_url: str, table_name: str
) -> None:
    here = make_manager(postgres_url)
    there = make_manager(postgres_url, table_name=f"public.{table_name}")
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    change(here, cookie, n=2)
    until(lambda: content(there, cookie) == {"n": 2})


def test_a_warm_read_asks_nobody_and_a_write_does_not_evict_what_it_wrote(
    make_manager: Make, postgres_url: str, statements: list[str]
) -> None:
    here, there = make_manager(postgres_url), make_manager(postgres_url)
    cookie = session(here, n=1)
    warm(there, cookie)
    warm(here, cookie)
    statements.clear()
    for _ in range(50):
        assert content(here, cookie) == {"n": 1}
    assert statements == []
    change(here, cookie, n=2)
    until(lambda: content(there, cookie) == {"n": 2})
    assert served_unasked(here, cookie)
    assert not [each for each in statements if "pg_notify" in each], "no connection of the pool"


def test_a_message_that_waits_for_no_disk_leaves_the_connection_as_durable_as_it_was(
    postgres_url: str, table_name: str
) -> None:
    """Behind a pooler it may be another's next."""
    url = make_url(postgres_url)
    transport = NotifyTransport(url, url, table_name)
    transport.connect()
    try:
        connection = transport._connection
        assert connection is not None
        connection.execute("SET synchronous_commit TO on")
        answer = connection.pgconn.exec_params(notify._NOTIFY, [table_name.encode(), b"a text"])
        assert answer.get_value(0, 0) == b"off", "while the message is sent"
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    finally:
        transport.disconnect()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_with_asyncpg_too_and_nothing_blocks_the_loop(
    anyio_backend: str, postgres_url: str, table_name: str, blockbuster: Any
) -> None:
    for function in blockbuster.functions.values():
        function.can_block_in("/asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
    managers = Managers()
    url = with_driver(postgres_url, "postgresql+asyncpg")
    here = managers(store=url, table_name=table_name)
    there = managers(store=url, table_name=table_name)
    browser = Browser(app_of(here))
    await browser.get("/write?n=1")
    other = Browser(app_of(there), browser.token)
    await other.get("/read")
    deadline = time.monotonic() + 10
    while not channel_of(there).alive:
        assert time.monotonic() < deadline
        await other.get("/read")
    await browser.get("/write?n=2")
    while (await other.get("/read")).json() != {"n": "2"}:
        assert time.monotonic() < deadline
    await browser.get("/logout")
    while (await other.get("/read")).json() != {}:
        assert time.monotonic() < deadline
    await managers.aclose()
    assert threads() == 0


def test_a_thousand_changes_make_few_short_messages_and_no_id_is_in_them(
    make_manager: Make, postgres_url: str, heard: Callable[[SessionManager], list[str]]
) -> None:
    manager = make_manager(postgres_url)
    cookie = session(manager, n=1)
    warm(manager, cookie)
    heard(manager)
    channel = channel_of(manager)
    hashes = [os.urandom(32) for _ in range(1000)]
    for sid_hash in hashes:
        assert channel.changed((sid_hash,)) is None
    change(manager, cookie, n=2)
    texts = heard(manager)
    assert 1 <= len(texts) < 100
    assert all(len(text) < 8000 for text in texts)
    secret = cookie.partition("=")[2]
    assert not any(secret[:16] in text for text in texts)
    prefixes = {prefix for text in texts for prefix in getattr(parse(text), "prefixes", ())}
    assert {sid_hash[:8] for sid_hash in hashes} <= prefixes
    assert all(len(prefix) == 8 for prefix in prefixes)


def test_a_listener_that_is_killed_comes_back_and_every_row_is_asked_for_once(
    make_manager: Make, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = make_manager(postgres_url), make_manager(postgres_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    with caplog.at_level(logging.WARNING, "sessionware"):
        terminate_listener(here, postgres_url)
        terminate_listener(there, postgres_url)
        change(here, cookie, n=2)
        until(lambda: content(there, cookie) == {"n": 2})
        warm(there, cookie)
        warm(here, cookie)
    change(there, cookie, n=3)
    until(lambda: content(here, cookie) == {"n": 3})
    assert {record.name for record in caplog.records} <= {"sessionware"}


def test_a_listener_in_a_black_hole_is_trusted_no_longer_than_its_lease(
    make_manager: Make,
    postgres_url: str,
    proxied: str,
    proxy: Proxy,
    short: Callable[..., Broadcast],
) -> None:
    here = make_manager(postgres_url, coherence=short(postgres_url))
    there = make_manager(postgres_url, coherence=short(postgres_url, proxied))
    cookie = session(here, n=1)
    warm(there, cookie)
    proxy.freeze()
    change(here, cookie, n=2)
    changed = time.monotonic()
    took = until(lambda: content(there, cookie) == {"n": 2})
    assert took <= LEASE + 0.2
    while time.monotonic() < changed + 2 * LEASE:
        assert content(there, cookie) == {"n": 2}
    change(there, cookie, n=3)
    until(lambda: content(here, cookie) == {"n": 3}, patience=0.5)
    proxy.thaw()
    warm(there, cookie)


def test_a_listener_that_is_dead_for_good_is_replaced(
    make_manager: Make,
    postgres_url: str,
    proxied: str,
    proxy: Proxy,
    short: Callable[..., Broadcast],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network takes what is sent and never answers; new connections work."""
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.5)
    here = make_manager(postgres_url, coherence=short(postgres_url, proxied))
    cookie = session(here, n=1)
    warm(here, cookie)
    proxy.lose()
    until(lambda: not channel_of(here).alive)
    warm(here, cookie)


def test_what_was_changed_while_the_listener_was_dying_is_told_all_the_same(
    make_manager: Make,
    postgres_url: str,
    proxied: str,
    proxy: Proxy,
    short: Callable[..., Broadcast],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify, "_ANSWER_SECONDS", 0.5)
    here = make_manager(postgres_url, coherence=short(postgres_url, proxied))
    there = make_manager(postgres_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    proxy.lose()
    change(here, cookie, n=2)
    until(lambda: content(there, cookie) == {"n": 2}, patience=6)


def test_a_notify_that_fails_fails_no_request(
    make_manager: Make, postgres_url: str, table_name: str
) -> None:
    url = make_url(postgres_url)
    nowhere = url.set(port=1).render_as_string(hide_password=False)
    broken = notify_channel(url, make_url(nowhere), table_name, LEASE)
    broken._by_store = lambda text: Call("notify", ("x" * 100, text))
    manager = make_manager(postgres_url, coherence=broken)
    cookie = session(manager, n=1)
    for number in range(2, 5):
        change(manager, cookie, n=number)
        assert content(manager, cookie) == {"n": number}


@pytest.fixture
def other_database(postgres_url: str, table_name: str) -> Iterator[str]:
    """Of the same server: what is said in one is not heard in the other, as behind a pooler that
    loses subscriptions.
    """
    with psycopg.connect(with_driver(postgres_url, "postgresql"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{table_name}"'.encode())
        url = make_url(postgres_url).set(database=table_name)
        yield url.render_as_string(hide_password=False)
        connection.execute(f'DROP DATABASE "{table_name}" WITH (FORCE)'.encode())


def test_where_messages_do_not_arrive_each_hit_asks_and_one_line_says_so(
    make_manager: Make,
    postgres_url: str,
    other_database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = make_manager(postgres_url, listen_url=other_database)
    there = make_manager(postgres_url)
    cookie = session(there, n=1)
    warm(there, cookie)
    with caplog.at_level(logging.WARNING, "sessionware"):
        content(here, cookie)
        change(here, cookie, n=2)
        until(lambda: content(there, cookie) == {"n": 2}, patience=0.5)
        until(lambda: caplog.records)
        change(here, cookie, n=3)
        until(lambda: content(there, cookie) == {"n": 3}, patience=0.5)
        change(there, cookie, n=4)
        assert content(here, cookie) == {"n": 4}
        assert not served_unasked(here, cookie)
    (record,) = caplog.records
    assert "SW017" in record.message
    assert "listen_url" in record.message


def test_a_network_that_was_too_slow_for_the_first_message_costs_seconds_of_questions(
    make_manager: Make,
    postgres_url: str,
    proxied: str,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looks like a pooler that loses subscriptions, and may be none."""
    monkeypatch.setattr(broadcast, "_PROOF_SECONDS", 0.3)
    manager = make_manager(postgres_url, listen_url=proxied)
    proxy.delay = 0.5
    with caplog.at_level(logging.WARNING, "sessionware"):
        cookie = session(manager, n=1)
        until(lambda: caplog.records)
    assert "messages do not arrive" in caplog.text
    proxy.delay = 0
    warm(manager, cookie)


def test_reasons_that_alternate_are_one_log_line_each(
    make_manager: Make, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel = channel_of(make_manager(postgres_url))
    with caplog.at_level(logging.WARNING, "sessionware"):
        for error in 3 * [TimeoutError(), ConnectionError()]:
            channel.note(error)
    assert len(caplog.records) == 2


def test_without_psycopg_each_hit_asks_and_one_line_says_so(
    make_manager: Make,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    short: Callable[..., Broadcast],
) -> None:
    def missing(url: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "psycopg", None)
            return connect(url)

    connect = notify._connect
    monkeypatch.setattr(notify, "_connect", missing)
    with caplog.at_level(logging.WARNING, "sessionware"):
        manager = make_manager(postgres_url, coherence=short(postgres_url))
        cookie = session(manager, n=1)
        until(lambda: (content(manager, cookie), caplog.records)[1])
        assert not served_unasked(manager, cookie)
    (record,) = caplog.records
    assert "pip install" in record.message


# Threads and processes.


def test_there_is_no_thread_before_the_first_use_and_none_after_the_shutdown(
    make_manager: Make, postgres_url: str
) -> None:
    manager = make_manager(postgres_url)
    assert threads() == 0
    cookie = session(manager, n=1)
    warm(manager, cookie)
    assert threads() == 1
    manager.shutdown()
    assert threads() == 0
    assert content(manager, cookie) == {"n": 1}
    warm(manager, cookie)
    manager.shutdown()
    assert threads() == 0


def test_what_was_changed_just_before_the_shutdown_is_still_told(
    make_manager: Make, postgres_url: str
) -> None:
    here, there = make_manager(postgres_url), make_manager(postgres_url)
    cookie = session(here, n=0)
    for number in range(1, 6):
        warm(here, cookie)
        warm(there, cookie)
        change(here, cookie, n=number)
        here.shutdown()
        until(lambda number=number: content(there, cookie) == {"n": number}, patience=0.5)  # type: ignore[misc]


@pytest.fixture
def silent(postgres_url: str) -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = make_url(postgres_url).set(host="127.0.0.1", port=server.getsockname()[1])
        yield url.render_as_string(hide_password=False)


def test_who_changes_something_and_ends_before_it_has_a_listener_tells_the_others(
    make_manager: Make, postgres_url: str, silent: str
) -> None:
    there = make_manager(postgres_url)
    cookie = session(there, n=1)
    warm(there, cookie)
    script = make_manager(postgres_url, listen_url=silent)
    change(script, cookie, n=2)
    script.shutdown()
    until(lambda: content(there, cookie) == {"n": 2}, patience=0.5)


def test_a_channel_that_is_dropped_leaves_no_thread(
    postgres_url: str, short: Callable[..., Broadcast]
) -> None:
    held = [short(postgres_url)]
    held[0].mark(bytes(32))
    until(lambda: held[0].alive)
    assert threads() == 1
    held.clear()
    until(lambda: threads() == 0)


def test_a_child_process_has_a_channel_of_its_own_and_leaves_the_parents_alone(
    make_manager: Make, postgres_url: str
) -> None:
    here, there = make_manager(postgres_url), make_manager(postgres_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    child = os.fork()
    if not child:
        status = 1
        try:
            warm(here, cookie)
            change(here, cookie, n=2)
            time.sleep(0.1)
            status = 0
        finally:
            os._exit(status)
    until(lambda: content(there, cookie) == {"n": 2})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert content(here, cookie) == {"n": 2}
    warm(here, cookie)
    warm(there, cookie)
    change(here, cookie, n=3)
    until(lambda: content(there, cookie) == {"n": 3})


def test_a_killed_process_leaves_the_others_in_step(
    make_manager: Make, make_worker: Callable[..., Worker], postgres_url: str
) -> None:
    here, there = make_manager(postgres_url), make_worker(postgres_url)
    cookie = session(here, n=1)
    assert there.ask("write", cookie, {"n": 2})
    until(lambda: content(here, cookie) == {"n": 2})
    there.kill()
    warm(here, cookie)


@pytest.mark.soak
def test_a_process_that_stood_still_for_longer_than_the_lease_serves_nothing_stale(
    make_manager: Make, make_worker: Callable[..., Worker], postgres_url: str
) -> None:
    here, there = make_manager(postgres_url), make_worker(postgres_url)
    cookie = session(here, n=1)
    until(lambda: there.ask("read", cookie) == {"n": 1} and there.ask("alive"))
    for number in range(2, 5):
        there.ask("read", cookie)
        there.signal(signal.SIGSTOP)
        there.stopped()
        change(here, cookie, n=number)
        time.sleep(12)
        there.signal(signal.SIGCONT)
        assert there.ask("read", cookie) == {"n": number}
        until(lambda: there.ask("read", cookie) and there.ask("alive"))


# A server of our own, which can be stopped.


@pytest.fixture
def own_server() -> Iterator[Server]:
    initdb, pg_ctl = shutil.which("initdb"), shutil.which("pg_ctl")
    if initdb is None or pg_ctl is None:
        unavailable("initdb and pg_ctl are not there")
    server = Server(initdb, pg_ctl)
    yield server
    server.remove()


class Server:
    """A cluster in a folder of its own."""

    def __init__(self, initdb: str, pg_ctl: str) -> None:
        self._pg_ctl = pg_ctl
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp())
        self._port = free_port()
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._run(initdb, "-D", self._data, "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _run(self, *command: str) -> None:
        subprocess.run(
            command,
            check=True,
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self._folder}"
        self._run(self._pg_ctl, "-D", self._data, "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run(self._pg_ctl, "-D", self._data, "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder)


def test_after_a_restart_of_the_server_every_row_is_asked_for_and_the_channel_comes_back(
    make_manager: Make, own_server: Server
) -> None:
    here, there = make_manager(own_server.url), make_manager(own_server.url)
    survive_a_restart(here, there, own_server.stop, own_server.start)
