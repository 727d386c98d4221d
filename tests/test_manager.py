"""The manager by hand: open a session, close it, look at the counters, shut down and go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from sessionware import (
    ConfigurationError,
    MemoryStore,
    SerializationError,
    Session,
    SessionEvent,
    SessionGone,
    SessionManager,
    SessionTooLarge,
    StoreUnavailable,
    manager_of,
)
from sessionware.stores.protocol import Found, Row, Stamp
from tests.apps import Managers, attributes
from tests.byhand import Clock, Visitor, expiring, login, storing

pytestmark = pytest.mark.anyio


class Failing(MemoryStore):
    """A store in memory that can be out of reach."""

    down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("out of reach")

    def load(self, sid_hash: bytes, now: int) -> Found:
        self._check()
        return super().load(sid_hash, now)

    def stamp(self, sid_hash: bytes) -> Stamp | None:
        self._check()
        return super().stamp(sid_hash)

    def insert(self, row: Row) -> int:
        self._check()
        return super().insert(row)

    def replace(self, old: Row, new: Row, now: int) -> bool:
        self._check()
        return super().replace(old, new, now)


@pytest.fixture
def events() -> list[SessionEvent]:
    return []


@pytest.fixture
def make(clock: Clock, events: list[SessionEvent]) -> Callable[..., SessionManager]:
    """Makes managers over stores in memory."""
    managers = Managers()

    def made(**settings: Any) -> SessionManager:
        return managers(**{"store": Failing(), "on_event": events.append, **settings})

    return made


@pytest.fixture
def visitor(make: Callable[..., SessionManager]) -> Visitor:
    return Visitor(make())


def kinds(events: list[SessionEvent]) -> list[str]:
    return [event.kind for event in events]


class TestOpeningAndClosing:
    def test_what_is_stored_is_there_the_next_time(self, visitor: Visitor) -> None:
        headers = visitor.visit(storing(cart=["tea"]))
        assert visitor.content() == {"cart": ["tea"]}
        assert set(headers) == {"Vary", "Cache-Control", "Set-Cookie"}
        assert (headers["Vary"], headers["Cache-Control"]) == ("Cookie", "no-store")
        assert attributes(headers["Set-Cookie"])["max-age"] == "1209600"

    async def test_the_coroutines_do_the_same(self, visitor: Visitor) -> None:
        headers = await visitor.avisit(storing(cart=["tea"]))
        assert set(headers) == {"Vary", "Cache-Control", "Set-Cookie"}
        assert await visitor.avisit(lambda session: session["cart"].append("milk")) == {
            "Vary": "Cookie"
        }
        assert visitor.content() == {"cart": ["tea", "milk"]}

    @pytest.mark.parametrize(
        ("act", "headers"), [(lambda session: None, {}), (len, {"Vary": "Cookie"})]
    )
    def test_a_read_varies_and_no_use_says_nothing(
        self, visitor: Visitor, act: Callable[[Session], object], headers: dict[str, str]
    ) -> None:
        assert visitor.visit(act) == headers
        visitor.visit(storing(a=1))
        assert visitor.visit(act) == headers

    @pytest.mark.parametrize("cookie", [None, "", "other=1", b"", b"other=1"])
    def test_without_our_cookie_a_session_is_new(
        self, visitor: Visitor, cookie: Any, events: list[SessionEvent]
    ) -> None:
        session = visitor.manager.open(cookie)
        assert session == {}
        assert session.is_new
        assert manager_of(session) is visitor.manager
        assert events == []

    @pytest.mark.parametrize(
        "cookie",
        ["session=forged", b"session=\xff\xfe", "session=\u2028", "session=\U0001f600", "session="],
        ids=ascii,
    )
    def test_a_bad_cookie_is_nobodys_whatever_is_in_it(
        self, visitor: Visitor, cookie: Any, events: list[SessionEvent]
    ) -> None:
        assert visitor.manager.open(cookie).is_new
        assert kinds(events) == ["bad_signature"]

    def test_a_cookie_may_come_as_text_or_as_bytes(self, visitor: Visitor) -> None:
        visitor.visit(storing(a=1))
        text = f"theme=dark; {visitor.cookie}; lang=en"
        assert visitor.manager.open(text) == visitor.manager.open(text.encode()) == {"a": 1}

    def test_two_different_sessions_at_once_are_nobodys(
        self, visitor: Visitor, events: list[SessionEvent]
    ) -> None:
        other = Visitor(visitor.manager)
        for each in (visitor, other):
            each.visit(storing(a=1))
        both = Visitor(visitor.manager, f"{visitor.cookie}; {other.cookie}")
        assert "Set-Cookie" not in both.visit()
        assert both.content() == {}
        assert kinds(events)[2:] == ["duplicate", "duplicate"]

    def test_an_id_that_the_store_does_not_know_is_never_adopted(
        self, visitor: Visitor, make: Callable[..., SessionManager]
    ) -> None:
        visitor.visit(storing(a=1))
        elsewhere = Visitor(make(), visitor.cookie)
        elsewhere.visit(storing(b=1))
        assert elsewhere.cookie != visitor.cookie
        assert elsewhere.content() == {"b": 1}

    def test_closing_twice_saves_what_came_between_and_repeats_no_cookie(
        self, visitor: Visitor
    ) -> None:
        session = visitor.open()
        session["a"] = 1
        assert "Set-Cookie" in visitor.close(session)
        assert visitor.close(session) == {"Vary": "Cookie"}
        session["b"] = 2
        assert visitor.close(session) == {"Vary": "Cookie"}
        assert visitor.content() == {"a": 1, "b": 2}

    def test_a_failed_request_discards_its_changes(self, visitor: Visitor) -> None:
        visitor.visit(storing(a=1))
        session = visitor.open()
        session["a"] = 2
        assert visitor.close(session, failed=True) == {"Vary": "Cookie"}
        assert visitor.content() == {"a": 1}

    def test_a_failed_request_that_logged_out_is_logged_out(self, visitor: Visitor) -> None:
        visitor.visit(storing(a=1))
        session = visitor.open()
        session.invalidate()
        assert "expires=" in visitor.close(session, failed=True)["Set-Cookie"]
        assert visitor.cookie is None

    @pytest.mark.parametrize("end", [Session.clear, Session.invalidate])
    def test_ending_expires_the_cookie_and_the_id_is_dead(
        self, visitor: Visitor, end: Callable[[Session], None]
    ) -> None:
        visitor.visit(storing(a=1))
        again = Visitor(visitor.manager, visitor.cookie)
        assert "expires=" in visitor.visit(end)["Set-Cookie"]
        assert again.content() == {}

    @pytest.mark.parametrize(
        ("value", "error"), [(object(), SerializationError), ("x" * 70_000, SessionTooLarge)]
    )
    def test_what_cannot_be_stored_leaves_the_stored_content(
        self, visitor: Visitor, value: object, error: type[Exception]
    ) -> None:
        visitor.visit(storing(a=1))
        session = visitor.open()
        session["b"] = value
        with pytest.raises(error):
            visitor.close(session)
        assert visitor.content() == {"a": 1}

    def test_a_session_of_no_manager_cannot_be_closed(self, visitor: Visitor) -> None:
        with pytest.raises(TypeError, match="SessionManager"):
            visitor.manager.close(Session(a=1))


class TestWhereOthersWereFirst:
    def test_parallel_requests_keep_each_others_keys(self, visitor: Visitor) -> None:
        visitor.visit(storing(a=1, b=1))
        one, other = visitor.open(), visitor.open()
        one["a"] = 2
        del other["b"]
        other["c"] = 3
        visitor.close(one)
        visitor.close(other)
        assert visitor.content() == {"a": 2, "c": 3}

    def test_a_late_save_brings_no_session_back(
        self, visitor: Visitor, events: list[SessionEvent]
    ) -> None:
        visitor.visit(storing(a=1))
        late = visitor.open()
        late["b"] = 1
        Visitor(visitor.manager, visitor.cookie).visit(Session.invalidate)
        assert visitor.close(late) == {"Vary": "Cookie"}
        assert visitor.content() == {}
        assert kinds(events)[-1] == "stale_save_dropped"

    def test_a_late_save_of_the_user_before_does_not_reach_the_next_one(
        self, visitor: Visitor
    ) -> None:
        visitor.visit(login("alice"))
        late = visitor.open()
        late["secret"] = "hers"
        visitor.visit(login("bob"))
        Visitor(visitor.manager).close(late)
        assert visitor.content() == {"user_id": "bob"}

    def test_an_explicit_save_says_that_it_was_too_late(self, visitor: Visitor) -> None:
        visitor.visit(storing(a=1))
        late = visitor.open()
        late["b"] = 1
        Visitor(visitor.manager, visitor.cookie).visit(Session.invalidate)
        with pytest.raises(SessionGone):
            late.save()

    def test_a_replaced_id_sees_nothing_and_saves_nothing_for_a_minute(
        self, visitor: Visitor, clock: Clock, events: list[SessionEvent]
    ) -> None:
        visitor.visit(storing(a=1))
        old = Visitor(visitor.manager, visitor.cookie)
        visitor.visit(Session.rotate)
        assert old.visit(storing(b=1)) == {"Vary": "Cookie"}
        assert visitor.content() == {"a": 1}
        assert "retired_id_used" in kinds(events)
        session = old.open()
        session["b"] = 1
        with pytest.raises(SessionGone):
            session.save()


class TestExpiry:
    @pytest.mark.parametrize("elsewhere", [True, False], ids=["from the store", "from the cache"])
    def test_an_idle_session_ends_to_the_second_though_its_row_is_there(
        self,
        make: Callable[..., SessionManager],
        clock: Clock,
        events: list[SessionEvent],
        elsewhere: bool,
    ) -> None:
        visitor = Visitor(make(idle_timeout=600, coherence="bounded"))
        visitor.visit(storing(a=1))
        if elsewhere:
            visitor.manager.store.cache.clear()
        clock.tick(599.999)
        assert len(visitor.open()) == 1
        clock.tick(0.001)
        assert visitor.visit() == {"Vary": "Cookie"}
        assert visitor.content() == {}
        assert "expired" in kinds(events)

    def test_activity_seen_by_another_process_keeps_a_session_alive_in_this_ones_cache(
        self, make: Callable[..., SessionManager], clock: Clock
    ) -> None:
        here = Visitor(make(idle_timeout=600, coherence="bounded"))
        here.visit(storing(a=1))
        elsewhere = Visitor(
            make(store=here.manager.store.store, idle_timeout=600, coherence="bounded"),
            here.cookie,
        )
        clock.tick(500)
        elsewhere.visit()
        clock.tick(200)
        assert here.content() == {"a": 1}

    def test_every_kind_of_activity_keeps_a_rolling_idle_session_alive(
        self, make: Callable[..., SessionManager], clock: Clock
    ) -> None:
        visitor = Visitor(make(idle_timeout=600, rolling=True))
        visitor.visit(storing(first=1))
        for count in range(1, 20):
            clock.tick(100)
            visitor.visit(storing(count=count))
        assert visitor.content() == {"first": 1, "count": 19}

    def test_a_rolling_session_renews_its_cookie_at_most_once_in_its_interval(
        self, make: Callable[..., SessionManager], clock: Clock
    ) -> None:
        visitor = Visitor(make(max_age=1000, rolling=True))
        visitor.visit(storing(a=1))
        renewed = []
        for _ in range(100):
            clock.tick(10)
            renewed.append("Set-Cookie" in visitor.visit())
        assert renewed == ([False] * 9 + [True]) * 10
        clock.tick(1000)
        assert visitor.content() == {}

    def test_the_absolute_end_comes_whatever_happens(
        self, make: Callable[..., SessionManager], clock: Clock
    ) -> None:
        visitor = Visitor(make(absolute_timeout=3600, idle_timeout=600, rolling=True))
        visitor.visit(storing(a=1))
        for minute in range(1, 60):
            clock.tick(60)
            visitor.visit(Session.rotate if minute % 7 == 0 else len)
            assert visitor.content() == {"a": 1}
        clock.tick(60)
        assert visitor.content() == {}

    def test_a_session_of_the_browsers_run_has_no_max_age(self, visitor: Visitor) -> None:
        headers = visitor.visit(expiring(0, a=1))
        assert "max-age" not in attributes(headers["Set-Cookie"])


class TestAStoreThatFails:
    def test_a_session_that_could_not_be_read_raises_on_use_and_is_not_empty(
        self, visitor: Visitor, events: list[SessionEvent]
    ) -> None:
        visitor.visit(storing(a=1))
        visitor.manager.store.store.down = True
        session = visitor.open()
        with pytest.raises(StoreUnavailable):
            session.get("a")
        with pytest.raises(StoreUnavailable):
            session["a"] = 2
        assert "Set-Cookie" not in visitor.close(session)
        visitor.manager.store.store.down = False
        assert visitor.content() == {"a": 1}
        assert "store_error" in kinds(events)

    def test_whoever_does_not_use_the_session_is_served(self, visitor: Visitor) -> None:
        visitor.visit(storing(a=1))
        visitor.manager.store.store.down = True
        assert visitor.visit(lambda session: None) == {}

    def test_a_save_that_fails_is_raised_and_reported(
        self, visitor: Visitor, events: list[SessionEvent]
    ) -> None:
        visitor.manager.store.store.down = True
        with pytest.raises(StoreUnavailable):
            visitor.visit(storing(a=1))
        assert kinds(events) == ["store_error"]
        assert visitor.cookie is None

    @pytest.mark.parametrize(("timeout", "seconds"), [(0.1, 1), (2.0, 2), (2.5, 3)])
    def test_clients_are_told_to_come_again_when_the_timeout_has_passed(
        self, make: Callable[..., SessionManager], timeout: float, seconds: int
    ) -> None:
        assert make(store_timeout=timeout).retry_after == seconds


class TestStats:
    def test_they_count_hits_misses_entries_bytes_and_events(
        self, make: Callable[..., SessionManager]
    ) -> None:
        visitor = Visitor(make(coherence="bounded"))
        assert visitor.manager.stats() == {
            "cache_hits": 0,
            "cache_misses": 0,
            "cache_entries": 0,
            "cache_bytes": 0,
            "cache_trusted": True,
            "events": {},
        }
        visitor.visit(storing(a=1))
        visitor.manager.store.cache.clear()
        for _ in range(3):
            visitor.visit()
        Visitor(visitor.manager, "session=forged").visit()
        stats = visitor.manager.stats()
        assert stats["cache_hits"] == 2
        assert stats["cache_misses"] >= 1
        assert stats["cache_entries"] == 1
        assert stats["cache_bytes"] == visitor.manager.store.cache.size > 0
        assert stats["events"] == {"created": 1, "bad_signature": 1}

    def test_a_warm_read_asks_the_store_for_nothing(
        self, make: Callable[..., SessionManager]
    ) -> None:
        visitor = Visitor(make(coherence="bounded"))
        visitor.visit(storing(a=1))
        visitor.manager.store.store.down = True
        assert visitor.content() == {"a": 1}

    def test_no_two_requests_share_an_object(self, make: Callable[..., SessionManager]) -> None:
        visitor = Visitor(make(coherence="bounded"))
        visitor.visit(storing(cart=["tea"]))
        one = visitor.open()
        one["cart"].append("milk")
        visitor.close(one, failed=True)
        assert visitor.content() == {"cart": ["tea"]}


class TestShutdown:
    @pytest.mark.parametrize("how", ["plain", "coroutine"])
    @pytest.mark.parametrize("kind", ["memory", "sqlite"])
    def test_the_manager_can_be_used_again_afterwards(
        self, make: Callable[..., SessionManager], sqlite_url: str, how: str, kind: str
    ) -> None:
        manager = make(store=MemoryStore() if kind == "memory" else sqlite_url)
        visitor = Visitor(manager)
        for count in range(3):
            visitor.visit(storing(count=count))
            if how == "plain":
                manager.shutdown()
            else:
                anyio.run(manager.ashutdown)
            assert manager.stats()["cache_entries"] == 0
            assert visitor.content() == {"count": count}
        manager.shutdown()

    def test_shutting_down_what_was_never_used_is_nothing(
        self, make: Callable[..., SessionManager], sqlite_url: str
    ) -> None:
        manager = make(store=sqlite_url)
        manager.shutdown()
        manager.shutdown()

    def test_an_async_store_is_used_in_one_loop_after_the_other(
        self, make: Callable[..., SessionManager], sqlite_url: str
    ) -> None:
        manager = make(store=sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
        visitor = Visitor(manager)

        async def use(count: int) -> None:
            await visitor.avisit(storing(count=count))
            session = await manager.aopen(visitor.cookie)
            assert session == {"count": count}
            await manager.ashutdown()

        for count in range(2):
            asyncio.run(use(count))

    def test_an_async_store_refuses_plain_threads_with_the_way_out(
        self, make: Callable[..., SessionManager], sqlite_url: str
    ) -> None:
        manager = make(store=sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
        with pytest.raises(ConfigurationError, match="SW020"):
            Visitor(manager).visit(storing(a=1))


def test_building_a_manager_touches_nothing(
    make: Callable[..., SessionManager], sqlite_url: str, tmp_path: Any
) -> None:
    make(store=sqlite_url)
    assert list(tmp_path.iterdir()) == []


def test_two_managers_with_one_secret_and_different_cookie_names_do_not_mix(
    make: Callable[..., SessionManager],
) -> None:
    shop = Visitor(make(session_cookie="shop"))
    shop.visit(storing(a=1))
    token = str(shop.cookie).partition("=")[2]
    admin = make(store=shop.manager.store.store, session_cookie="admin")
    assert admin.open(f"admin={token}").is_new
