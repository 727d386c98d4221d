"""Run by test_fork: a process uses sessions, forks, and both go on."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from sqlalchemy import create_engine

from sessionware import CachedStore, SessionManager
from sessionware.stores.sql import SQLStore
from tests.apps import SECRET
from tests.byhand import Visitor, storing

ROUNDS = 20
UNUSED: dict[str, Any] = {
    "cache_hits": 0,
    "cache_misses": 0,
    "cache_entries": 0,
    "cache_bytes": 0,
    "cache_trusted": False,
    "events": {},
}
"""What a manager counts that has done nothing yet in its process."""


def use(visitor: Visitor, name: str) -> None:
    """Write and read for a while; each round must find what the last one left."""
    for number in range(ROUNDS):
        visitor.visit(storing(**{name: number}))
        assert visitor.content()[name] == number


def use_keys(store: CachedStore, name: str) -> None:
    """As ``use``, without sessions."""
    for number in range(ROUNDS):
        store.put(name, {"n": number})
        assert store.get(name) == {"n": number}


def without_a_manager(url: str, table_name: str) -> None:
    store = CachedStore(SQLStore(url, table_name=table_name, timeout=20), store_timeout=20)
    store.put("start", {"n": 1})
    child = os.fork()
    if not child:
        status = 1
        try:
            assert threading.active_count() == 1
            assert len(store.cache) == 0
            use_keys(store, "child")
            status = 0
        finally:
            os._exit(status)
    use_keys(store, "parent")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    last = {"n": ROUNDS - 1}
    assert [store.get(key) for key in ("start", "parent", "child")] == [{"n": 1}, last, last]
    store.close()


def main(url: str, table_name: str, given: str) -> None:
    if given == "store":
        without_a_manager(url, table_name)
        return
    store: Any = create_engine(url, hide_parameters=True) if given == "engine" else url
    events: list[str] = []
    manager = SessionManager(
        secret_key=SECRET,
        store=store,
        table_name=table_name,
        purge_interval=600,
        store_timeout=20,
        on_event=lambda event: events.append(event.kind),
    )
    visitor = Visitor(manager)
    visitor.visit(storing(start=1))
    visitor.visit()
    assert manager.stats()["events"] == {"created": 1}
    threads = {thread.name for thread in threading.enumerate()}
    assert any(name.startswith("sessionware") for name in threads)

    child = os.fork()
    if not child:
        status = 1
        try:
            assert threading.active_count() == 1
            assert manager.stats() == UNUSED
            use(visitor, "child")
            other = Visitor(manager)
            other.visit(storing(own=1))
            status = 0
        finally:
            # Not sys.exit: what the parent registered to do at its end is not ours to do.
            os._exit(status)
    use(visitor, "parent")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    last = ROUNDS - 1
    assert visitor.content() == {"start": 1, "parent": last, "child": last}
    assert "store_error" not in events
    manager.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
