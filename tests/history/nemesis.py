"""What goes wrong while the clients work, and the play of both."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio.to_thread
import psycopg
from sqlalchemy.engine import make_url

from tests.faults.proxy import Proxy
from tests.history.checker import Report, check
from tests.history.driver import CLIENTS, Driver
from tests.history.fleet import Fleet
from tests.history.private import PrivateServer
from tests.history.records import Bounds, Operation

Strike = Callable[[random.Random], Awaitable[None]]
"""Breaks one thing and mends it, or leaves that to the system under test."""


def kill_a_worker(fleet: Fleet) -> Strike:
    """SIGKILL, and a new process at the same port."""

    async def strike(chance: random.Random) -> None:
        worker = chance.choice(fleet.workers)
        worker.kill()
        worker.start()
        await worker.wait()

    return strike


def freeze_a_worker(fleet: Fleet, seconds: float) -> Strike:
    """SIGSTOP for a while: the process does not notice."""

    async def strike(chance: random.Random) -> None:
        worker = chance.choice(fleet.workers)
        worker.freeze()
        await asyncio.sleep(seconds)
        worker.thaw()

    return strike


def end_backends(url: str, name: str) -> Strike:
    """End some of the PostgreSQL connections with this application's name, its listeners too."""
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

    def end(share: float) -> None:
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = %s AND random() < %s",
                (name, share),
            )

    async def strike(chance: random.Random) -> None:
        await anyio.to_thread.run_sync(end, chance.choice((0.3, 1.0)))

    return strike


def reset(proxy: Proxy) -> Strike:
    """Reset all connections through a proxy; new ones work."""

    async def strike(chance: random.Random) -> None:
        await anyio.to_thread.run_sync(proxy.reset)

    return strike


def go_away(proxy: Proxy, seconds: float) -> Strike:
    """Refuse connections for a while."""

    async def strike(chance: random.Random) -> None:
        await anyio.to_thread.run_sync(proxy.stop)
        await asyncio.sleep(seconds)
        proxy.start()

    return strike


def fall_silent(proxy: Proxy, seconds: float) -> Strike:
    """Let nothing through for a while, and tell nobody."""

    async def strike(chance: random.Random) -> None:
        proxy.freeze()
        await asyncio.sleep(seconds)
        proxy.thaw()

    return strike


def cut_a_statement(proxy: Proxy) -> Strike:
    """Cut a connection where it sends something: the statement or its answer is lost."""

    async def strike(chance: random.Random) -> None:
        proxy.cut_at(chance.randint(1, 8), "after" if chance.random() < 0.8 else "before")
        await asyncio.sleep(0.05)

    return strike


def kill_the_server(server: PrivateServer, seconds: float) -> Strike:
    """Kill a database server, and start it again after a while."""

    async def strike(chance: random.Random) -> None:
        await anyio.to_thread.run_sync(server.kill)
        await asyncio.sleep(seconds * chance.random())
        await anyio.to_thread.run_sync(server.start)

    return strike


def take_away(path: Path) -> Strike:
    """Delete a file that is in use."""

    async def strike(chance: random.Random) -> None:
        path.unlink(missing_ok=True)

    return strike


class Play:
    """Clients and nemeses at work on one fleet, and what the checker says of it.

    For ``calm_seconds`` nothing is broken; then each of ``strikes`` comes again and again, with
    about ``pause`` seconds between. Bounds are the checker's; ``tail`` is how many seconds after a
    strike the ``rough`` bound holds.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        strikes: Sequence[Strike] = (),
        pause: float = 1.0,
        calm: float = 0.0,
        rough: float | None = None,
        tail: float = 3.0,
        replays: bool = False,
        clients: int = CLIENTS,
    ) -> None:
        self._fleet = fleet
        self._strikes = strikes
        self._pause = pause
        self._calm = calm
        self._rough = rough
        self._tail = tail
        self._replays = replays
        self._clients = clients
        self._chance = random.Random()
        self._troubles: list[tuple[float, float]] = []
        self.strikes_done = 0
        self.history: list[Operation] = []
        self.statuses: Counter[int] = Counter()
        self.seconds = 0.0

    async def run(
        self, seconds: float, *, calm_seconds: float = 0.0, settle: float = 0.5, most: int = 10**9
    ) -> Report:
        """Play for so long (or so many operations), look at everything, and check."""
        self._troubles.clear()
        driver = Driver(self._fleet.lines, self._chance.randrange(2**32), clients=self._clients)
        begun = driver.now()
        await driver.run(calm_seconds, most)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for strike in self._strikes:
                group.create_task(self._haunt(strike, over))
            await driver.run(seconds, most)
            over.set()
        self.seconds = driver.now() - begun
        rate = len(driver.history) / self.seconds
        await driver.settle(settle)
        self.history = driver.history
        self.statuses = Counter(driver.statuses)
        bounds = Bounds(self._calm, self._rough, self._troubles)
        report = check(self.history, bounds, replays=self._replays)
        print(
            f"{report.operations} operations, {rate:.0f} a second, {self.strikes_done} strikes,"
            f" statuses {dict(self.statuses)}, {len(report.violations)} violations,"
            f" {len(report.lateness)} late reads: median {report.percentile(0.5) * 1000:.1f} ms,"
            f" 99 % {report.percentile(0.99) * 1000:.1f} ms,"
            f" worst {report.percentile(1) * 1000:.1f} ms"
        )
        return report

    async def _haunt(self, strike: Strike, over: asyncio.Event) -> None:
        while not over.is_set():
            begun = time.perf_counter()
            await strike(self._chance)
            self._troubles.append((begun, time.perf_counter() + self._tail))
            self.strikes_done += 1
            try:
                async with asyncio.timeout(self._pause * self._chance.uniform(0.5, 1.5)):
                    await over.wait()
            except TimeoutError:
                continue

    @property
    def errors(self) -> list[Operation]:
        """Answers of 500 that the app did not mean."""
        return [each for each in self.history if each.status == 500 and each.kind != "boom"]

    @property
    def unanswered(self) -> int:
        """How many requests failed for want of a worker or a database."""
        return self.statuses[0] + self.statuses[503]
