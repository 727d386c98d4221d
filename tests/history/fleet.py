"""Worker processes, each on a port of its own, that share one database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio

import sessionware
from tests.history.wire import Connection, NoAnswer, NotSent
from tests.processes.servers import ROOT, START_TIMEOUT, free_port


class Worker:
    """One uvicorn process, which can be killed, frozen and started again."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self._folder = folder
        self._environment = environment
        self._log = folder / f"worker-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, in place of one that has died; ``wait`` says when it serves."""
        self.kill()
        command = ["uvicorn", "tests.history.app:app", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--no-access-log", "--log-level", "warning"]
        # A client may be slow to come back: only it closes connections.
        command += ["--timeout-keep-alive", "600"]
        source = Path(sessionware.__path__[0]).parent
        path = os.pathsep.join(map(str, (source, ROOT)))
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", *command],
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": path, **self._environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    async def wait(self) -> None:
        """Until it serves, and its channel to the others stands."""
        deadline = time.monotonic() + START_TIMEOUT
        connection = Connection(self.port)
        try:
            while True:
                try:
                    if (await connection.get("/ping")).body == b"ready":
                        return
                except (NotSent, NoAnswer):
                    pass
                if not self.is_running or time.monotonic() > deadline:
                    raise AssertionError(f"a worker does not come up\n{self.log}")
                await anyio.sleep(0.02)
        finally:
            connection.close()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        if self.is_running:
            assert self._process is not None
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)


class Fleet:
    """The workers of one application."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers

    @property
    def lines(self) -> list[Callable[[], Connection]]:
        """What makes a connection to each worker."""
        return [partial(Connection, worker.port) for worker in self.workers]

    @property
    def log(self) -> str:
        return "\n".join(worker.log for worker in self.workers)


@asynccontextmanager
async def running(
    folder: Path, store: str, *, workers: int = 4, table: str = "sessions", **settings: str
) -> AsyncIterator[Fleet]:
    """Run the workers until the block ends. ``settings`` are ``HISTORY_`` variables without that
    prefix, in lower case.
    """
    environment = {f"HISTORY_{name.upper()}": value for name, value in settings.items()}
    environment |= {"HISTORY_STORE": store, "HISTORY_TABLE": table}
    fleet = Fleet([Worker(folder, environment) for _ in range(workers)])
    try:
        for worker in fleet.workers:
            worker.start()
        for worker in fleet.workers:
            await worker.wait()
        yield fleet
    finally:
        for worker in fleet.workers:
            worker.kill()
