"""What a cached session takes of this process's memory, and whether the budget holds.

Each case runs in a process of its own. The allocator's view is tracemalloc's: every object and
every table behind the cache. The resident size has what was left of pages in between, too; it is
taken without tracemalloc, whose own books would be in it.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from sessionware.cache import RowCache
from sessionware.clock import now
from sessionware.stores import Row

from .peers.ours import manager_for
from .rows import Tick, cookie_of, copies, drop, fill, one_row, user_of
from .site import PAYLOAD, Place

CASES = ("500 bytes", "40 to 4,000 bytes", "500 bytes, and logouts")
"""What is filled in; the last of them ends every eighth session, and the cache remembers that."""
_STEP = 5_000
_SIZE = 592
_WARM_UP = 500
_PAYLOAD_BYTES = 500


class Meter:
    """The bytes that have been taken since it was made, by the allocator or as resident pages."""

    def __init__(self, *, traced: bool) -> None:
        self._traced = traced
        gc.collect()
        if traced:
            tracemalloc.start()
        self._before = self._now()

    def _now(self) -> int:
        return tracemalloc.get_traced_memory()[0] if self._traced else resident()

    def taken(self) -> int:
        return self._now() - self._before


def resident() -> int:
    """Bytes of this process that are in memory, of its own."""
    try:
        pages = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def measure(folder: Path, what: str, *, traced: bool, tick: Tick, **order: Any) -> dict[str, Any]:
    if what == "session":
        return _sessions(folder, traced=traced, tick=tick, **order)
    return _budget(what, traced=traced, tick=tick, **order)


def _sessions(folder: Path, *, traced: bool, sessions: int, tick: Tick) -> dict[str, Any]:
    """Sessions that requests have loaded and looked into, and that the cache keeps."""
    place = Place(folder, "memory-sqlite")
    try:
        row = one_row(place, "sqlite", _content())
        fill(place, "sqlite", copies(row, _WARM_UP + sessions))
        manager = manager_for(place, cache_max_bytes=1 << 33, cache_ttl=3600.0)
        cookies = [cookie_of(manager, number) for number in range(_WARM_UP + sessions)]

        def visit(cookie: str) -> None:
            session = manager.open(cookie)
            if session.get("user") is None:
                raise ValueError("the session was not found")
            manager.close(session)

        for cookie in cookies[:_WARM_UP]:
            visit(cookie)
        before = manager.stats()
        meter = Meter(traced=traced)
        for number, cookie in enumerate(cookies[_WARM_UP:]):
            visit(cookie)
            if number % _STEP == 0:
                tick("memory of a session")
        taken = meter.taken()
        stats = manager.stats()
        manager.shutdown()
    finally:
        drop(place, "sqlite")
    if stats["cache_entries"] - before["cache_entries"] != sessions:
        raise ValueError("the cache did not keep what it was to keep")
    counted = stats["cache_bytes"] - before["cache_bytes"]
    return {"taken": taken / sessions, "counted": counted / sessions, "data": len(row.data)}


def _content() -> dict[str, Any]:
    """What makes, with the user's ID, 500 bytes of JSON."""
    content: dict[str, Any] = {**PAYLOAD, "seen": ""}
    size = len(msgspec.json.encode({**content, "user_id": user_of(0)}))
    return content | {"seen": "." * (_PAYLOAD_BYTES - size)}


def _budget(case: str, *, traced: bool, fills: int, max_bytes: int, tick: Tick) -> dict[str, Any]:
    """Push sessions through the cache, and look how far above its budget memory gets."""
    rows = _rows(case, fills)
    # What is made once, and not for the cache, is there before.
    for _ in range(10):
        next(rows)
    meter = Meter(traced=traced)
    cache = RowCache(ttl=3600.0, max_bytes=max_bytes)
    highest = counted = entries = 0
    for number, row in enumerate(rows):
        key = row.sid_hash
        cache.fill(key, cache.token(key), row, number << 33)
        if case.endswith("logouts") and number % 8 == 0:
            cache.end(row.id)
            cache.bury(key, None, 3600.0)
        if number % _STEP == 0:
            highest = max(highest, meter.taken())
            counted, entries = max(counted, cache.size), max(entries, len(cache))
            if number % (_STEP * 20) == 0:
                tick(f"memory: {case}")
    return {
        "highest": max(highest, meter.taken()),
        "counted": max(counted, cache.size),
        "entries": entries,
        "max_bytes": max_bytes,
        "fills": fills,
    }


def _rows(case: str, count: int) -> Iterator[Row]:
    """As a driver makes them: no object of one is part of another."""
    chance = random.Random(5)
    sized: Callable[[], int] = lambda: _SIZE  # noqa: E731
    if case.startswith("40 to"):
        sized = lambda: int(40 * 100 ** chance.random())  # noqa: E731
    filler = bytes(range(256)) * 16
    # Times are as good as never equal, and every number is an object of its own.
    at = now()
    for number in range(count + 10):
        yield Row(
            id=number + 100_000,
            sid_hash=number.to_bytes(32, sys.byteorder),
            version=number % 7,
            epoch=0,
            user_id=user_of(number),
            data=filler[: sized() - 8] + number.to_bytes(8, "big"),
            created_at=at + number,
            authenticated_at=at + number,
            last_seen=at + number + 1,
            expires_at=at + number + 10_000_000,
            purge_after=at + number + 20_000_000,
        )
