"""The directory: a user's sessions, and ending one, all of a user's, or everybody's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from sessionware import MemoryStore, Session, SessionEvent, SessionInfo, SessionManager
from sessionware.tokens import hash_id
from tests.apps import Managers
from tests.byhand import NOON, Clock, Visitor, expiring, login, storing
from tests.interleaving import Scripted, preceded_by

Directory = Any
"""The manager's methods, or their twins under the same names."""


class Twins:
    """Calls the coroutine methods of a manager, each in an event loop of its own."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._manager, "a" + name)
        assert inspect.iscoroutinefunction(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                return await method(*args, **kwargs)

            return anyio.run(run)

        return call


@pytest.fixture
def events() -> list[SessionEvent]:
    return []


@pytest.fixture
def manager(events: list[SessionEvent], clock: Clock) -> SessionManager:
    return Managers()(store=MemoryStore(), record_client=True, on_event=events.append)


@pytest.fixture(params=["plain", "coroutine"])
def directory(request: pytest.FixtureRequest, manager: SessionManager) -> Directory:
    return manager if request.param == "plain" else Twins(manager)


@pytest.fixture
def visitors(manager: SessionManager, clock: Clock) -> dict[str, Visitor]:
    """Alice on two devices, Bob on one, and somebody who has not logged in; a second apart."""
    found = {}
    for name, user in [("phone", "alice"), ("laptop", "alice"), ("bobs", "bob"), ("guest", None)]:
        clock.tick(1)
        found[name] = Visitor(manager)
        found[name].visit(login(user) if user else storing(cart=1))
    return found


def handle_of(visitor: Visitor) -> str:
    return visitor.open().handle


def is_in(visitor: Visitor) -> bool:
    """Whether the visitor's session still stands."""
    return not visitor.open().is_new


def standing(visitors: dict[str, Visitor]) -> set[str]:
    return {name for name, visitor in visitors.items() if is_in(visitor)}


ALL = {"phone", "laptop", "bobs", "guest"}


