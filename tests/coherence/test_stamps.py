"""Stamps: a change is seen by every process of the host at once, and a warm read costs no I/O."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from sessionware import SessionManager
from sessionware.coherence import StampChannel
from sessionware.coherence.stamps import LOOK_SECONDS
from sessionware.errors import StoreUnavailable
from tests.apps import Browser, Managers, app_of
from tests.byhand import Visitor, login, storing
from tests.coherence.helping import (
    change,
    content,
    logout,
    served_unasked,
    session,
    unmoved,
    until,
    warm,
)
from tests.coherence.worker import Worker

Make = Callable[..., SessionManager]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no stamps on Windows")


def stamped(manager: SessionManager) -> StampChannel:
    channel = manager.store.channel
    assert isinstance(channel, StampChannel)
    return channel


def test_a_sqlite_file_has_stamps_without_being_asked(make_manager: Make, sqlite_url: str) -> None:
    assert stamped(make_manager(sqlite_url))


@pytest.mark.parametrize("act", [storing(n=2), lambda each: each.rotate(), login("alice")])
def test_what_one_manager_changes_the_other_sees_at_once(
    make_manager: Make, sqlite_url: str, act: Any
) -> None:
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    visitor = Visitor(here)
    visitor.visit(storing(n=1))
    before = visitor.cookie
    assert before is not None
    for _ in range(20):
        warm(there, before)
        visitor.visit(act)
        assert visitor.cookie is not None
        assert content(there, visitor.cookie) == content(here, visitor.cookie)
        if visitor.cookie != before:
            assert content(there, before) == {}
            break


def test_a_logout_is_seen_at_once_by_whoever_has_the_session_cached(
    make_manager: Make, sqlite_url: str
) -> None:
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    cookie = session(here, n=1)
    warm(there, cookie)
    logout(here, cookie)
    assert content(there, cookie) == {}


def test_a_warm_read_asks_nobody(
    make_manager: Make, sqlite_url: str, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make_manager(sqlite_url)
    cookie = session(manager, n=1)
    warm(manager, cookie)
    statements.clear()

    def hop(*_: Any) -> Any:
        raise AssertionError("a warm read went to another thread")

    with monkeypatch.context() as patch:
        patch.setattr(manager.store.runner, "run_shared", hop)
        patch.setattr(manager.store.runner, "run", hop)
        patch.setattr(os, "stat", hop)
        began = time.monotonic()
        warm_reads = 0
        while served_unasked(manager, cookie) and warm_reads < 100:
            assert content(manager, cookie) == {"n": 1}
            warm_reads += 1
    assert warm_reads == 100 or time.monotonic() - began >= LOOK_SECONDS / 2
    assert warm_reads
    assert statements == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
async def test_under_asyncio_too_and_nothing_blocks_the_loop(
    anyio_backend: str, driver: str, sqlite_url: str, statements: list[str]
) -> None:
    managers = Managers()
    here = managers(store=sqlite_url.replace("sqlite", driver, 1))
    there = managers(store=sqlite_url.replace("sqlite", driver, 1))
    browser = Browser(app_of(here))
    await browser.get("/write?n=1")
    other = Browser(app_of(there), browser.token)
    began = time.monotonic()
    cost = 1
    while cost:
        assert time.monotonic() - began < 10
        statements.clear()
        assert (await other.get("/read")).json() == {"n": "1"}
        cost = len(statements)
    await browser.get("/write?n=2")
    assert (await other.get("/read")).json() == {"n": "2"}
    await browser.get("/login?user=alice")
    assert (await other.get("/read")).json() == {}
    other.token = browser.token
    assert (await other.get("/read")).json() == {"n": "2", "user_id": "alice"}
    await browser.get("/logout")
    assert (await other.get("/read", cookie=f"session={browser.token}")).json() == {}
    await managers.aclose()


WRITERS: dict[str, dict[str, Any]] = {
    "validate": {"coherence": "validate"},
    "bounded": {"coherence": "bounded"},
    "no cache": {"cache_ttl": 0},
    "by a file: URI": {},
}


@pytest.mark.parametrize("name", WRITERS)
def test_writers_in_every_other_mode_move_the_stamps(
    make_manager: Make, make_worker: Callable[..., Worker], sqlite_url: str, name: str
) -> None:
    here = make_manager(sqlite_url)
    cookie = session(here, n=1)
    url = sqlite_url
    if name == "by a file: URI":
        url = sqlite_url.replace("sqlite:///", "sqlite:///file:") + "?uri=true"
    there = make_worker(url, **WRITERS[name])
    warm(here, cookie)
    assert there.ask("write", cookie, {"n": 2})
    assert content(here, cookie) == {"n": 2}
    warm(here, cookie)
    assert there.ask("end", cookie)
    assert content(here, cookie) == {}


def test_revoking_in_another_process_is_seen_at_once(
    make_manager: Make, make_worker: Callable[..., Worker], sqlite_url: str
) -> None:
    here, there = make_manager(sqlite_url), make_worker(sqlite_url)
    alice, bob = there.ask("login", "alice"), there.ask("login", "bob")
    warm(here, alice)
    warm(here, bob)
    assert there.ask("revoke_user", "alice") == 1
    assert content(here, alice) == {}
    assert unmoved(here, bob), "the others are not asked for"
    assert content(here, bob) == {"user_id": "bob"}
    assert there.ask("revoke_all") == 1
    assert content(here, bob) == {}


def test_a_purge_leaves_what_is_cached_alone(make_manager: Make, sqlite_url: str) -> None:
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    there.purge()
    assert unmoved(here, cookie)


def test_a_value_put_under_a_key_elsewhere_is_seen_at_once(
    make_manager: Make, make_worker: Callable[..., Worker], sqlite_url: str
) -> None:
    here, there = make_manager(sqlite_url), make_worker(sqlite_url)
    here.store.put("key", {"n": 1})
    until(lambda: here.store.fresh(sha256(b"key").digest()) or not here.store.get("key"))
    assert there.ask("put", "key", {"n": 2})
    assert here.store.get("key") == {"n": 2}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_writer_left_is_asked_for_until_the_next_write(
    make_manager: Make, make_worker: Callable[..., Worker], sqlite_url: str, when: str
) -> None:
    here, there = make_manager(sqlite_url), make_worker(sqlite_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    assert there.ask("write", cookie, {"n": 2})
    warm(here, cookie)
    assert there.ask("die_at_commit", when)
    there.tell("write", cookie, {"n": 3})
    assert there.wait() == -signal.SIGKILL
    stored = {"n": 3 if when == "after" else 2}
    for _ in range(3):
        assert content(here, cookie) == stored
        assert not served_unasked(here, cookie), "the slot is odd"
    change(here, cookie, n=4)
    warm(here, cookie)
    assert content(here, cookie) == {"n": 4}


def test_what_a_process_had_deleted_that_was_killed_while_revoking_is_not_served(
    make_manager: Make, make_worker: Callable[..., Worker], sqlite_url: str
) -> None:
    """Who revokes once more finds nothing to delete, and is told that all are ended."""
    here, there = make_manager(sqlite_url), make_worker(sqlite_url)
    alice = there.ask("login", "alice")
    warm(here, alice)
    assert there.ask("die_at_commit", "after")
    there.tell("revoke_user", "alice")
    assert there.wait() == -signal.SIGKILL
    assert make_worker(sqlite_url).ask("revoke_user", "alice") == 0
    assert content(here, alice) == {}


def test_a_writer_that_stands_still_costs_others_a_503_and_nothing_stale(
    make_manager: Make, make_worker: Callable[..., Worker], sqlite_url: str
) -> None:
    here, there = make_manager(sqlite_url, store_timeout=1.0), make_worker(sqlite_url)
    cookie, other = session(here, n=1), session(here, n=1)
    assert there.ask("write", cookie, {"n": 2})
    warm(here, cookie)
    warm(here, other)
    assert there.ask("stop_at_commit")
    there.tell("write", cookie, {"n": 3})
    there.stopped()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        change(here, other, n=9)
    assert time.monotonic() - began < 2
    assert content(here, cookie) == {"n": 2}
    assert content(here, other) == {"n": 1}
    there.signal(signal.SIGCONT)
    assert there.answer() is True
    assert content(here, cookie) == {"n": 3}
    change(here, other, n=9)
    assert content(here, other) == {"n": 9}


def test_writers_whose_rows_share_a_slot_do_not_hide_each_other(
    make_manager: Make, sqlite_url: str
) -> None:
    """Also not the row that a writer keeps in its own cache."""
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    cookie = session(here, n=0)
    for number in range(1, 60, 2):
        change(here, cookie, n=number)
        assert content(there, cookie) == {"n": number}
        change(there, cookie, n=number + 1)
        assert content(here, cookie) == {"n": number + 1}


def test_a_parent_and_its_child_see_each_others_changes_at_once(
    make_manager: Make, sqlite_url: str
) -> None:
    manager = make_manager(sqlite_url, store_timeout=10)
    cookie = session(manager, n=1)
    warm(manager, cookie)
    to_child, to_parent = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            warm(manager, cookie)
            change(manager, cookie, n=2)
            os.write(to_parent[1], b"!")
            os.read(to_child[0], 1)
            status = 0 if content(manager, cookie) == {"n": 3} else 2
        finally:
            os._exit(status)
    os.read(to_parent[0], 1)
    assert content(manager, cookie) == {"n": 2}
    warm(manager, cookie)
    change(manager, cookie, n=3)
    os.write(to_child[1], b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for end in (*to_child, *to_parent):
        os.close(end)


def test_a_child_does_not_keep_the_lock_of_a_parent_that_died_while_it_wrote(
    make_manager: Make, sqlite_url: str
) -> None:
    manager = make_manager(sqlite_url, store_timeout=2)
    cookie = session(manager, n=1)
    to_child, to_us = os.pipe(), os.pipe()
    parent = os.fork()
    if not parent:
        try:
            warm(manager, cookie)
            held = stamped(manager).stamps.try_hold((bytes(32),))
            if not os.fork():
                assert held
                os.close(to_child[1])
                os.write(to_us[1], b"!")
                os.read(to_child[0], 1)
        finally:
            os._exit(0)
    os.waitpid(parent, 0)
    os.read(to_us[0], 1)
    try:
        change(manager, cookie, n=2)
        assert content(manager, cookie) == {"n": 2}
    finally:
        # Of which the child hears.
        for end in (*to_child, *to_us):
            os.close(end)


@pytest.mark.parametrize("method", ["remove_user", "remove_range"])
def test_after_a_process_was_killed_while_it_ended_many_sessions_rows_are_trusted_again(
    make_manager: Make, sqlite_url: str, method: str
) -> None:
    manager = make_manager(sqlite_url)
    cookie = session(manager, n=1)
    warm(manager, cookie)
    child = os.fork()
    if not child:
        try:
            store = manager.store.store
            once = store._once

            def die(called: str, *args: Any, **kwargs: Any) -> Any:
                if called == method:
                    os.kill(os.getpid(), signal.SIGKILL)
                return once(called, *args, **kwargs)

            store._once = die
            manager.revoke_user("alice") if method == "remove_user" else manager.revoke_all()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not served_unasked(manager, cookie)
    warm(manager, cookie)


def test_a_process_that_is_shut_down_and_used_again_has_stamps_again(
    make_manager: Make, sqlite_url: str
) -> None:
    here, there = make_manager(sqlite_url), make_manager(sqlite_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    here.shutdown()
    change(there, cookie, n=2)
    assert content(here, cookie) == {"n": 2}
    warm(here, cookie)


def test_while_there_is_traffic_nobody_waits_for_a_look_at_the_file(
    make_manager: Make, sqlite_url: str
) -> None:
    here = make_manager(sqlite_url)
    cookie = session(here, n=1)
    warm(here, cookie)
    presented = here.identify(here.cookies.values([cookie.encode()]))
    until = time.monotonic() + 3 * LOOK_SECONDS
    while time.monotonic() < until:
        assert here.load_now(presented) is not None
        time.sleep(0.01)
