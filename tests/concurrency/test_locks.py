"""Locks on real databases: over threads, tasks, two workers, and processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import event

import sessionware
from sessionware import SessionManager
from tests.apps import SECRET, Managers
from tests.byhand import Visitor, storing
from tests.databases import drivers, url_of
from tests.interleaving import PATIENCE, Group

pytestmark = pytest.mark.anyio

HANDLERS = 20
CALLERS = 1000
PROCESSES = 3
TURNS = 5

each_database = drivers("sqlite", "psycopg", "asyncpg", "pymysql")
each_plain_database = drivers("sqlite", "psycopg", "pymysql")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


@pytest.fixture
def url(driver: str, request: pytest.FixtureRequest) -> str:
    return url_of(driver, request)


@pytest.fixture
def workers(url: str, managers: Managers, table_name: str) -> list[SessionManager]:
    """Two workers on one database, each with a cache and connections of its own."""
    settings = {"store": url, "table_name": table_name, "store_timeout": 20}
    return [managers(**settings) for _ in range(2)]


async def content(manager: SessionManager, cookie: str) -> dict[str, Any]:
    """What is stored: a cached copy may be some milliseconds old."""
    session = await manager.aopen(cookie)
    async with session.alock():
        return dict(session)


async def stored(manager: SessionManager, **content: Any) -> str:
    """The cookie of a new session."""
    visitor = Visitor(manager)
    await visitor.avisit(storing(**content))
    assert visitor.cookie is not None
    return visitor.cookie


@each_database
async def test_of_twenty_handlers_that_check_then_act_each_sees_what_the_others_did(
    workers: list[SessionManager],
) -> None:
    cookie = await stored(workers[0], n=0, log=[])
    inside = 0

    async def handler(number: int) -> None:
        nonlocal inside
        session = await workers[number % 2].aopen(cookie)
        async with session.alock(timeout=30):
            inside += 1
            assert inside == 1, "two are in at once"
            n = session["n"]
            await anyio.sleep(0.001)
            session["n"] = n + 1
            session["log"].append(number)
            inside -= 1

    async with Group() as group:
        for number in range(HANDLERS):
            group.start_soon(handler, number)
    left = await content(workers[0], cookie)
    assert left["n"] == HANDLERS
    assert sorted(left["log"]) == list(range(HANDLERS))


@each_plain_database
async def test_of_twenty_threads_that_check_then_act_one_acts(
    workers: list[SessionManager],
) -> None:
    cookie = await stored(workers[0], stock=1)
    charged: list[int] = []
    failures: list[BaseException] = []

    def handler(number: int) -> None:
        try:
            session = workers[number % 2].open(cookie)
            with session.lock(timeout=30):
                if "paid" not in session:
                    charged.append(number)
                    session["paid"] = number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=handler, args=(number,)) for number in range(HANDLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert failures == []
    assert len(charged) == 1
    assert await content(workers[1], cookie) == {"stock": 1, "paid": charged[0]}


@each_database
async def test_those_who_wait_leave_threads_and_connections_to_who_holds_the_lock(
    workers: list[SessionManager],
) -> None:
    cookie = await stored(workers[0], n=0)
    holder = await workers[0].aopen(cookie)

    async def wait() -> None:
        session = await workers[0].aopen(cookie)
        async with session.alock(timeout=30):
            pass

    async with Group() as group, holder.alock():
        for _ in range(3 * HANDLERS):
            group.start_soon(wait)
        with anyio.fail_after(PATIENCE):
            for _ in range(10):
                await holder.aincr("n")
                await anyio.sleep(0.01)
    assert await content(workers[1], cookie) == {"n": 10}


@each_plain_database
async def test_a_purge_spares_a_lease_that_is_taken_again_while_it_looks(
    workers: list[SessionManager],
) -> None:
    key, now, until = bytes(31) + b"k", 2_000, 9_000
    purging, claiming = (manager.store.store for manager in workers)
    retired = purging.scripts.schema.retired.name
    claims: list[bool] = []

    def claim(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("DELETE") and retired in statement and not claims:
            claims.append(claiming.claim(key, now, until))

    def play() -> None:
        for store in (purging, claiming):
            store.prepare()
        assert claiming.claim(key, 0, 1_000)
        event.listen(purging._make_ready()[0], "before_cursor_execute", claim)
        purging.purge(now, 100)
        assert claims == [True]
        assert not purging.claim(key, now, until + 1), "two hold it"

    await anyio.to_thread.run_sync(play)


@drivers("sqlite", "psycopg")
async def test_of_a_thousand_callers_one_takes_a_one_time_value(
    workers: list[SessionManager],
) -> None:
    cookie = await stored(workers[0], otp="4711", other=1)
    got: Counter[Any] = Counter()

    async def take(number: int) -> None:
        session = await workers[number % 2].aopen(cookie)
        got[await session.atake("otp", None)] += 1

    async with Group() as group:
        for number in range(CALLERS):
            group.start_soon(take, number)
    assert got == {"4711": 1, None: CALLERS - 1}
    assert await content(workers[1], cookie) == {"other": 1}


PROGRAM = f"""
import sys
from sessionware import SessionManager

store, table, cookie, mode = sys.argv[1:]
manager = SessionManager(
    secret_key={SECRET!r},
    store=store,
    table_name=table,
    purge_interval=None,
    # A lock outlives its holder by that much.
    store_timeout=2 if mode == "hang" else 20,
)
if mode == "hang":
    with manager.open(cookie).lock(hold=1):
        print("holding", flush=True)
        sys.stdin.read()
for _ in range({TURNS}):
    with manager.open(cookie).lock(timeout=30) as session:
        session["n"] += 1
print("done", flush=True)
manager.shutdown()
"""


class Processes:
    """Programs that lock one session."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._started: list[subprocess.Popen[str]] = []

    def start(self, mode: str) -> subprocess.Popen[str]:
        source = str(Path(sessionware.__path__[0]).parent)
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, *self._arguments, mode],
            env={**os.environ, "PYTHONPATH": source},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def __iter__(self) -> Iterator[subprocess.Popen[str]]:
        return iter(self._started)

    def end(self) -> None:
        for process in self:
            process.kill()
            process.communicate()


@pytest.mark.slow
@drivers("sqlite", "psycopg")
async def test_the_lock_holds_over_processes_and_ends_when_its_holder_is_killed(
    workers: list[SessionManager], url: str, table_name: str
) -> None:
    cookie = await stored(workers[0], n=0)
    processes = Processes(url, table_name, cookie)
    try:
        holder = processes.start("hang")
        assert holder.stdout is not None
        assert await anyio.to_thread.run_sync(holder.stdout.readline) == "holding\n"
        for _ in range(PROCESSES):
            processes.start("count")
        session = await workers[0].aopen(cookie)
        assert session["n"] == 0
        holder.send_signal(signal.SIGKILL)
        for process in list(processes)[1:]:
            out, err = await anyio.to_thread.run_sync(process.communicate)
            assert out == "done\n", err
    finally:
        processes.end()
    assert await content(workers[0], cookie) == {"n": PROCESSES * TURNS}
