"""How late a worker sees what another one has acknowledged, measured one change at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import closing

from tests.history.fleet import Fleet
from tests.history.records import value_text
from tests.history.wire import Answer, Connection, NoAnswer

PATIENCE = 40.0


class Probe:
    """One session, which the first worker changes and the second one reads."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        lines = fleet.lines
        self._writer, self._reader = lines[0](), lines[1]()
        self._name = name
        self._number = 0
        self._token = ""

    async def begin(self) -> None:
        """Make the session, and have the reader cache it."""
        answer = await self._ask(self._writer, "create")
        assert answer.cookie
        self._token = answer.cookie
        await self.read()

    async def _ask(self, connection: Connection, kind: str, more: str = "") -> Answer:
        self._number += 1
        path = f"/{kind}?s={self._name}&i={self._number}&k=k&{more}"
        return await connection.get(path, self._token or None)

    async def read(self) -> dict[str, object]:
        """What the second worker finds."""
        answer = await self._ask(self._reader, "read")
        assert answer.status == 200, answer
        seen: dict[str, object] = answer.json()["seen"]
        return seen

    async def change(self) -> float:
        """Change a value; the seconds after the answer at which it still was not seen."""
        answer = await self._ask(self._writer, "set", "x=")
        acknowledged = time.perf_counter()
        assert answer.status == 200, answer
        return await self.lag(acknowledged, value_text(self._name, self._number, None))

    async def end(self, how: str = "logout") -> float:
        """End the session; the seconds after the answer at which it was still there."""
        answer = await self._ask(self._writer, how, "u=u1")
        acknowledged = time.perf_counter()
        assert answer.status == 200, answer
        return await self.lag(acknowledged, None)

    async def login(self) -> None:
        """Log in, and have the reader cache that."""
        answer = await self._ask(self._writer, "login", "u=u1")
        assert answer.cookie
        self._token = answer.cookie
        assert (await self.read())["user_id"] == "u1"

    async def crash(self, kind: str) -> float:
        """Have the first worker die at a change that it has committed; when that was."""
        try:
            answer = await self._ask(self._writer, kind, "u=u1")
        except NoAnswer:
            return time.perf_counter()
        raise AssertionError(f"the worker has survived and says {answer.status}")

    async def lag(self, since: float, value: str | None) -> float:
        """When the last read that did not see the change began, in seconds since then; 0.0 if each
        one saw it.
        """
        last = 0.0
        while (sent := time.perf_counter()) < since + PATIENCE:
            seen = await self.read()
            if (seen.get("k") if value is not None else seen.get("sid")) == value:
                return last
            last = sent - since
            await asyncio.sleep(0.001)
        raise AssertionError(f"not seen within {PATIENCE:g} seconds")

    def close(self) -> None:
        self._writer.close()
        self._reader.close()


async def changes(fleet: Fleet, rounds: int, name: str = "p") -> list[float]:
    """The staleness of so many changes, one after the other, and of the end."""
    with closing(Probe(fleet, name)) as probe:
        await probe.begin()
        found = [await probe.change() for _ in range(rounds)]
        found.append(await probe.end())
    return found


async def changes_in_the_dark(probes: Sequence[Probe], step: float) -> list[float]:
    """The staleness of changes at different times, each in a session of its own that the reader has
    cached.
    """

    async def one(number: int, probe: Probe) -> float:
        await asyncio.sleep(number * step)
        return await (probe.change() if number % 2 else probe.end())

    return list(await asyncio.gather(*(one(*each) for each in enumerate(probes))))


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def describe(name: str, values: Sequence[float]) -> str:
    """A line for the log of a test."""
    parts = (f"{share:.0%} {percentile(values, share) * 1000:.1f} ms" for share in (0.5, 0.99, 1.0))
    return f"{name}: {len(values)} changes, staleness {', '.join(parts)}"
