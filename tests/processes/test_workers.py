"""Four uvicorn workers and one database: what one was told, all know (R25, R27, R30, R45, R48)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

import sessionware
from tests.apps import SECRET
from tests.processes.servers import WORKERS, Server, serving, worker_of

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WRITERS = 50
KILLS = 4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(
    params=[
        pytest.param("sqlite", id="SQLite"),
        pytest.param("postgres", id="PostgreSQL", marks=pytest.mark.postgres),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def server(store: str, table_name: str, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(store, tmp_path, table_name) as running:
        yield running


async def test_four_workers_agree_on_logout_rotation_and_parallel_writes(server: Server) -> None:
    """One server for all of it: starting four workers takes longer than what they are asked."""
    await workers_starting_on_a_fresh_database_all_serve(server)
    for path in ("/logout", "/clear"):
        await an_ended_session_is_ended_on_every_worker_at_once(server, path)
    for path in ("/rotate", "/login?user=bob"):
        await a_rotated_id_is_dead_and_the_new_one_alive_on_every_worker_at_once(server, path)
    writers: set[int] = set()
    for _ in range(3):
        writers |= await fifty_parallel_writers_of_one_session_lose_nothing(server)
    assert len(writers) > 1, "one worker got them all, which proves nothing"
    assert "Traceback" not in server.log
    assert " 500 " not in server.log


async def workers_starting_on_a_fresh_database_all_serve(server: Server) -> None:
    """Their first requests, all at once, are what makes the tables."""
    statuses = []

    async def first() -> None:
        statuses.append((await server.get("/write?k=v")).status_code)

    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(first)
    assert statuses == [200] * 40


async def logged_in_everywhere(server: Server) -> str:
    """A session that every worker has in its cache."""
    token = (await server.get("/login?user=alice")).cookies["session"]
    answers = await server.ask_every_worker("/read", token)
    assert len(answers) == WORKERS
    assert all(each == {"user_id": "alice"} for given in answers.values() for each in given)
    return str(token)


async def an_ended_session_is_ended_on_every_worker_at_once(server: Server, path: str) -> None:
    token = await logged_in_everywhere(server)
    assert (await server.get(path, token)).status_code == 200
    answers = await server.ask_every_worker("/read", token)
    assert all(each == {} for given in answers.values() for each in given), answers


async def a_rotated_id_is_dead_and_the_new_one_alive_on_every_worker_at_once(
    server: Server, path: str
) -> None:
    old = await logged_in_everywhere(server)
    answer = await server.get(path, old)
    new = answer.cookies["session"]
    assert new != old
    dead = await server.ask_every_worker("/read", old)
    assert all(each == {} for given in dead.values() for each in given), dead
    alive = await server.ask_every_worker("/read", new)
    assert all(each == answer.json() for given in alive.values() for each in given), alive


async def fifty_parallel_writers_of_one_session_lose_nothing(server: Server) -> set[int]:
    token = (await server.get("/write?first=0")).cookies["session"]
    workers: set[int] = set()

    async def write(number: int) -> None:
        answer = await server.get(f"/write?key{number}={number}", token)
        assert answer.status_code == 200, answer.text
        workers.add(worker_of(answer))

    async with anyio.create_task_group() as group:
        for number in range(WRITERS):
            group.start_soon(write, number)
    stored = (await server.get("/read", token)).json()
    expected = {f"key{number}": str(number) for number in range(WRITERS)}
    assert stored == {"first": "0", **expected}
    return workers


async def test_a_worker_killed_right_after_its_answer_has_lost_nothing(
    tmp_path: Path, table_name: str
) -> None:
    async with serving(f"sqlite:///{tmp_path / 'shared.db'}", tmp_path, table_name) as server:
        token = (await server.get("/write?first=0")).cookies["session"]
        for number in range(KILLS):
            answer = await server.patient_get(f"/write?key{number}={number}", token)
            os.kill(worker_of(answer), signal.SIGKILL)
            stored = (await server.patient_get("/read", token)).json()
            assert stored == {"first": "0", **{f"key{n}": str(n) for n in range(number + 1)}}


async def test_no_worker_logs_an_id_a_cookie_the_secret_or_session_data(
    tmp_path: Path, table_name: str
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    async with serving(url, tmp_path, table_name, log="debug") as server:
        first = await server.get("/write?marker=PAYLOAD-MARKER")
        tokens = [first.cookies["session"]]
        for path in ("/read", "/login?user=alice", "/append?item=x", "/rotate", "/boom", "/read"):
            answer = await server.get(path, tokens[-1])
            tokens += answer.cookies.values()
        await server.get("/logout", tokens[-1])
    log = server.log
    assert "sqlalchemy.engine" in log
    secrets = [SECRET, "PAYLOAD-MARKER", *(part for token in tokens for part in token.split("."))]
    found = [line for line in log.splitlines() if any(secret in line for secret in secrets)]
    assert found == []


STARTING = f"""
import sys
from sessionware import SessionManager

print("ready", flush=True)
for store in sys.stdin:
    manager = SessionManager(
        secret_key={SECRET!r}, store=store.strip(), purge_interval=None, store_timeout=10
    )
    session = manager.open(None)
    session["k"] = "v"
    print(dict(manager.close(session))["Set-Cookie"].partition(";")[0], flush=True)
    manager.shutdown()
"""


def test_workers_that_start_at_the_same_time_on_a_fresh_database_file_all_get_through(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-W", "error", "-c", STARTING]
    source = str(Path(sessionware.__path__[0]).parent)
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": source},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(WORKERS)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for number in range(12):
            cookies = list(start_on(workers, f"sqlite:///{tmp_path}/{number}.db"))
            assert len(set(cookies)) == WORKERS
            assert all(cookie.startswith("session=") for cookie in cookies), errors_of(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def start_on(workers: list[subprocess.Popen[str]], store: str) -> Iterator[str]:
    """Set them all off, then collect what each has to say."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{store}\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdout is not None
        yield worker.stdout.readline()


def errors_of(workers: list[subprocess.Popen[str]]) -> str:
    return "".join(worker.stderr.read() for worker in workers if worker.stderr and worker.poll())
