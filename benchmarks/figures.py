"""Single figures out of the results, and None where they were not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Results = dict[str, Any]


def in_process(results: Results, name: str, scenario: str, of: str = "added") -> float | None:
    """The lowest µs that a request of this kind added, or (``whole``) took."""
    try:
        value: float = results["requests"]["in_process"][name][scenario][of]["min"]
    except KeyError:
        return None
    return value


def per_second(results: Results, name: str, scenario: str) -> float | None:
    whole = in_process(results, name, scenario, "whole")
    return None if whole is None else 1e6 / whole


def selects(results: Results, name: str) -> int | None:
    """How many SELECTs 500 cold readers of one session were."""
    facts = results.get("requests", {}).get("facts", {}).get(name, {})
    count: int | None = facts.get("SELECTs of a stampede")
    return count


def over(one: float | None, other: float | None) -> float | None:
    if one is None or other is None or other <= 0:
        return None
    return one / other


def served(results: Results, name: str, page: str, what: str = "ratio") -> float | None:
    try:
        value: float = results["server"]["served"][name][page][what]
    except KeyError:
        return None
    return value


def sizes(results: Results, store: str) -> list[dict[str, Any]]:
    """What was measured at each number of rows, the smallest first."""
    found: list[dict[str, Any]] = (
        results.get("scale", {}).get("stores", {}).get(store, {}).get("at", [])
    )
    return sorted(found, key=lambda each: each["rows"])


def growth(results: Results, store: str, operation: str, side: str) -> float | None:
    """The median at the most rows over that at the fewest."""
    found = sizes(results, store)
    if len(found) < 2:
        return None
    few, many = (found[at]["operations"][operation][side]["median"] for at in (0, -1))
    return over(many, few)


def grows(results: Results, store: str, operation: str) -> float | None:
    """Our growth over that of the raw driver."""
    ours, raw = (growth(results, store, operation, side) for side in ("ours", "raw"))
    return over(ours, raw)


def bytes_per_row(results: Results, store: str) -> float | None:
    found = sizes(results, store)
    return float(found[-1]["bytes_per_row"]) if found else None


def moved(results: Results, name: str) -> float | None:
    """Milliseconds by which a purge beside it moves the 99th percentile of requests."""
    try:
        found = results["purge"]["stores"][name]
    except KeyError:
        return None
    value: float = found["purging"]["p99"] - found["quiet"]["p99"]
    return value


def cached_bytes(results: Results, how: str = "allocated") -> float | None:
    """What one session in the cache takes of memory."""
    try:
        value: float = results["memory"]["session"][how]["taken"]
    except KeyError:
        return None
    return value


def above_budget(results: Results, case: str, how: str) -> float | None:
    """By what part of the budget the cache's memory exceeded it at the highest."""
    try:
        found = results["memory"]["budget"][case][how]
    except KeyError:
        return None
    value: float = found["highest"] / found["max_bytes"] - 1
    return value


def measured(names: Iterable[str], figure: Callable[[str], float | None]) -> dict[str, float]:
    """Of those names of which there is one."""
    found = {name: figure(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}
