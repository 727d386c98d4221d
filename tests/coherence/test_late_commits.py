"""A server goes on with a statement whose connection was cut: others learn what it does later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from sessionware import Session, SessionManager
from tests.byhand import Visitor, storing
from tests.coherence.helping import content, session, until, warm
from tests.faults.proxy import Proxy
from tests.services import with_driver

pytestmark = pytest.mark.postgres

Make = Callable[..., SessionManager]
Change = Callable[[SessionManager, str], object]


def visiting(act: Callable[[Session], object]) -> Change:
    return lambda manager, cookie: Visitor(manager, cookie).visit(act)


def revoke(manager: SessionManager, cookie: str) -> None:
    (info,) = manager.list_sessions("alice")
    manager.revoke(info.handle, user_id="alice")


CHANGES: dict[str, tuple[Change, dict[str, Any]]] = {
    "save": (visiting(storing(n=2)), {"user_id": "alice", "n": 2}),
    "incr": (visiting(lambda session: session.incr("n")), {"user_id": "alice", "n": 2}),
    "clear": (visiting(lambda session: session.clear()), {}),
    "logout": (visiting(lambda session: session.invalidate()), {}),
    "revoke": (revoke, {}),
    "revoke_user": (lambda manager, _: manager.revoke_user("alice"), {}),
    "revoke_all": (lambda manager, _: manager.revoke_all(), {}),
}


def waiting(connection: psycopg.Connection[Any], table_name: str) -> int:
    """How many statements wait for somebody who has locked a row."""
    found = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s",
        (f"%{table_name}%",),
    ).fetchone()
    assert found is not None
    return int(found[0])


@pytest.mark.parametrize(("change", "left"), CHANGES.values(), ids=CHANGES)
def test_what_is_done_after_its_connection_was_cut_is_seen_by_who_has_read_the_row_in_between(
    make_manager: Make,
    postgres_url: str,
    proxy: Proxy,
    proxied: str,
    table_name: str,
    change: Change,
    left: dict[str, Any],
) -> None:
    here = make_manager(proxied, listen_url=postgres_url, store_timeout=20)
    there = make_manager(postgres_url)
    cookie = session(there, user_id="alice", n=1)
    warm(here, cookie)
    changing = threading.Thread(target=change, args=(here, cookie))
    plain = with_driver(postgres_url, "postgresql")
    with psycopg.connect(plain) as rival, psycopg.connect(plain, autocommit=True) as admin:
        rival.execute(f"SELECT 1 FROM {table_name} FOR UPDATE".encode())
        changing.start()
        until(lambda: waiting(admin, table_name) == 1)
        proxy.reset()
        # The second try waits behind the first, and others were told before it began.
        until(lambda: waiting(admin, table_name) == 2)
        warm(there, cookie)
        rival.rollback()
    changing.join()
    until(lambda: content(there, cookie) == left, patience=1)
    assert content(here, cookie) == left
