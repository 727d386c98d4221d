"""The arithmetic for a fleet of any size, from what was measured here; not measured itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from sessionware.coherence.broadcast import GATHER_SECONDS

from . import figures
from .text import Table

_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Fleet:
    sessions: int = 100_000_000
    lifetime: int = 14 * _DAY
    active: int = 5_000_000
    every: float = 30
    """Seconds between two requests of an active session."""
    writing: float = 0.05
    idle_timeout: float = 1800
    cache_ttl: float = 30
    processes: int = 500
    homes: int = 500
    """To how many processes the requests of one session go."""


@dataclass(frozen=True)
class Here:
    """What one database, one process and one row take on this machine."""

    row_bytes: float
    cached_bytes: float
    reads: float
    """Requests a second that a worker serves which only reads, and the same for writes."""
    writes: float
    database_writes: float
    purged: float
    cold: float
    """Seconds by which a request takes longer that has to read its row, waiting included."""
    lookup: float
    """Seconds of a read by key in the largest table, one at a time."""


AS_IT_COMES = Fleet()
ROUTED = replace(AS_IT_COMES, homes=1, cache_ttl=300, idle_timeout=2 * 60 * 60)
"""Each session to one process, a longer ``cache_ttl``, a longer idle timeout."""


@dataclass(frozen=True)
class Line:
    what: str
    formula: str
    value: float
    unit: str = "a second"


def reckon(fleet: Fleet, here: Here) -> list[Line]:
    requests = fleet.active / fleet.every
    writes = requests * fleet.writing
    touches = fleet.active / (fleet.idle_timeout / 10)
    # Each process that a session comes to within cache_ttl reads it once.
    met = min(fleet.homes, max(1.0, fleet.cache_ttl / fleet.every))
    reads = fleet.active * met / max(fleet.cache_ttl, fleet.every)
    held = fleet.active * met / fleet.processes
    expiring = fleet.sessions / fleet.lifetime
    messages = min(writes, fleet.processes / GATHER_SECONDS)
    work = requests * ((1 - fleet.writing) / here.reads + fleet.writing / here.writes)
    work += reads * here.cold
    databases = (writes + touches) / here.database_writes + reads * here.lookup
    return [
        Line("requests R", "A / e", requests),
        Line("writes W", "R · w", writes),
        Line("touches U", "A / (T / 10)", touches),
        Line("reads by key Q", "A · m / max(t, e), m = min(h, max(1, t / e))", reads),
        Line("table", "S · B · 1.5", fleet.sessions * here.row_bytes * 1.5 / 1e9, "GB"),
        Line("cached sessions", "A · m / P", held, "a process"),
        Line("the cache's memory", "A · m / P · C", held * here.cached_bytes / 1e6, "MB a process"),
        Line("NOTIFY", f"min(W, P / {GATHER_SECONDS * 1000:g} ms)", messages),
        Line("their deliveries", "NOTIFY · P", messages * fleet.processes),
        Line("rows to purge X", "S / L", expiring),
        Line("time spent on it", "X / purged a second", expiring / here.purged * 100, "%"),
        Line(
            "processes, half busy", "2 · (R · ((1 - w) / r + w / v) + Q · c)",
            math.ceil(2 * work), "in all",
        ),
        Line("databases like this one", "(W + U) / D + Q · k", math.ceil(databases), "in all"),
    ]  # fmt: skip


def here(results: dict[str, Any]) -> Here | None:
    """PostgreSQL's figures, of the better of both drivers; None where one is missing."""
    names = ("sessionware-psycopg", "sessionware-asyncpg")

    def best(page: str) -> float | None:
        return max(
            figures.measured(names, lambda n: figures.served(results, n, page, "mine")).values(),
            default=None,
        )

    in_flight = figures.measured(names, lambda n: figures.per_second(results, n, "writes64"))
    purges = results.get("purge", {}).get("stores", {})
    largest = figures.sizes(results, "postgresql")[-1:]

    def colder(name: str) -> float | None:
        cold, warm = (figures.in_process(results, name, page) for page in ("cold", "read"))
        return None if cold is None or warm is None else (cold - warm) / 1e6

    found = [
        figures.bytes_per_row(results, "postgresql"),
        figures.cached_bytes(results),
        best("read"),
        best("write"),
        max(in_flight.values(), default=None),
        max((purges[name]["rows_per_second"] for name in names if name in purges), default=None),
        min(figures.measured(names, colder).values(), default=None),
        min((at["operations"]["lookup"]["ours"]["median"] / 1e6 for at in largest), default=None),
    ]
    values = [each for each in found if each is not None]
    return Here(*values) if len(values) == len(found) else None


def table(results: dict[str, Any]) -> Table:
    head = ["", "formula", "as it comes", "routed", ""]
    measured = here(results)
    if measured is None:
        return head, []
    both = zip(reckon(AS_IT_COMES, measured), reckon(ROUTED, measured), strict=True)
    return head, [
        [one.what, f"`{one.formula}`", _shown(one.value), _shown(two.value), one.unit]
        for one, two in both
    ]


def _shown(value: float) -> str:
    """Two digits that mean something: it is no more exact than that."""
    if value >= 100:
        power = 10 ** (math.floor(math.log10(value)) - 1)
        return f"{round(value / power) * power:,}"
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 or not value else f"{value:.2g}"


def givens(results: dict[str, Any]) -> Table:
    """What the letters of the formulae stand for."""
    head = ["", "", "as it comes", "routed"]
    measured = here(results)
    if measured is None:
        return head, []
    assumed = [
        ("S", "sessions stored", "sessions"), ("L", "their lifetime, s", "lifetime"),
        ("A", "active at a time", "active"), ("e", "s between requests of one", "every"),
        ("w", "share of requests that write", "writing"), ("T", "idle timeout, s", "idle_timeout"),
        ("t", "`cache_ttl`, s", "cache_ttl"), ("P", "processes", "processes"),
        ("h", "processes that a session comes to", "homes"),
    ]  # fmt: skip
    rows = [
        [letter, what, f"{getattr(AS_IT_COMES, name):,}", f"{getattr(ROUTED, name):,}"]
        for letter, what, name in assumed
    ]
    for letter, what, value in (
        ("B", "bytes of a row with its indexes, measured", measured.row_bytes),
        ("C", "bytes of a cached session, measured", measured.cached_bytes),
        ("r", "reads/s of a worker behind uvicorn, measured", measured.reads),
        ("v", "writes/s of such a worker, measured", measured.writes),
        ("D", "writes/s into one database, measured", measured.database_writes),
        ("c", "s more of a request that reads its row, measured", measured.cold),
        ("k", "s of a read by key in the largest table, measured", measured.lookup),
    ):
        rows.append([letter, what, _shown(value), _shown(value)])
    return head, rows
