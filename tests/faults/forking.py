"""Run by test_fork: a process uses sessions, forks, and both go on."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from sqlalchemy import create_engine

from sessionware import SessionManager
from tests.apps import SECRET
from tests.byhand import Visitor, storing

ROUNDS = 20


def use(visitor: Visitor, name: str) -> None:
    """Write and read for a while; each round must find what the last one left."""
    for number in range(ROUNDS):
        visitor.visit(storing(**{name: number}))
        assert visitor.content()[name] == number


def main(url: str, table_name: str, given: str) -> None:
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
    threads = {thread.name for thread in threading.enumerate()}
    assert any(name.startswith("sessionware") for name in threads)

    child = os.fork()
    if not child:
        status = 1
        try:
            assert threading.active_count() == 1
            assert manager.stats()["cache_entries"] == 0
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