class TestListing:
    def test_a_user_sees_her_sessions_latest_seen_first_and_nobody_elses(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        listed = directory.list_sessions("alice")
        handles = [handle_of(visitors[name]) for name in ("laptop", "phone")]
        assert [info.handle for info in listed] == handles
        assert directory.list_sessions("nobody") == []

    def test_the_session_that_asks_is_marked(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        current = visitors["phone"].open()
        listed = directory.list_sessions("alice", current=current)
        assert [info.current for info in listed] == [False, True]
        assert [info.current for info in directory.list_sessions("alice")] == [False, False]
        strangers = directory.list_sessions("bob", current=current)
        assert [info.current for info in strangers] == [False]

    def test_times_are_aware_and_in_utc(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        (info,) = directory.list_sessions("bob")
        created = datetime.fromtimestamp(NOON / 1000 + 3, UTC)
        assert info.created_at == info.last_seen == created
        assert (info.expires_at - created).days == 14
        assert info.expires_at.tzinfo is UTC

    def test_the_client_is_that_of_the_login(
        self, directory: Directory, manager: SessionManager
    ) -> None:
        session = manager.load(manager.identify([]), client=("192.0.2.1", "Firefox"))
        session["user_id"] = "alice"
        manager.close(session)
        (info,) = directory.list_sessions("alice")
        assert (info.ip, info.user_agent) == ("192.0.2.1", "Firefox")
        assert "Firefox" not in repr(info)
        assert "192.0.2.1" not in repr(info)

    def test_expired_and_unreadable_sessions_are_left_out(
        self, directory: Directory, manager: SessionManager, clock: Clock
    ) -> None:
        short = Visitor(manager)
        short.visit(expiring(60, user_id="alice"))
        lasting = Visitor(manager)
        lasting.visit(login("alice"))
        clock.tick(60)
        assert [info.handle for info in directory.list_sessions("alice")] == [handle_of(lasting)]
        store: MemoryStore = manager.store.store
        rows = {row_id: row._replace(data=b"damaged") for row_id, row in store._rows.items()}
        store._rows.update(rows)
        assert directory.list_sessions("alice") == []

    def test_a_listing_holds_nothing_that_is_as_good_as_a_cookie(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        (info,) = directory.list_sessions("bob")
        session_id = str(visitors["bobs"].cookie).partition("=")[2].partition(".")[0]
        sid_hash = hash_id(session_id)
        told = repr([getattr(info, name) for name in SessionInfo.__slots__])
        for secret in (session_id, sid_hash.hex(), sid_hash.hex()[:12], repr(sid_hash)):
            assert secret not in told

    def test_a_handle_survives_a_rotation(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        before = directory.list_sessions("bob")[0].handle
        visitors["bobs"].visit(Session.rotate)
        assert directory.list_sessions("bob")[0].handle == before

    def test_logging_out_takes_a_session_off_the_list(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        visitors["bobs"].visit(lambda session: session.pop("user_id"))
        assert directory.list_sessions("bob") == []

    @pytest.mark.parametrize("user", [7, ("tenant", 7), "x" * 300])
    def test_a_user_of_any_type_is_found_by_the_value_in_the_session(
        self, directory: Directory, manager: SessionManager, user: Any
    ) -> None:
        visitor = Visitor(manager)
        visitor.visit(login(user))
        assert len(directory.list_sessions(user)) == 1
        assert directory.revoke(handle_of(visitor), user_id=user)


class TestRevokingOne:
    def test_it_ends_that_session_and_no_other(
        self, directory: Directory, visitors: dict[str, Visitor], events: list[SessionEvent]
    ) -> None:
        handle = handle_of(visitors["laptop"])
        assert directory.revoke(handle, user_id="alice") is True
        assert standing(visitors) == ALL - {"laptop"}
        assert SessionEvent("ended", handle, "revoked") in events
        assert directory.revoke(handle, user_id="alice") is False

    @pytest.mark.parametrize("user", ["alice", "", "BOB", "bob ", None])
    def test_another_users_handle_ends_nothing(
        self, directory: Directory, visitors: dict[str, Visitor], user: Any
    ) -> None:
        assert directory.revoke(handle_of(visitors["bobs"]), user_id=user) is False
        assert standing(visitors) == ALL

    def test_a_session_without_a_user_cannot_be_revoked_by_anybody(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        for user in ("alice", None, "None", ""):
            assert directory.revoke(handle_of(visitors["guest"]), user_id=user) is False
        assert standing(visitors) == ALL

    @pytest.mark.parametrize("handle", ["", "0123456789ab", "' OR 1=1 --", "\ud800"])
    def test_a_handle_that_is_none_ends_nothing(
        self, directory: Directory, visitors: dict[str, Visitor], handle: str
    ) -> None:
        assert directory.revoke(handle, user_id="alice") is False
        assert standing(visitors) == ALL

    def test_the_user_has_to_be_named(self, directory: Directory) -> None:
        with pytest.raises(TypeError, match="user_id"):
            directory.revoke("0123456789ab")

    def test_a_late_save_does_not_bring_it_back(
        self, directory: Directory, visitors: dict[str, Visitor], events: list[SessionEvent]
    ) -> None:
        late = visitors["laptop"].open()
        late["draft"] = "words"
        directory.revoke(late.handle, user_id="alice")
        assert "Set-Cookie" not in visitors["laptop"].close(late)
        assert not is_in(visitors["laptop"])
        assert events[-1].kind == "stale_save_dropped"

    def test_a_session_that_passes_to_another_user_meanwhile_stands(self) -> None:
        manager, visitor = raced(login("bob"))
        handle = handle_of(visitor)
        assert manager.revoke(handle, user_id="alice") is False
        assert len(manager.list_sessions("bob")) == 1
        assert is_in(visitor)

    @pytest.mark.parametrize("act", [Session.rotate, storing(draft="words")])
    def test_a_session_that_changes_meanwhile_and_stays_the_users_is_ended(
        self, act: Callable[[Session], None]
    ) -> None:
        manager, visitor = raced(act)
        assert manager.revoke(handle_of(visitor), user_id="alice") is True
        assert manager.list_sessions("alice") == []
        assert not is_in(visitor)


def raced(act: Callable[[Session], None]) -> tuple[SessionManager, Visitor]:
    """A manager, and alice on a device that acts when the manager has found her session and is
    about to remove it.
    """
    memory = MemoryStore()
    visitor = Visitor(Managers()(store=memory))
    visitor.visit(login("alice"))
    store = Scripted(memory)
    store.blocking = False
    store.script("remove", preceded_by(lambda: visitor.visit(act)))
    return Managers()(store=store), visitor


class TestRevokingMany:
    def test_all_sessions_of_a_user_end(
        self, directory: Directory, visitors: dict[str, Visitor], events: list[SessionEvent]
    ) -> None:
        assert directory.revoke_user("alice") == 2
        assert standing(visitors) == {"bobs", "guest"}
        assert [event.kind for event in events].count("ended") == 2
        assert directory.revoke_user("alice") == 0

    def test_all_but_the_one_to_keep_end(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        keep = visitors["phone"].open()
        assert directory.revoke_user("alice", keep=keep) == 1
        assert standing(visitors) == ALL - {"laptop"}

    @pytest.mark.parametrize("name", ["bobs", "guest"])
    def test_keeping_somebody_elses_session_keeps_none_of_hers(
        self, directory: Directory, visitors: dict[str, Visitor], name: str
    ) -> None:
        assert directory.revoke_user("alice", keep=visitors[name].open()) == 2
        assert standing(visitors) == {"bobs", "guest"}

    def test_a_session_that_is_not_stored_yet_keeps_nothing(
        self, directory: Directory, manager: SessionManager, visitors: dict[str, Visitor]
    ) -> None:
        assert directory.revoke_user("alice", keep=manager.open(None)) == 2

    def test_a_session_built_by_hand_is_refused_before_anything_ends(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        with pytest.raises(TypeError, match="SessionManager"):
            directory.revoke_user("alice", keep=Session())
        assert standing(visitors) == ALL

    def test_nobodys_sessions_are_no_users(
        self, directory: Directory, visitors: dict[str, Visitor]
    ) -> None:
        assert directory.revoke_user(None) == 0
        assert standing(visitors) == ALL

    def test_everybodys_sessions_end(
        self, directory: Directory, visitors: dict[str, Visitor], events: list[SessionEvent]
    ) -> None:
        assert directory.revoke_all() == 4
        assert standing(visitors) == set()
        assert events[-1].kind == "ended"
        assert directory.revoke_all() == 0

    def test_they_end_for_another_process_too(
        self, directory: Directory, manager: SessionManager, visitors: dict[str, Visitor]
    ) -> None:
        """Its cache asks the database whether a row still stands."""
        other = Managers()(store=manager.store.store, coherence="validate")
        elsewhere = Visitor(other, visitors["phone"].cookie)
        assert is_in(elsewhere)
        directory.revoke_user("alice")
        assert not is_in(elsewhere)


def test_asking_for_nobody_never_finds_a_user_who_is_called_like_it(
    manager: SessionManager,
) -> None:
    for name in ("None", "null", "=null", ""):
        Visitor(manager).visit(login(name))
    assert manager.list_sessions(None) == []
