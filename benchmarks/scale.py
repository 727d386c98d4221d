"""How lookup, save, touch and insert grow with the table: ours beside the raw driver's.

Both take rows at random from the same table, in turns, one statement at a time. A save or a touch
follows the read of its row, as in a request, and that read is not in its time.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any, Protocol

import psycopg

from sessionware import SessionManager
from sessionware.clock import now
from sessionware.stores import Row

from .peers.ours import manager_for
from .rows import COLUMNS, Tick, check, copies, drop, fill, hash_of, one_row, settle
from .site import Place, libpq, postgres

ROWS = (1_000, 100_000, 5_000_000)
OPERATIONS = ("lookup", "save", "touch", "insert")
STORES = {"sqlite": "sqlite", "postgresql": "psycopg"}
_WARM_UP = 50


class Side(Protocol):
    """One of the two that are compared."""

    def lookup(self, key: bytes) -> Any: ...
    def save(self, found: Any) -> Any: ...
    def touch(self, found: Any) -> Any: ...
    def insert(self, key: bytes) -> Any: ...


class Ours:
    """The product's store without its cache: each call is the statement of a request."""

    def __init__(self, manager: SessionManager, row: Row) -> None:
        self._store = manager.store.store
        self._store.prepare()
        self._row = row

    def lookup(self, key: bytes) -> Any:
        return self._store.load(key, now())

    def save(self, found: Row) -> Any:
        seen = found.last_seen + 1
        return self._store.replace(found, found._replace(version=found.version + 1), seen)

    def touch(self, found: Row) -> Any:
        new = found._replace(last_seen=found.last_seen + 1, expires_at=found.expires_at + 1)
        return self._store.touch(found, new, found.last_seen)

    def insert(self, key: bytes) -> Any:
        return self._store.insert(self._row._replace(sid_hash=key))


class Raw:
    """The least that the driver can be told for the same: a held connection, AUTOCOMMIT."""

    def __init__(self, place: Place, driver: str, row: Row) -> None:
        self._row = row[1:]
        mark = "?" if driver == "sqlite" else "%s"
        table, columns = place.table, ", ".join(COLUMNS)
        by_key = f"SELECT id, {columns} FROM {table} WHERE sid_hash = {mark}"
        self._sql = {
            "lookup": by_key,
            "save": f"UPDATE {table} SET version = {mark}, data = {mark}, last_seen = {mark}, "
            f"expires_at = {mark} WHERE id = {mark}",
            "touch": f"UPDATE {table} SET last_seen = {mark}, expires_at = {mark} "
            f"WHERE id = {mark}",
            "insert": f"INSERT INTO {table} ({columns}) "
            f"VALUES ({', '.join([mark] * len(COLUMNS))})",
        }
        self._execute, self.close = _connected(place, driver)

    def lookup(self, key: bytes) -> Any:
        return self._execute(self._sql["lookup"], (key,)).fetchone()

    def save(self, found: Any) -> Any:
        row = Row._make(found)
        values = (row.version + 1, row.data, row.last_seen, row.expires_at, row.id)
        return self._execute(self._sql["save"], values).rowcount

    def touch(self, found: Any) -> Any:
        row = Row._make(found)
        values = (row.last_seen + 1, row.expires_at + 1, row.id)
        return self._execute(self._sql["touch"], values).rowcount

    def insert(self, key: bytes) -> Any:
        return self._execute(self._sql["insert"], (key, *self._row[1:])).rowcount


def _connected(place: Place, driver: str) -> tuple[Callable[..., Any], Callable[[], None]]:
    if driver == "sqlite":
        connection = sqlite3.connect(place.file, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection.execute, connection.close
    plain = psycopg.connect(libpq(postgres()), autocommit=True)
    cursor = plain.cursor()

    def execute(text: str, values: Sequence[Any]) -> Any:
        return cursor.execute(text.encode(), values, prepare=True)

    return execute, plain.close


def measure(
    folder: Path, store: str, sizes: Sequence[int], calls: int, tick: Tick
) -> dict[str, Any]:
    return {"at": [_one_size(folder, STORES[store], size, calls, tick) for size in sizes]}


def _one_size(folder: Path, driver: str, size: int, calls: int, tick: Tick) -> dict[str, Any]:
    place = Place(folder, f"scale-{driver}-{size}")
    try:
        row = one_row(place, driver)
        empty = settle(place, driver)
        fill(place, driver, copies(row, size), tick)
        taken = settle(place, driver) - empty
        tick(f"{size:,} rows are there")
        manager = manager_for(place, driver)
        raw = Raw(place, driver, row)
        try:
            check(manager, 0, size // 2, size - 1)
            times = _times(Ours(manager, row), raw, size, calls, tick)
        finally:
            raw.close()
            manager.shutdown()
    finally:
        drop(place, driver)
    return {
        "rows": size,
        "bytes_per_row": round(taken / size),
        "data_bytes": len(row.data),
        "operations": {
            name: {side: _summary(each) for side, each in both.items()}
            for name, both in times.items()
        },
    }


def _times(
    ours: Side, raw: Side, size: int, calls: int, tick: Tick
) -> dict[str, dict[str, list[float]]]:
    chance = random.Random(size)
    times: dict[str, dict[str, list[float]]] = {
        name: {"ours": [], "raw": []} for name in OPERATIONS
    }
    sides: list[tuple[str, Side]] = [("ours", ours), ("raw", raw)]
    # A write follows a read of the same row; an insert needs none.
    for name in OPERATIONS:
        for number in range(-_WARM_UP, calls):
            for label, side in sides if number % 2 else reversed(sides):
                key = os.urandom(32) if name == "insert" else hash_of(chance.randrange(size))
                work = getattr(side, name)
                given = side.lookup(key) if name in ("save", "touch") else key
                start = perf_counter()
                answer = work(given)
                taken = perf_counter() - start
                if not answer:
                    raise ValueError(f"{label}: {name} found no row")
                if number >= 0:
                    times[name][label].append(taken * 1e6)
        tick(f"{size:,} rows: {name}")
    return times


def _summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median": median(ordered),
        "mean": fmean(ordered),
        "min": ordered[0],
        "p99": ordered[len(ordered) * 99 // 100],
    }
