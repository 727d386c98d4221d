"""The parts of a whole run that are measured apart from requests: scale, purge, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import memory, purge, scale
from .apart import apart
from .workers import Failed

REQUESTS: Final = ("requests", "server")
APART: Final = ("scale", "purge", "memory")
ALL: Final = (*REQUESTS, *APART)


@dataclass(frozen=True)
class Sizes:
    """How much of each is done."""

    rows: tuple[int, ...] = scale.ROWS
    calls: int = 2_000
    expired: int = 100_000
    windows: int = 5
    sessions: int = 20_000
    fills: int = 1_000_000
    max_bytes: int = 64 * 1024 * 1024
    traced: float = 0.2
    """The share of the fills that are made under tracemalloc, which is slow."""


def measure(
    part: str, sizes: Sizes, folder: Path, *, postgres: bool, tick: Callable[[str], None]
) -> dict[str, Any]:
    """One part; what of it failed is under ``failed``, by name."""
    match part:
        case "scale":
            names = [name for name in scale.STORES if postgres or name == "sqlite"]
            order: dict[str, Any] = {"sizes": sizes.rows, "calls": sizes.calls}
            stores = _each(names, lambda store: apart(part, folder, tick, store=store, **order))
            return {**order, **stores}
        case "purge":
            names = [
                name
                for name, driver in purge.STORES.items()
                if postgres or driver.endswith("sqlite")
            ]
            order = {"expired": sizes.expired, "rounds": sizes.windows}
            stores = _each(names, lambda name: apart(part, folder, tick, name=name, **order))
            return {**order, "rate": purge.RATE, "writes": purge.WRITES, **stores}
        case _:
            return _memory(sizes, folder, tick)


def _each(
    names: Iterable[str], work: Callable[[str], dict[str, Any]], under: str = "stores"
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            found[name] = work(name)
        except Failed as problem:
            failed[name] = str(problem)
    return {under: found, "failed": failed}


def _memory(sizes: Sizes, folder: Path, tick: Callable[[str], None]) -> dict[str, Any]:
    def session(how: str) -> dict[str, Any]:
        order = {"what": "session", "sessions": sizes.sessions}
        return apart("memory", folder, tick, traced=how == "allocated", **order)

    def budget(case: str) -> dict[str, Any]:
        order: dict[str, Any] = {"what": case, "max_bytes": sizes.max_bytes}
        fills = round(sizes.fills * sizes.traced)
        return {
            "allocated": apart("memory", folder, tick, traced=True, fills=fills, **order),
            "resident": apart("memory", folder, tick, traced=False, fills=sizes.fills, **order),
        }

    one = _each(("allocated", "resident"), session, "session")
    full = _each(memory.CASES, budget, "budget")
    return {**one, **full, "failed": one["failed"] | full["failed"]}


def steps(part: str, sizes: Sizes) -> int:
    """About how often a part says that it goes on."""
    match part:
        case "scale":
            per_store = sum(rows // 20_000 + 6 for rows in sizes.rows)
            return per_store * len(scale.STORES)
        case "purge":
            return len(purge.STORES) * sizes.windows
        case _:
            budget = sizes.fills * (1 + sizes.traced) / 100_000
            return round(2 * sizes.sessions / 5_000 + len(memory.CASES) * budget)
