"""Tables of the parts that are measured apart: scale, purge, memory, sizes."""

from __future__ import annotations

from typing import Any

from . import figures, memory, purge, scale
from .text import Rows, Table, number

_STORES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def growth(results: dict[str, Any]) -> Table:
    """µs of a statement, ours and the raw driver's, at each size; and how both have grown."""
    counts = sorted(
        {each["rows"] for store in scale.STORES for each in figures.sizes(results, store)}
    )
    head = ["", *(f"{count:,} rows: ours (raw)" for count in counts)]
    head += ["ours grew", "raw grew", "ours / raw", "goal"]
    rows: Rows = []
    for store in scale.STORES:
        found = {each["rows"]: each["operations"] for each in figures.sizes(results, store)}
        for operation in scale.OPERATIONS if found else ():
            cells = [_both(found.get(count, {}).get(operation)) for count in counts]
            ours, raw = (figures.growth(results, store, operation, side) for side in _SIDES)
            cells += [_times(ours), _times(raw), _times(figures.over(ours, raw))]
            goal = "" if operation == "insert" else "≤ 1.2"
            rows.append([f"{_STORES[store]}, {operation}", *cells, goal])
    return head, rows


_SIDES = ("ours", "raw")


def _both(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    ours, raw = (found[side]["median"] for side in _SIDES)
    return f"{number(ours)} ({number(raw)})"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def purging(results: dict[str, Any]) -> Table:
    head = ["", "p50 ms", "beside a purge", "p99 ms", "beside a purge", "moved by", "longest ms"]
    head += ["beside a purge", "purge takes s", "rows/s", "its longest batch ms"]
    rows: Rows = [["goal", *[""] * 4, "≤ 20", *[""] * 5]]
    for name in purge.STORES:
        found = results.get("purge", {}).get("stores", {}).get(name)
        if found is None:
            continue
        row = [name]
        for value in ("p50", "p99"):
            row += [number(found[which][value]) for which in ("quiet", "purging")]
        row.append(number(figures.moved(results, name) or 0.0))
        row += [number(found[which]["max"]) for which in ("quiet", "purging")]
        row += [number(found[key]) for key in ("seconds", "rows_per_second", "longest_batch")]
        rows.append(row)
    return head, rows if len(rows) > 1 else []


def session(results: dict[str, Any]) -> Table:
    """What one session takes: in the column, in a table, in a cache."""
    rows: Rows = []
    for store, name in _STORES.items():
        found = figures.sizes(results, store)
        if found and not rows:
            rows.append(["its record in the column `data`", number(found[-1]["data_bytes"]), ""])
        for each in found[-1:]:
            what = f"in {name}, rows and indexes, {each['rows']:,} rows"
            rows.append([what, number(each["bytes_per_row"]), ""])
    cached = {how: figures.cached_bytes(results, how) for how in ("allocated", "resident")}
    if cached["allocated"] is not None:
        counted = results["memory"]["session"]["allocated"]["counted"]
        rows.append(["in a process's cache, allocated", number(cached["allocated"]), "≤ 1,200"])
        rows.append(["the same as `cache_max_bytes` counts it", number(counted), ""])
    if cached["resident"] is not None:
        rows.append(["the same by the resident size", number(cached["resident"]), ""])
    return ["a session of 500 bytes", "bytes", "goal"], rows


def budget(results: dict[str, Any]) -> Table:
    head = ["pushed through the cache", "fills", "kept", "budget MiB", "allocated at most"]
    head += ["above it", "resident at most", "above it"]
    rows: Rows = [["goal", *[""] * 4, "≤ 10 %", "", "≤ 10 %"]]
    for case in memory.CASES:
        found = results.get("memory", {}).get("budget", {}).get(case)
        if found is None:
            continue
        resident = found["resident"]
        row = [case, f"{resident['fills']:,}", f"{resident['entries']:,}"]
        row.append(_mebibytes(resident["max_bytes"]))
        for how in ("allocated", "resident"):
            above = figures.above_budget(results, case, how) or 0.0
            row += [_mebibytes(found[how]["highest"]), f"{above * 100:.1f} %"]
        rows.append(row)
    return head, rows if len(rows) > 1 else []


def _mebibytes(value: float) -> str:
    return number(value / 1024 / 1024)
