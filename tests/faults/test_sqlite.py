"""SQLite in trouble: the file is locked by another process, or the disk is full."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Engine, create_engine, event

from sessionware import SessionManager, loop_runner, thread_runner
from tests.apps import Managers
from tests.byhand import storing
from tests.faults.watch import TIMEOUT, recovered, refused, timed, unharmed
from tests.interleaving import Client, Group, together

pytestmark = pytest.mark.anyio

CONNECTIONS = 8
"""Of a store that is given as a URL."""

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


@pytest.fixture(params=["sqlite", "sqlite+aiosqlite"])
def manager(
    request: pytest.FixtureRequest,
    sqlite_url: str,
    managers: Managers,
    anyio_backend_name: str,
    blockbuster: Any,
) -> SessionManager:
    if request.param.endswith("aiosqlite") and anyio_backend_name == "trio":
        pytest.skip("aiosqlite knows asyncio only")
    url = sqlite_url.replace("sqlite:", f"{request.param}:")
    return managers(store=url, store_timeout=TIMEOUT)


class Lock:
    """The write lock of the database, held by another process."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"

    def release(self) -> None:
        self._process.communicate("now\n", timeout=10)


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    lock = Lock(path)
    try:
        yield lock
    finally:
        lock.release()


async def session(manager: SessionManager) -> Client:
    client = Client(manager)
    await recovered(client, storing(n=0))
    return client


async def test_a_short_lock_of_another_process_is_waited_for(
    manager: SessionManager, tmp_path: Path
) -> None:
    client = await session(manager)
    lock = await anyio.to_thread.run_sync(Lock, tmp_path / "sessions.db")
    async with Group() as group:

        async def write() -> None:
            answer, seconds = await timed(client.twin(), storing(a=1))
            assert answer.status == 200
            assert seconds >= TIMEOUT / 4

        group.start_soon(write)
        await anyio.sleep(TIMEOUT / 4)
        await anyio.to_thread.run_sync(lock.release)
    assert await client.content() == {"n": 0, "a": 1}


async def test_under_a_long_lock_writes_are_refused_in_time_and_reads_go_on(
    manager: SessionManager, tmp_path: Path
) -> None:
    client = await session(manager)
    lock = await anyio.to_thread.run_sync(Lock, tmp_path / "sessions.db")
    async with Group() as group:
        for _ in range(5):
            group.start_soon(refused, client.twin(), storing(a=1))
        group.start_soon(refused, Client(manager), storing(a=1))
        group.start_soon(unharmed, client.twin())
        for _ in range(5):
            answer, seconds = await timed(client.twin())
            assert (answer.status, answer.json()) == (200, {"n": 0})
            assert seconds < TIMEOUT / 2
    await anyio.to_thread.run_sync(lock.release)
    await recovered(client, storing(b=2))
    assert (await client.content()).items() >= {"n": 0, "b": 2}.items()


async def test_who_reads_from_the_file_does_not_wait_behind_those_who_wait_for_a_lock(
    manager: SessionManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for runner in (thread_runner, loop_runner):
        monkeypatch.setattr(runner, "PATIENCE", 0.005)
    readers = [await session(manager) for _ in range(3)]
    writers = [await session(manager) for _ in range(2 * CONNECTIONS)]
    lock = await anyio.to_thread.run_sync(Lock, tmp_path / "sessions.db")
    async with Group() as group:
        for writer in writers:
            # Each after the patience of the one before, so that it asks for a leader of its own.
            group.start_soon(refused, writer, storing(a=1))
            await anyio.sleep(0.01)
        manager.store.cache.clear()
        for reader in readers:
            answer, seconds = await timed(reader)
            assert (answer.status, answer.json()) == (200, {"n": 0})
            assert seconds < TIMEOUT / 3
    await anyio.to_thread.run_sync(lock.release)
    await recovered(writers[0], storing(b=2))


class Disk:
    """An engine whose database can't grow over a number of pages."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url)
        self.pages = 1 << 30
        event.listen(self.engine, "checkout", self._limit)

    def _limit(self, connection: Any, record: object, proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count={self.pages}")


async def test_a_full_disk_refuses_writes_goes_on_reading_and_is_got_over(
    sqlite_url: str, managers: Managers, tmp_path: Path
) -> None:
    disk = Disk(sqlite_url)
    manager = managers(store=disk.engine, store_timeout=20)
    client = await session(manager)
    disk.pages = 1
    written: list[Client] = []
    while True:
        other = Client(manager)
        answer = await other.visit(storing(filler="x" * 20_000))
        if answer.status == 503:
            break
        written.append(other)
        assert len(written) < 50
    assert answer.set_cookies == []
    assert await client.content() == {"n": 0}
    assert (await client.visit(storing(filler="x" * 60_000))).status == 503
    answers = await together(*(one.visit() for one in [client, *written]))
    assert {answer.status for answer in answers} == {200}
    disk.pages = 1 << 30
    assert (await client.visit(storing(a=1))).status == 200
    assert await client.content() == {"n": 0, "a": 1}
    disk.engine.dispose()
    assert _rows(tmp_path / "sessions.db") == 1 + len(written)


def _rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (rows,) = connection.execute("SELECT count(*) FROM sessions").fetchone()
        return int(rows)
    finally:
        connection.close()


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Going through all that a whole run of tests has left takes the collector half a second."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
async def test_many_writers_wait_for_each_other_and_not_for_the_event_loop(
    manager: SessionManager,
) -> None:
    clients = [Client(manager) for _ in range(30)]
    longest = 0.0
    done = False

    async def pulse() -> None:
        nonlocal longest
        while not done:
            began = time.monotonic()
            await anyio.sleep(0)
            longest = max(longest, time.monotonic() - began)

    async with Group() as group:
        group.start_soon(pulse)
        async with Group() as writers:
            for client in clients:
                writers.start_soon(recovered, client, storing(a=1))
        done = True
    assert longest < TIMEOUT / 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_writes_that_were_refused_do_not_pile_up_while_a_lock_lasts(
    manager: SessionManager, tmp_path: Path
) -> None:
    client = await session(manager)
    before = asyncio.all_tasks()
    lock = await anyio.to_thread.run_sync(Lock, tmp_path / "sessions.db")
    async with Group() as group:
        for _ in range(10):
            group.start_soon(refused, client.twin(), storing(a=1))
    with anyio.move_on_after(2 * TIMEOUT):
        while asyncio.all_tasks() - before:
            await anyio.sleep(0.01)
    left = asyncio.all_tasks() - before
    await anyio.to_thread.run_sync(lock.release)
    assert not left
    await recovered(client, storing(b=2))
