"""gunicorn: many threads of one process, and workers forked from a parent that was in use."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.processes.gunicorns import THREADS, preloading, threading, wait_for_workers
from tests.processes.servers import WORKERS, Server
from tests.processes.test_workers import (
    fifty_parallel_writers_of_one_session_lose_nothing,
    logged_in_everywhere,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
]
pytest.importorskip("gunicorn")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def store_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{folder / 'shared.db'}"
    return str(request.getfixturevalue("postgres_url"))


STORES = [
    pytest.param("sqlite", id="SQLite"),
    pytest.param("postgres", id="PostgreSQL", marks=pytest.mark.postgres),
]


@pytest.fixture(params=STORES)
async def threaded(
    request: pytest.FixtureRequest, tmp_path: Path, table_name: str
) -> AsyncIterator[Server]:
    store = store_of(request.param, request, tmp_path)
    async with threading(store, tmp_path, table_name) as server:
        yield server


@pytest.fixture(
    params=[
        pytest.param(("sqlite", "gthread"), id="SQLite, gthread"),
        pytest.param(("sqlite", "sync"), id="SQLite, sync"),
        pytest.param(("postgres", "gthread"), id="PostgreSQL, gthread", marks=pytest.mark.postgres),
    ]
)
async def preloaded(
    request: pytest.FixtureRequest, tmp_path: Path, table_name: str
) -> AsyncIterator[Server]:
    kind, worker_class = request.param
    store = store_of(kind, request, tmp_path)
    async with preloading(store, tmp_path, table_name, worker_class) as server:
        yield server


async def all_at_once(server: Server, paths: list[str], tokens: list[Any]) -> list[Any]:
    """The answers' bodies, in the order of the paths."""
    answers: dict[int, Any] = {}

    async def ask(number: int) -> None:
        answer = await server.get(paths[number], tokens[number])
        assert answer.status_code == 200, f"{answer.text}\n{server.log}"
        answers[number] = answer

    async with anyio.create_task_group() as group:
        for number in range(len(paths)):
            group.start_soon(ask, number)
    return [answers[number] for number in range(len(paths))]


async def token_of_new(server: Server, path: str) -> str:
    return str((await server.get(path)).cookies["session"])


async def test_thirty_two_threads_at_once_lose_nothing(threaded: Server) -> None:
    """A barrier in the app proves that all of them are in it at the same time."""
    await writers_of_one_session_each_keep_their_key(threaded)
    await increments_of_one_session_are_exact(threaded)
    await each_of_many_sessions_is_its_own(threaded)
    assert "Traceback" not in threaded.log


async def writers_of_one_session_each_keep_their_key(server: Server) -> None:
    token = await token_of_new(server, "/write?first=0")
    paths = [f"/together/write?key{number}={number}" for number in range(THREADS)]
    await all_at_once(server, paths, [token] * THREADS)
    stored = (await server.get("/read", token)).json()
    assert stored == {"first": "0", **{f"key{n}": str(n) for n in range(THREADS)}}


async def increments_of_one_session_are_exact(server: Server) -> None:
    token = await token_of_new(server, "/write?first=0")
    answers = await all_at_once(server, ["/together/incr"] * THREADS, [token] * THREADS)
    assert sorted(answer.json() for answer in answers) == list(range(1, THREADS + 1))
    more = await all_at_once(server, ["/incr"] * 2 * THREADS, [token] * 2 * THREADS)
    assert max(answer.json() for answer in more) == 3 * THREADS
    assert (await server.get("/read", token)).json() == {"first": "0", "n": 3 * THREADS}


async def each_of_many_sessions_is_its_own(server: Server) -> None:
    paths = [f"/together/write?own={number}" for number in range(THREADS)]
    created = await all_at_once(server, paths, [None] * THREADS)
    tokens = [answer.cookies["session"] for answer in created]
    assert len(set(tokens)) == THREADS
    for _ in range(2):
        read = await all_at_once(server, ["/read"] * THREADS, tokens)
        assert [answer.json() for answer in read] == [{"own": str(n)} for n in range(THREADS)]


async def test_workers_forked_from_a_parent_in_use_share_nothing_with_it(
    preloaded: Server,
) -> None:
    """One server for all of it: starting it takes longer than what it is asked."""
    await every_worker_has_threads_and_connections_of_its_own(preloaded)
    await an_ended_session_is_ended_on_every_worker_soon(preloaded)
    writers = await fifty_parallel_writers_of_one_session_lose_nothing(preloaded)
    assert len(writers) > 1, "one worker got them all, which proves nothing"
    await a_worker_that_is_killed_is_replaced_by_one_that_works(preloaded)
    await every_worker_has_threads_and_connections_of_its_own(preloaded)
    assert "Traceback" not in preloaded.log, preloaded.log


async def an_ended_session_is_ended_on_every_worker_soon(server: Server) -> None:
    """Word of it takes milliseconds where workers tell each other."""
    token = await logged_in_everywhere(server)
    assert (await server.get("/logout", token)).status_code == 200
    with anyio.fail_after(5):
        while any(map(any, (await server.ask_every_worker("/read", token)).values())):
            pass


async def every_worker_has_threads_and_connections_of_its_own(server: Server) -> None:
    """Each has just served the session that the parent made before it forked."""
    token = await token_of_parent(server)
    seen = await server.ask_every_worker("/read", token)
    assert all(each == {"parent": "was here"} for given in seen.values() for each in given)
    found = {pid: given[-1] for pid, given in (await processes(server)).items()}
    parent = next(iter(found.values()))["parent"]
    assert parent["pid"] == server.process.pid
    assert {"sessionware-purge", "sessionware-store"} <= set(parent["threads"])
    assert parent["cached"] == 1
    assert set(found) & {parent["pid"]} == set()
    for process in found.values():
        assert process["foreign"] == []
        assert process["threads"] == parent["threads"]
    used = [set(process["backends"]) - {0} for process in found.values()]
    used.append(set(next(iter(found.values()))["parents"]) - {0})
    assert len(set.union(*used)) == sum(map(len, used)), "a connection is shared"


async def token_of_parent(server: Server) -> str:
    return str((await server.get("/process")).json()["parent"]["token"])


async def processes(server: Server) -> dict[int, list[Any]]:
    return await server.ask_every_worker("/process", None)


async def a_worker_that_is_killed_is_replaced_by_one_that_works(server: Server) -> None:
    token = await token_of_parent(server)
    before = set(await server.ask_every_worker("/read", token))
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    await wait_for_workers(server, WORKERS + 1)
    seen = await server.ask_every_worker("/read", token)
    assert len(set(seen) - before) == 1
    assert killed not in seen
    assert all(each == {"parent": "was here"} for given in seen.values() for each in given)
