"""gunicorn with its workers, in processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.processes.servers import WORKERS, Server, running, wait_for_log

THREADS = 32


@asynccontextmanager
async def preloading(
    store: str, folder: Path, table_name: str, worker_class: str
) -> AsyncIterator[Server]:
    """Workers that are forked from a parent that has used sessions already."""
    command = ["--preload", "--workers", str(WORKERS), "--worker-class", worker_class]
    if worker_class == "gthread":
        command += ["--threads", "4"]
    async with _gunicorn(command, store, folder, table_name, WORKERS, used="1") as server:
        yield server


@asynccontextmanager
async def threading(store: str, folder: Path, table_name: str) -> AsyncIterator[Server]:
    """One worker with ``THREADS`` threads."""
    command = ["--workers", "1", "--worker-class", "gthread", "--threads", str(THREADS)]
    async with _gunicorn(command, store, folder, table_name, 1) as server:
        yield server


@asynccontextmanager
async def _gunicorn(
    command: list[str], store: str, folder: Path, table_name: str, workers: int, used: str = ""
) -> AsyncIterator[Server]:
    # Python 3.12 and later warn of every fork of a process that has threads, whoever's they are.
    settings = {
        "SERVED_STORE": store,
        "SERVED_TABLE": table_name,
        "SERVED_USED": used,
        "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
    }
    common = ["gunicorn", "tests.processes.served_wsgi:app", "--no-control-socket"]
    common += ["--graceful-timeout", "5", "--log-level", "info"]
    async with running(
        [*common, *command],
        lambda port: ["--bind", f"127.0.0.1:{port}"],
        folder,
        settings,
        lambda text: booted(text) >= workers,
    ) as server:
        yield server


def booted(log: str) -> int:
    """How many workers the server has started so far."""
    return log.count("Booting worker with pid")


async def wait_for_workers(server: Server, count: int) -> None:
    """Until so many workers have been started, those that are gone among them."""
    await wait_for_log(server, lambda text: booted(text) >= count)
