"""What a session takes: bytes of a row with its indexes, on disk and in a cache."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, insert, select, text

from sessionware import SessionManager

from .peers.ours import manager_for, store_url
from .site import PAYLOAD, Place

_BATCH = 5_000
_CACHED = 2_000


def measure(
    folder: Path, rows: int, *, postgres: bool, tick: Callable[[str], None]
) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": rows}
    stores = {"sqlite": "sqlite", **({"postgresql": "psycopg"} if postgres else {})}
    for store, driver in stores.items():
        place = Place(folder, f"sizing-{store}")
        manager = manager_for(place, driver)
        try:
            row = _one_row(manager, driver, place)
            found["data_bytes"] = len(row["data"])
            engine = create_engine(store_url(place, driver), hide_parameters=True)
            before = _size(engine, place)
            _fill(engine, manager, row, rows, partial(tick, f"sizing {store}"))
            found[store] = {"bytes_per_session": round((_size(engine, place) - before) / rows)}
            engine.dispose()
        finally:
            manager.shutdown()
    found |= _in_cache(folder)
    return found


def _one_row(manager: SessionManager, driver: str, place: Place) -> dict[str, Any]:
    """As the middleware stores it."""
    session = manager.open(None)
    session.update(PAYLOAD)
    manager.close(session)
    table = _table(manager)
    engine = create_engine(store_url(place, driver), hide_parameters=True)
    with engine.connect() as connection:
        row = connection.execute(select(table)).mappings().one()
        values = {name: value for name, value in row.items() if name != "id"}
    engine.dispose()
    return values


def _table(manager: SessionManager) -> Any:
    from sessionware.stores.schema import Schema

    return Schema(manager.settings.table_name).sessions


def _fill(
    engine: Engine, manager: SessionManager, row: dict[str, Any], rows: int, tick: Any
) -> None:
    statement = insert(_table(manager))
    for start in range(0, rows, _BATCH):
        batch = [
            {**row, "sid_hash": os.urandom(32), "purge_after": row["purge_after"] + at * 1000}
            for at in range(start, min(start + _BATCH, rows))
        ]
        with engine.begin() as connection:
            connection.execute(statement, batch)
        tick()


def _size(engine: Engine, place: Place) -> int:
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        return place.file.stat().st_size
    with engine.connect() as connection:
        size: int = connection.execute(
            text("SELECT pg_total_relation_size(:name)"), {"name": place.table}
        ).scalar_one()
        return size


def _in_cache(folder: Path) -> dict[str, int]:
    """By the allocator and by the cache's own reckoning, for sessions that a request has loaded."""
    manager = manager_for(Place(folder, "sizing-cache"))
    cookies = []
    for _ in range(_CACHED):
        session = manager.open(None)
        session.update(PAYLOAD)
        cookies.append(manager.close(session)[-1][1].partition(";")[0])
    manager.store.cache.clear()
    manager.close(manager.open(cookies.pop()))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for cookie in cookies:
            manager.close(manager.open(cookie))
        taken = tracemalloc.get_traced_memory()[0] - before
        stats = manager.stats()
    finally:
        tracemalloc.stop()
        manager.shutdown()
    return {
        "cache_bytes_per_session": round(taken / len(cookies)),
        "counted_bytes_per_session": round(stats["cache_bytes"] / stats["cache_entries"]),
    }
