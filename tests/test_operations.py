"""What Session's twins do while the request is under way: save, take, incr, revalidate."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from sessionware import MemoryStore, Session, SessionGone, SessionManager, StoreUnavailable
from sessionware.stores.protocol import Row
from tests.apps import Managers
from tests.asgi.failing import FailingStore
from tests.byhand import Visitor, login, storing
from tests.interleaving import PATIENCE


@pytest.fixture
def manager() -> SessionManager:
    return Managers()(store=MemoryStore())


@pytest.fixture
def visitor(manager: SessionManager) -> Visitor:
    visitor = Visitor(manager)
    visitor.visit(storing(a=1, n=1))
    return visitor


def test_what_this_request_wrote_and_has_not_saved_is_taken_from_where_it_is(
    visitor: Visitor,
) -> None:
    session = visitor.open()
    session["otp"] = 7
    assert (session.take("otp"), session.take("otp", None)) == (7, None)
    visitor.close(session)
    assert visitor.content() == {"a": 1, "n": 1}


def test_taking_what_this_request_overwrote_removes_the_stored_value_too(visitor: Visitor) -> None:
    session = visitor.open()
    session["a"] = 2
    assert session.take("a") == 2
    visitor.close(session)
    assert visitor.content() == {"n": 1}


def test_an_increment_counts_on_from_what_this_request_wrote(visitor: Visitor) -> None:
    session = visitor.open()
    session["n"] = 10
    assert session.incr("n") == 11
    visitor.close(session)
    assert visitor.content()["n"] == 11


def test_what_this_request_deleted_and_has_not_saved_is_not_there_any_more(
    visitor: Visitor,
) -> None:
    session = visitor.open()
    del session["a"], session["n"]
    assert (session.take("a", None), session.incr("n")) == (None, 1)
    visitor.close(session)
    assert visitor.content() == {"n": 1}


def test_other_unsaved_changes_outlive_a_take(visitor: Visitor) -> None:
    session = visitor.open()
    session["b"] = [1]
    assert session.take("a") == 1
    session["b"].append(2)
    visitor.close(session)
    assert visitor.content() == {"n": 1, "b": [1, 2]}


def test_who_is_logged_in_can_not_be_taken_or_counted(visitor: Visitor) -> None:
    visitor.visit(login("alice"))
    session = visitor.open()
    for act in (lambda: session.take("user_id"), lambda: session.incr("user_id")):
        with pytest.raises(ValueError, match="rotation"):
            act()
    assert visitor.content()["user_id"] == "alice"


def test_a_save_shows_what_a_parallel_request_stored(visitor: Visitor) -> None:
    session = visitor.open()
    visitor.visit(storing(theirs=1))
    session["mine"] = 1
    session.save()
    assert session == {"a": 1, "n": 1, "theirs": 1, "mine": 1}


def test_a_session_still_stands_until_it_is_ended_or_rotated(visitor: Visitor) -> None:
    def replace(other: Session) -> None:
        other.clear()
        other["c"] = 1

    session = visitor.open()
    visitor.visit(replace)
    assert session.revalidate()
    visitor.visit(lambda other: other.rotate())
    assert not session.revalidate()


def test_with_an_id_that_was_rotated_away_nothing_is_counted(visitor: Visitor) -> None:
    late = Visitor(visitor.manager, visitor.cookie)
    visitor.visit(lambda session: session.rotate())
    session = late.open()
    with pytest.raises(SessionGone):
        session.incr("n")
    assert session.take("a", None) is None
    assert late.close(session) == {"Vary": "Cookie"}
    assert visitor.content() == {"a": 1, "n": 1}


@pytest.mark.anyio
async def test_in_an_event_loop_neither(visitor: Visitor) -> None:
    late = Visitor(visitor.manager, visitor.cookie)
    await visitor.avisit(lambda session: session.rotate())
    session = await visitor.manager.aopen(late.cookie)
    with pytest.raises(SessionGone):
        await session.aincr("n")
    assert await session.atake("a", None) is None


@pytest.mark.parametrize(
    "limit", [{}, {"max_sessions_per_user": 1, "session_limit_action": "refuse"}], ids=str
)
def test_threads_that_save_a_new_session_at_once_make_one_of_it(limit: dict[str, Any]) -> None:
    manager = Managers()(store=MemoryStore(), **limit)
    visitor = Visitor(manager)
    session = visitor.open()
    session["user_id"] = "alice"
    barrier = threading.Barrier(4)

    def save(number: int) -> None:
        barrier.wait()
        session[f"key {number}"] = number
        session.save()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(save, range(4)))
    visitor.close(session)
    assert len(manager.list_sessions("alice")) == 1
    assert visitor.content() == {"user_id": "alice", **{f"key {n}": n for n in range(4)}}


class Stuck(FailingStore):
    """A store whose first insert is carried out when ``free`` is called."""

    def __init__(self) -> None:
        super().__init__()
        self._begun, self._free, self._done = (threading.Event() for _ in range(3))

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)
        if name != "insert" or self._begun.is_set():
            return method

        def late(row: Row) -> Any:
            self._begun.set()
            self._free.wait(PATIENCE)
            try:
                return method(row)
            finally:
                self._done.set()

        return late

    def free(self) -> None:
        self._free.set()
        assert self._done.wait(PATIENCE)


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_first_save_that_is_carried_out_late_revives_nothing(at_the_end: bool) -> None:
    """The session that was stored in its place has ended by then."""
    store, managers = Stuck(), Managers()
    visitor = Visitor(managers(store=store, store_timeout=0.2))
    session = visitor.open()
    session["user_id"] = "alice"
    save = partial(visitor.close, session) if at_the_end else session.save
    with pytest.raises(StoreUnavailable):
        save()
    visitor.close(session)
    assert visitor.content() == {"user_id": "alice"}
    known = visitor.cookie
    visitor.visit(Session.invalidate)
    store.free()
    elsewhere = Visitor(managers(store=store))
    elsewhere.cookie = known
    assert elsewhere.content() == {}


def test_what_such_a_save_has_left_ends_with_the_session_that_was_stored_in_its_place() -> None:
    store = Stuck()
    manager = Managers()(store=store, store_timeout=0.2)
    visitor = Visitor(manager)
    session = visitor.open()
    session["user_id"] = "alice"
    with pytest.raises(StoreUnavailable):
        session.save()
    visitor.close(session)
    store.free()
    assert manager.revoke(session.handle, user_id="alice")
    assert manager.list_sessions("alice") == []
    assert visitor.content() == {}
