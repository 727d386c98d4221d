"""``max_sessions_per_user``: the oldest ends, or the newest is refused; parallel logins too."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sessionware import (
    MemoryStore,
    Session,
    SessionEvent,
    SessionLimitReached,
    SessionManager,
    StoreUnavailable,
)
from tests.apps import Managers
from tests.byhand import Clock, Visitor, login, storing
from tests.databases import drivers, url_of
from tests.interleaving import (
    AsyncScripted,
    Group,
    Scripted,
    Step,
    contended,
    lost_after,
    lost_before,
    preceded_by,
)

pytestmark = pytest.mark.anyio

MOST = 3
LOGINS = 20


@pytest.fixture
async def managers(anyio_backend: Any) -> AsyncIterator[Managers]:
    made = Managers()
    yield made
    await made.aclose()


class House:
    """Two workers with the limit on one store, the first of them through a script."""

    def __init__(self, managers: Managers, wrapper: type[Scripted]) -> None:
        self.memory = MemoryStore()
        self.store = wrapper(self.memory)
        self.events: list[SessionEvent] = []
        self._managers = managers

    def worker(self, action: str, most: int = MOST, store: Any = None) -> SessionManager:
        return self._managers(
            store=self.store if store is None else store,
            max_sessions_per_user=most,
            session_limit_action=action,
            on_event=self.events.append,
        )

    def users(self) -> Counter[str | None]:
        """How many sessions each user has."""
        rows = (self.memory.reload(number) for number in range(1, 100))
        return Counter(row.user_id for row in rows if row is not None)


@pytest.fixture(params=[Scripted, AsyncScripted], ids=["threads", "loop"])
def house(request: pytest.FixtureRequest, managers: Managers, clock: Clock) -> House:
    return House(managers, request.param)


async def logged_in(manager: SessionManager, clock: Clock, user: str = "alice") -> Visitor:
    """A browser that logs in, a second after the last one."""
    clock.tick(1)
    visitor = Visitor(manager)
    await visitor.avisit(login(user))
    return visitor


async def standing(visitors: list[Visitor]) -> list[int]:
    """Which of them still have their session."""
    sessions = [await visitor.manager.aopen(visitor.cookie) for visitor in visitors]
    return [number for number, session in enumerate(sessions) if not session.is_new]


async def test_a_login_beyond_the_limit_ends_the_oldest(house: House, clock: Clock) -> None:
    manager = house.worker("end_oldest")
    visitors = [await logged_in(manager, clock) for _ in range(MOST + 2)]
    assert await standing(visitors) == [2, 3, 4]
    ended = [event for event in house.events if event.kind == "ended"]
    assert len(ended) == 2
    assert all(event.handle for event in ended)


async def test_the_oldest_is_who_logged_in_first_not_who_came_first_or_was_seen_least(
    house: House, clock: Clock
) -> None:
    manager = house.worker("end_oldest")
    early_guest = Visitor(manager)
    await early_guest.avisit(storing(cart=1))
    visitors = [await logged_in(manager, clock) for _ in range(MOST)]
    clock.tick(1)
    await visitors[0].avisit(storing(seen="just now"))
    await early_guest.avisit(login("alice"))
    assert await standing([*visitors, early_guest]) == [1, 2, 3]


async def test_other_users_and_guests_are_not_counted(house: House, clock: Clock) -> None:
    for action in ("end_oldest", "refuse"):
        manager = house.worker(action, most=1)
        visitors = [await logged_in(manager, clock, f"{user}-{action}") for user in "abc"]
        guest = Visitor(manager)
        await guest.avisit(storing(cart=1))
        assert await standing([*visitors, guest]) == [0, 1, 2, 3]


async def test_a_login_beyond_the_limit_is_refused_and_changes_nothing(
    house: House, clock: Clock
) -> None:
    manager = house.worker("refuse")
    visitors = [await logged_in(manager, clock) for _ in range(MOST)]
    guest = Visitor(manager)
    await guest.avisit(storing(cart=1))
    session = await manager.aopen(guest.cookie)
    session["user_id"] = "alice"
    with pytest.raises(SessionLimitReached):
        await session.asave()
    del session["user_id"]
    assert dict(await manager.aclose(session)).keys() <= {"Vary"}
    assert await standing([*visitors, guest]) == [0, 1, 2, 3]
    assert house.users() == {"alice": MOST, None: 1}
    assert not house.memory._leases


async def test_who_has_logged_out_or_expired_makes_room(house: House, clock: Clock) -> None:
    manager = house.worker("refuse")
    visitors = [await logged_in(manager, clock) for _ in range(MOST)]
    await visitors[0].avisit(Session.invalidate)
    visitors.append(await logged_in(manager, clock))
    with pytest.raises(SessionLimitReached):
        await logged_in(manager, clock)
    clock.tick(manager.settings.max_age or 0)
    visitors += [await logged_in(manager, clock) for _ in range(MOST)]
    assert await standing(visitors) == [4, 5, 6]


async def test_a_new_login_in_a_session_of_the_users_own_is_no_session_more(
    house: House, clock: Clock
) -> None:
    manager = house.worker("refuse", most=1)
    visitor = await logged_in(manager, clock)

    def again(session: Session) -> None:
        session.rotate(authenticated=True)

    def anew(session: Session) -> None:
        session.invalidate()
        session["user_id"] = "alice"

    for act in (again, anew, login("bob"), login("alice")):
        await visitor.avisit(act)
    assert house.users() == {"alice": 1}


async def test_a_refused_login_can_be_let_in_when_another_session_was_ended(
    house: House, clock: Clock
) -> None:
    manager = house.worker("refuse", most=1)
    old = await logged_in(manager, clock)
    visitor = Visitor(manager)
    session = await manager.aopen(None)
    session["user_id"] = "alice"
    with pytest.raises(SessionLimitReached):
        await session.asave()
    (other,) = await manager.alist_sessions("alice")
    await manager.arevoke(other.handle, user_id="alice")
    visitor.keep(await manager.aclose(session))
    assert await standing([old, visitor]) == [1]


# Others come in between, and the store fails.


async def test_a_session_that_has_another_user_by_now_is_spared(house: House, clock: Clock) -> None:
    manager = house.worker("end_oldest", most=1)
    there = house.worker("end_oldest", most=1, store=house.memory)
    first = await logged_in(manager, clock)
    elsewhere = Visitor(there, first.cookie)
    house.store.script("remove", preceded_by(lambda: elsewhere.visit(login("bob"))))
    second = await logged_in(manager, clock)
    assert house.store.finished
    assert house.users() == {"alice": 1, "bob": 1}
    assert await standing([second, elsewhere]) == [0, 1]


async def test_a_session_that_was_rotated_in_between_is_ended_all_the_same(
    house: House, clock: Clock
) -> None:
    manager = house.worker("end_oldest", most=1)
    there = house.worker("end_oldest", most=1, store=house.memory)
    elsewhere = Visitor(there, (await logged_in(manager, clock)).cookie)
    house.store.script("remove", preceded_by(lambda: elsewhere.visit(Session.rotate)))
    await logged_in(manager, clock)
    assert house.store.finished
    assert house.users() == {"alice": 1}


async def test_a_deadlock_while_the_oldest_ends_is_tried_again(house: House, clock: Clock) -> None:
    manager = house.worker("end_oldest", most=1)
    await logged_in(manager, clock)
    house.store.script("remove", contended, contended)
    await logged_in(manager, clock)
    assert house.store.finished
    assert house.users() == {"alice": 1}


@pytest.mark.parametrize("method", ["user_rows", "remove"])
async def test_a_login_that_is_done_counts_although_the_oldest_could_not_be_ended(
    house: House, clock: Clock, method: str
) -> None:
    manager = house.worker("end_oldest", most=1)
    old = await logged_in(manager, clock)
    house.store.script(method, unavailable)
    new = await logged_in(manager, clock)
    assert await standing([old, new]) == [0, 1]
    assert house.events[-1].kind == "store_error"
    newest = await logged_in(manager, clock)
    assert await standing([old, new, newest]) == [2]


def unavailable(do: Callable[[], Any]) -> Any:
    raise StoreUnavailable("it is down")


@pytest.mark.parametrize("step", [lost_before, lost_after, contended])
@pytest.mark.parametrize("method", ["claim", "release"])
async def test_a_lost_answer_about_the_lease_neither_fails_a_login_nor_bars_the_next(
    house: House, clock: Clock, method: str, step: Step
) -> None:
    manager = house.worker("refuse")
    house.store.script(method, step)
    visitor = await logged_in(manager, clock)
    assert house.store.finished
    assert not house.memory._leases
    assert await standing([visitor, await logged_in(manager, clock)]) == [0, 1]


@pytest.mark.parametrize("method", ["user_rows", "insert"])
async def test_a_login_that_fails_gives_the_lease_back(
    house: House, clock: Clock, method: str
) -> None:
    manager = house.worker("refuse")
    house.store.script(method, unavailable)
    with pytest.raises(StoreUnavailable):
        await logged_in(manager, clock)
    assert not house.memory._leases
    assert house.users() == {}


# Parallel logins on real databases.


@pytest.fixture
def workers(
    driver: str, request: pytest.FixtureRequest, managers: Managers, table_name: str
) -> Callable[[str], list[SessionManager]]:
    """Makes two workers on one database."""

    def make(action: str) -> list[SessionManager]:
        settings = {
            "store": url_of(driver, request),
            "table_name": table_name,
            "store_timeout": 20,
            "max_sessions_per_user": MOST,
            "session_limit_action": action,
        }
        return [managers(**settings) for _ in range(2)]

    return make


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("action", ["end_oldest", "refuse"])
@drivers("sqlite", "psycopg", "asyncpg", "pymysql")
async def test_of_twenty_parallel_logins_exactly_as_many_stand_as_may(
    workers: Callable[[str], list[SessionManager]], action: str, anyio_backend: str
) -> None:
    pair = workers(action)
    outcomes: Counter[str] = Counter()

    async def enter(number: int) -> None:
        visitor = Visitor(pair[number % 2])
        # Half of them had a session before.
        if number % 4 < 2:
            await visitor.avisit(storing(cart=number))
        together.append(number)
        if len(together) == LOGINS:
            go.set()
        await go.wait()
        try:
            await visitor.avisit(login("alice"))
            outcomes["in"] += 1
        except SessionLimitReached:
            outcomes["refused"] += 1

    together: list[int] = []
    go = anyio.Event()
    async with Group() as group:
        for number in range(LOGINS):
            group.start_soon(enter, number)
    assert len(await pair[0].alist_sessions("alice")) == MOST
    let_in = LOGINS if action == "end_oldest" else MOST
    assert outcomes == Counter({"in": let_in, "refused": LOGINS - let_in})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("action", ["end_oldest", "refuse"])
@drivers("sqlite", "psycopg", "pymysql")
async def test_of_twenty_logins_in_threads_exactly_as_many_stand_as_may(
    workers: Callable[[str], list[SessionManager]], action: str, anyio_backend: str
) -> None:
    pair = workers(action)
    outcomes: list[str] = []
    barrier = threading.Barrier(LOGINS)

    def enter(number: int) -> None:
        visitor = Visitor(pair[number % 2])
        barrier.wait(20)
        try:
            visitor.visit(login("alice"))
        except Exception as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append("in")

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(LOGINS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    let_in = LOGINS if action == "end_oldest" else MOST
    assert Counter(outcomes) == Counter({"in": let_in, "SessionLimitReached": LOGINS - let_in})
    assert len(await pair[0].alist_sessions("alice")) == MOST
