"""How long requests take while 100,000 expired rows are purged in the same process.

Windows with and without a purge take turns. The load is paced, well below what the process could
do, and a request's time counts from the moment it was due: what waits for a blocked event loop
counts too.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import gc
import json
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from starlette.middleware import Middleware

from sessionware import SessionManager, SessionMiddleware

from .calling import AsgiCaller
from .peers.ours import manager_for
from .peers.starlette_peers import HANDLERS, application
from .rows import Tick, check, cookie_of, copies, drop, fill, one_row, settle
from .site import LIFETIME, Place

STORES = {
    "sessionware-sqlite": "sqlite",
    "sessionware-aiosqlite": "aiosqlite",
    "sessionware-psycopg": "psycopg",
    "sessionware-asyncpg": "asyncpg",
}
RATE = 400
WRITES = 0.2
VISITED = 2_000
"""Sessions that are asked for; each window begins with an empty cache."""
_MONTH = 30 * 24 * 60 * 60 * 1000


@dataclass
class Window:
    """What was seen in one of them: milliseconds a request."""

    seconds: float
    times: list[float]
    batches: list[float] = field(default_factory=list)


class Bench:
    def __init__(self, manager: SessionManager, place: Place, driver: str) -> None:
        self.manager, self.place, self.driver = manager, place, driver
        self.app = application(HANDLERS, [Middleware(SessionMiddleware, manager=manager)])
        self.caller = AsgiCaller()
        self.cookies = [cookie_of(manager, number) for number in range(VISITED)]
        self.written = [0] * VISITED
        self._chance = random.Random(7)
        self._turns = cycle(range(VISITED))
        self._batches: list[float] = []
        self._time_batches()

    def _time_batches(self) -> None:
        store: Any = self.manager.store.store
        name = "purge" if hasattr(store, "purge") else "apurge"
        method = getattr(store, name)

        def purge(*args: Any, **kwargs: Any) -> Any:
            start = perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._batches.append((perf_counter() - start) * 1000)

        async def apurge(*args: Any, **kwargs: Any) -> Any:
            start = perf_counter()
            try:
                return await method(*args, **kwargs)
            finally:
                self._batches.append((perf_counter() - start) * 1000)

        setattr(store, name, purge if name == "purge" else apurge)

    async def window(self, over: Callable[[], Awaitable[object]]) -> Window:
        """Load until ``over`` has returned."""
        self.manager.store.cache.clear()
        self._batches.clear()
        ending = asyncio.ensure_future(over())
        times: list[float] = []
        asked: set[asyncio.Task[None]] = set()
        start, number = perf_counter(), 0
        while not ending.done():
            due = start + number / RATE
            await asyncio.sleep(max(0.0, due - perf_counter()))
            task = asyncio.create_task(self._ask(due, times))
            asked.add(task)
            task.add_done_callback(asked.discard)
            number += 1
        seconds = perf_counter() - start
        await asyncio.gather(*asked)
        await ending
        return Window(seconds, times, self._batches.copy())

    async def _ask(self, due: float, times: list[float]) -> None:
        page, which = "read", self._chance.randrange(VISITED)
        if self._chance.random() < WRITES:
            # In turn: of two that count up the same value at once, one counts in vain.
            page, which = "write", next(self._turns)
            self.written[which] += 1
        await self.caller.one_by_one(self.app, page, self.cookies[which], 1)
        times.append((perf_counter() - due) * 1000)

    async def purge(self) -> int:
        """As the manager does it in the background, but now."""
        if self.driver in ("aiosqlite", "asyncpg"):
            return await self.manager.apurge(exact=False)
        return await asyncio.to_thread(self.manager.purge, exact=False)

    async def check(self) -> None:
        """Every request was answered, and every write is there."""
        if self.caller.failures:
            raise ValueError(f"{self.caller.failures} requests were not answered with 200")
        for cookie, wanted in zip(self.cookies, self.written, strict=True):
            reply = await self.caller.ask(self.app, "show", cookie)
            found = json.loads(reply.body)["n"]
            if found != wanted:
                raise ValueError(f"{wanted} writes were acknowledged, {found} are there")


def measure(folder: Path, name: str, expired: int, rounds: int, tick: Tick) -> dict[str, Any]:
    import uvloop

    driver = STORES[name]
    place = Place(folder, f"purge-{driver}")
    blocking = "psycopg" if driver == "asyncpg" else driver.removeprefix("aio")
    try:
        row = one_row(place, blocking)
        # As many that live lie around those that are purged.
        fill(place, driver, copies(row, VISITED + expired))
        checking = manager_for(place, blocking)
        check(checking, 0, VISITED - 1)
        checking.shutdown()
        manager = manager_for(place, driver)

        def expire(number: int) -> None:
            def hashed(at: int) -> bytes:
                return sha256(b"expired %d %d" % (number, at)).digest()

            rows = copies(row, expired, hashed=hashed, age=LIFETIME * 1000 + _MONTH)
            fill(place, driver, rows)
            settle(place, driver)

        quiet, purging = uvloop.run(_windows(manager, place, driver, expire, expired, rounds, tick))
    finally:
        drop(place, driver)
    return _summary(quiet, purging, expired)


async def _windows(
    manager: SessionManager,
    place: Place,
    driver: str,
    expire: Callable[[int], None],
    expired: int,
    rounds: int,
    tick: Tick,
) -> tuple[list[Window], list[Window]]:
    bench = Bench(manager, place, driver)
    gc.collect()
    gc.freeze()
    quiet: list[Window] = []
    purging: list[Window] = []
    # Until channels, connections and caches are as in normal running.
    await bench.window(lambda: asyncio.sleep(1.0))
    for number in range(rounds):
        if number % 2:
            await _quiet(bench, quiet, purging[-1].seconds)
        await asyncio.to_thread(expire, number)
        gone: list[int] = []

        async def over(gone: list[int] = gone) -> None:
            gone.append(await bench.purge())

        purging.append(await bench.window(over))
        if gone != [expired]:
            raise ValueError(f"{gone} of {expired} expired rows were purged")
        if not number % 2:
            await _quiet(bench, quiet, purging[-1].seconds)
        tick(f"purge beside load: {driver}")
    await bench.check()
    await manager.ashutdown()
    return quiet, purging


async def _quiet(bench: Bench, quiet: list[Window], seconds: float) -> None:
    await asyncio.to_thread(settle, bench.place, bench.driver)
    quiet.append(await bench.window(lambda: asyncio.sleep(seconds)))


def percentile(times: list[float], percent: float) -> float:
    """The value that so many percent of all are not above."""
    ordered = sorted(times)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _summary(quiet: list[Window], purging: list[Window], expired: int) -> dict[str, Any]:
    def of(windows: list[Window]) -> dict[str, float]:
        times = [each for window in windows for each in window.times]
        return {
            "requests": len(times),
            "p50": percentile(times, 50),
            "p99": percentile(times, 99),
            "max": max(times),
        }

    moved = [
        percentile(with_it.times, 99) - percentile(without.times, 99)
        for with_it, without in zip(purging, quiet, strict=True)
    ]
    batches = [each for window in purging for each in window.batches]
    return {
        "quiet": of(quiet),
        "purging": of(purging),
        "moved_p99": median(moved),
        "seconds": median(window.seconds for window in purging),
        "rows_per_second": expired / median(window.seconds for window in purging),
        "longest_batch": max(batches),
        "batches": len(batches),
    }
