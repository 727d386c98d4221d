"""A server with its workers, in processes of their own, and clients that are real connections."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2

import sessionware
from tests.apps import COOKIE

WORKERS = 4
START_TIMEOUT = 40
STOP_TIMEOUT = 15
MOST_PROBES = 2_000
# A larger one would be accepted by one worker as a whole.
BURST = 5
ROOT = Path(__file__).resolve().parents[2]


class Server:
    """``WORKERS`` workers behind one port of 127.0.0.1."""

    def __init__(
        self,
        port: int,
        process: subprocess.Popen[bytes],
        log: Path,
        client: httpx2.AsyncClient,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self._log = log
        self._client = client

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    async def get(self, path: str, token: str | None = None) -> httpx2.Response:
        """One request over a connection of its own, so that any worker may get it."""
        cookie = {} if token is None else {"Cookie": f"{COOKIE}={token}"}
        answer = await self._client.get(self.url + path, headers=cookie)
        self._client.cookies.clear()
        return answer

    async def patient_get(self, path: str, token: str | None = None) -> httpx2.Response:
        """As ``get``, while workers are being replaced: a broken connection is tried again."""
        for _ in range(100):
            try:
                return await self.get(path, token)
            except httpx2.TransportError:
                await anyio.sleep(0.05)
        raise AssertionError(f"no worker answers\n{self.log}")

    async def ask_every_worker(
        self, path: str, token: str | None, least: int = 3
    ) -> dict[int, list[Any]]:
        """What each worker answers, at least so many times each."""
        answers: dict[int, list[Any]] = defaultdict(list)

        async def ask() -> None:
            answer = await self.get(path, token)
            assert answer.status_code == 200, answer.text
            answers[worker_of(answer)].append(answer.json())

        for _ in range(MOST_PROBES // BURST):
            async with anyio.create_task_group() as group:
                for _ in range(BURST):
                    group.start_soon(ask)
            if len(answers) == WORKERS and min(map(len, answers.values())) >= least:
                return answers
        raise AssertionError(f"the workers gave {[len(each) for each in answers.values()]} answers")


def worker_of(response: httpx2.Response) -> int:
    return int(response.headers["x-worker"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(
    store: str, folder: Path, table_name: str, log: str = "info"
) -> AsyncIterator[Server]:
    """Run uvicorn's workers until the block ends."""
    command = ["uvicorn", "tests.processes.served:app", "--workers", str(WORKERS)]
    command += ["--no-access-log", "--log-level", log]

    def is_up(text: str) -> bool:
        return text.count("Application startup complete") >= WORKERS

    def listen(port: int) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(port)]

    settings = {"SERVED_STORE": store, "SERVED_TABLE": table_name, "SERVED_LOG": log}
    async with running(command, listen, folder, settings, is_up) as server:
        yield server


@asynccontextmanager
async def running(
    command: Sequence[str],
    listen: Callable[[int], Sequence[str]],
    folder: Path,
    settings: Mapping[str, str],
    is_up: Callable[[str], bool],
) -> AsyncIterator[Server]:
    """Run a module that is a server until the block ends, whatever happens in it.

    ``listen`` gives the arguments for a port, ``settings`` are environment variables, and ``is_up``
    sees in the log that it serves.
    """
    port = free_port()
    source = Path(sessionware.__path__[0]).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (source, ROOT))),
        **settings,
    }
    log_file = folder / "server.log"
    with log_file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", *command, *listen(port)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Its own group, so that no worker outlives the test.
            start_new_session=True,
        )
    try:
        async with httpx2.AsyncClient(
            limits=httpx2.Limits(max_keepalive_connections=0), timeout=20, trust_env=False
        ) as client:
            server = Server(port, process, log_file, client)
            await wait_for_log(server, is_up)
            yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _end_group(process.pid)


async def wait_for_log(server: Server, is_there: Callable[[str], bool]) -> None:
    """Until the server has logged what the test waits for."""
    deadline = time.monotonic() + START_TIMEOUT
    while not is_there(server.log):
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the server does not come up\n{server.log}")
        await anyio.sleep(0.05)


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
