"""``Session.lock`` and ``alock``: the block, its end, and what becomes of the lease when things
fail.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sessionware import (
    LockTimeout,
    MemoryStore,
    Session,
    SessionGone,
    SessionManager,
    StoreUnavailable,
)
from sessionware.session import NoSession
from tests.apps import Managers
from tests.byhand import Clock, Visitor, storing
from tests.interleaving import (
    PATIENCE,
    AsyncScripted,
    Gate,
    Group,
    Scripted,
    Step,
    contended,
    held_after,
    held_before,
    lost_after,
    lost_before,
    preceded_by,
)

pytestmark = pytest.mark.anyio


class Hall:
    """Two workers on one store, the first of them through a script; and a browser's session."""

    def __init__(self, managers: Managers, wrapper: type[Scripted], in_threads: bool) -> None:
        self.memory = MemoryStore()
        self.store = wrapper(self.memory)
        self.here: SessionManager = managers(store=self.store, store_timeout=0.5)
        self.there: SessionManager = managers(store=self.memory)
        self._in_threads = in_threads
        self._visitor = Visitor(self.there)
        self._visitor.visit(storing(n=1))

    async def open(self, manager: SessionManager | None = None) -> Session:
        """One request, which has loaded its session."""
        return await (manager or self.here).aopen(self._visitor.cookie)

    async def close(self, session: Session) -> None:
        await self.here.aclose(session)

    @asynccontextmanager
    async def locked(self, session: Session, *args: Any, **more: Any) -> AsyncIterator[Session]:
        """``alock``, or ``lock`` in a worker thread as a ``def`` handler would."""
        if not self._in_threads:
            async with session.alock(*args, **more) as entered:
                yield entered
            return
        lock = session.lock(*args, **more)
        entered = await anyio.to_thread.run_sync(lock.__enter__)
        try:
            yield entered
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lock.__exit__, type(error), error, None)
            raise
        await anyio.to_thread.run_sync(lock.__exit__, None, None, None)

    def content(self) -> dict[Any, Any]:
        """What is stored."""
        return self._visitor.content()

    def visit(self, act: Callable[[Session], object]) -> None:
        """Another request of the browser, at the other worker."""
        self._visitor.visit(act)

    @property
    def is_free(self) -> bool:
        return not self.memory._leases

    @property
    def is_at_work(self) -> bool:
        """Whether a flow goes on for which nobody may be waiting any more."""
        runner: Any = self.here.store.runner
        return bool(getattr(runner, "_under_way", None) or getattr(runner, "_tasks", None))

    async def is_kept_from(self, other: Session) -> bool:
        """Whether another request, which does not wait, gets no lock."""
        try:
            async with other.alock(0):
                return False
        except LockTimeout:
            return True

    async def becomes_free(self) -> None:
        with anyio.fail_after(PATIENCE):
            while self.is_at_work or not self.is_free:
                await anyio.sleep(0.01)


@pytest.fixture
async def managers(anyio_backend: Any) -> AsyncIterator[Managers]:
    made = Managers()
    yield made
    await made.aclose()


@pytest.fixture(
    params=[(Scripted, False), (Scripted, True), (AsyncScripted, False), (AsyncScripted, True)],
    ids=["alock in threads", "lock in threads", "alock in the loop", "lock in the loop"],
)
def hall(request: pytest.FixtureRequest, managers: Managers) -> Hall:
    return Hall(managers, *request.param)


async def test_while_one_handler_holds_the_lock_another_worker_does_not_get_it(hall: Hall) -> None:
    mine, theirs = await hall.open(), await hall.open(hall.there)
    async with hall.locked(mine):
        with pytest.raises(LockTimeout):
            async with theirs.alock(timeout=0.05):
                pytest.fail("both have it")
    async with theirs.alock(timeout=0):
        pass
    assert hall.is_free


async def test_the_block_finds_what_the_holder_before_has_stored(hall: Hall) -> None:
    mine, theirs = await hall.open(), await hall.open(hall.there)
    got: list[Any] = []

    async def second() -> None:
        async with theirs.alock():
            got.append(theirs["n"])
            theirs["n"] += 1

    async with Group() as group, hall.locked(mine) as entered:
        assert entered is mine
        group.start_soon(second)
        await anyio.sleep(0.05)
        mine["n"] = 10
    assert got == [10]
    assert hall.content() == {"n": 11}


async def test_the_end_of_the_block_saves_also_what_the_request_wrote_before_it(hall: Hall) -> None:
    session = await hall.open()
    session["before"] = 1
    hall.visit(storing(other=1))
    async with hall.locked(session):
        assert session == {"n": 1, "before": 1, "other": 1}
        session["inside"] = 1
    assert hall.content() == {"n": 1, "before": 1, "other": 1, "inside": 1}


async def test_what_a_failed_block_did_is_not_saved_with_the_response_either(hall: Hall) -> None:
    session = await hall.open()
    session["before"] = 1

    async def request() -> None:
        async with hall.locked(session):
            session["n"] = [2]
            session["inside"] = 1
            del session["before"]
            session.rotate()
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError):
        await request()
    assert session == {"n": 1, "before": 1}
    assert hall.is_free
    await hall.close(session)
    assert hall.content() == {"n": 1, "before": 1}


async def test_what_a_failed_block_saved_itself_stays(hall: Hall) -> None:
    session = await hall.open()

    async def request() -> None:
        async with hall.locked(session):
            session["n"] = 2
            await session.asave()
            session["n"] = 3
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError):
        await request()
    assert session == {"n": 2}
    await hall.close(session)
    assert hall.content() == {"n": 2}


async def test_a_logout_in_a_failed_block_holds(hall: Hall) -> None:
    session = await hall.open()

    async def request() -> None:
        async with hall.locked(session):
            session.invalidate()
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError):
        await request()
    await hall.close(session)
    assert hall.content() == {}


async def test_who_held_it_for_too_long_saves_nothing_and_shuts_nobody_out(
    hall: Hall, clock: Clock
) -> None:
    mine, theirs = await hall.open(), await hall.open(hall.there)

    async def request() -> None:
        async with hall.locked(mine, hold=30):
            mine["n"] = 2
            clock.tick(29)
            with pytest.raises(LockTimeout):
                async with theirs.alock(0):
                    pytest.fail("it still holds")
            clock.tick(6)
            async with theirs.alock(0):
                theirs["n"] = 3
            async with theirs.alock(0):
                pass

    with pytest.raises(LockTimeout):
        await request()
    await hall.close(mine)
    assert hall.content() == {"n": 3}
    assert hall.is_free


async def test_the_lock_outlasts_a_save_that_begins_at_its_end_and_takes_the_stores_time(
    hall: Hall, clock: Clock
) -> None:
    mine, theirs = await hall.open(), await hall.open(hall.there)
    shut_out: list[bool] = []

    def slowly(do: Callable[[], Any]) -> Any:
        clock.tick(0.5)
        lease = hall.memory._leases.copy()
        shut_out.append(not any(hall.memory.claim(key, clock(), clock() + 1) for key in lease))
        return do()

    hall.store.script("replace", slowly)
    async with hall.locked(mine, hold=1):
        mine["n"] = 2
        clock.tick(0.99)
    assert shut_out == [True]
    async with theirs.alock(0):
        assert theirs["n"] == 2


async def test_giving_back_late_does_not_end_the_next_holders_lock(
    hall: Hall, clock: Clock
) -> None:
    mine, theirs = await hall.open(), await hall.open(hall.there)
    third = await hall.open(hall.there)
    lock = theirs.alock(0)

    async def request() -> None:
        async with hall.locked(mine, hold=1):
            clock.tick(2)
            await lock.__aenter__()

    with pytest.raises(LockTimeout):
        await request()
    with pytest.raises(LockTimeout):
        async with third.alock(0):
            pytest.fail("two have it")
    await lock.__aexit__(None, None, None)


async def test_a_request_that_holds_the_lock_can_not_lock_again(hall: Hall) -> None:
    session = await hall.open()
    async with hall.locked(session):
        with pytest.raises(RuntimeError, match="already"):
            async with hall.locked(session):
                pytest.fail("twice")
        session["n"] = 2
    assert hall.content() == {"n": 2}
    async with hall.locked(session):
        pass
    assert hall.is_free


@pytest.mark.parametrize("act", [Session.rotate, Session.clear, Session.invalidate])
async def test_whatever_becomes_of_the_session_in_the_block_the_lock_is_given_back(
    hall: Hall, act: Callable[[Session], None]
) -> None:
    session = await hall.open()
    async with hall.locked(session):
        act(session)
        session["after"] = 1
    assert hall.is_free
    async with hall.locked(session):
        session["n"] = 2
    assert session["after"] == 1
    assert hall.is_free


async def test_a_session_that_ends_in_the_block_is_gone_at_its_end(hall: Hall) -> None:
    session = await hall.open()

    async def request() -> None:
        async with hall.locked(session):
            hall.visit(Session.invalidate)
            session["n"] = 2

    with pytest.raises(SessionGone):
        await request()
    assert hall.is_free
    assert hall.content() == {}


async def test_a_session_that_has_ended_can_not_be_locked(hall: Hall) -> None:
    session = await hall.open()
    hall.visit(Session.invalidate)
    with pytest.raises(SessionGone):
        async with hall.locked(session):
            pytest.fail("it has ended")
    assert hall.is_free


async def test_a_request_with_an_id_that_was_rotated_away_gets_no_lock(hall: Hall) -> None:
    cookie = hall._visitor.cookie
    hall.visit(Session.rotate)
    session = await hall.here.aopen(cookie)
    with pytest.raises(SessionGone):
        async with hall.locked(session):
            pytest.fail("it can't be saved")


async def test_the_lock_of_a_new_session_waits_for_nobody_and_saves_it(hall: Hall) -> None:
    session = await hall.here.aopen(None)
    async with hall.locked(session):
        session["first"] = 1
    assert hall.store.calls["claim"] == 0
    assert not session.is_new
    assert hall.memory.count(0) == 2
    async with hall.locked(session):
        pass


def test_where_there_is_no_session_there_is_no_lock() -> None:
    for session in (NoSession(), Session()):
        with pytest.raises(RuntimeError):
            session.lock()


@pytest.mark.parametrize(
    "wrong", [{"timeout": -1}, {"timeout": float("nan")}, {"hold": 0}, {"hold": float("inf")}]
)
async def test_times_that_make_no_sense_are_refused(hall: Hall, wrong: dict[str, float]) -> None:
    session = await hall.open()
    with pytest.raises(ValueError, match=r"timeout|hold"):
        session.alock(**wrong)


async def test_the_plain_lock_is_refused_in_an_event_loop_whatever_the_store(hall: Hall) -> None:
    for manager in (hall.here, hall.there):
        session = await hall.open(manager)
        with pytest.raises(RuntimeError, match="alock"), session.lock():
            pytest.fail("the holder may be a task of this loop")
    assert hall.is_free


# The store fails.


async def test_a_claim_whose_answer_was_lost_is_not_left_behind(hall: Hall) -> None:
    for step in (lost_before, lost_after, contended):
        hall.store.script("claim", step)
        session = await hall.open()
        async with hall.locked(session, timeout=1):
            session["n"] = 2
        assert hall.store.finished
        assert hall.is_free


def unavailable(do: Callable[[], Any]) -> Any:
    raise StoreUnavailable("it is down")


def carried_out(do: Callable[[], Any]) -> Any:
    return do()


@pytest.mark.parametrize("method", ["claim", "reload", "replace"])
async def test_where_the_store_fails_its_error_is_raised_and_the_lock_given_back(
    hall: Hall, method: str
) -> None:
    session = await hall.open()
    hall.store.script(method, unavailable)
    with pytest.raises(StoreUnavailable, match="it is down"):
        async with hall.locked(session):
            session["n"] = 2
    assert hall.store.finished
    assert hall.is_free
    await hall.close(session)
    assert hall.content() == {"n": 1}


@pytest.mark.parametrize("step", [contended, lost_before, lost_after])
async def test_a_release_is_tried_again(hall: Hall, step: Step) -> None:
    session = await hall.open()
    hall.store.script("release", step)
    async with hall.locked(session):
        session["n"] = 2
    assert hall.is_free


async def test_a_lock_that_can_not_be_given_back_fails_nobody(hall: Hall) -> None:
    session = await hall.open()
    hall.store.script("release", unavailable)
    async with hall.locked(session):
        session["n"] = 2
    assert not hall.is_free
    hall.memory._leases.clear()
    hall.store.script("release", unavailable)

    async def request() -> None:
        async with hall.locked(session):
            hall.visit(Session.invalidate)
            session["n"] = 3

    with pytest.raises(SessionGone):
        await request()


@pytest.mark.parametrize("in_threads", [False, True])
async def test_a_store_that_is_too_slow_to_give_it_back_fails_nobody(
    managers: Managers, in_threads: bool
) -> None:
    hall, gate = Hall(managers, Scripted, in_threads), Gate()
    session = await hall.open()
    hall.store.script("release", held_before(gate))
    async with hall.locked(session):
        session["n"] = 2
    gate.open()
    assert hall.content() == {"n": 2}
    await hall.becomes_free()


# A write goes on when those who wait for it go away.


async def at_the_end(session: Session) -> None:
    """The block's end saves."""


async def in_the_block(session: Session) -> None:
    await session.asave()


async def by_counting(session: Session) -> None:
    await session.aincr("hits")


each_write = pytest.mark.parametrize("write", [at_the_end, in_the_block, by_counting])


@each_write
async def test_a_request_cancelled_while_it_saves_keeps_the_lock_until_that_is_done(
    hall: Hall, write: Callable[[Session], Awaitable[None]]
) -> None:
    if hall._in_threads:
        pytest.skip("a thread can't be cancelled")
    session, theirs = await hall.open(), await hall.open(hall.there)
    gate, scope = Gate(), anyio.CancelScope()
    hall.store.script("replace", held_before(gate))

    async def request() -> None:
        with scope:
            async with hall.locked(session):
                session["n"] = 2
                await write(session)

    async with Group() as group:
        group.start_soon(request)
        await gate.reached()
        scope.cancel()
        await anyio.sleep(0.05)
        assert await hall.is_kept_from(theirs)
        gate.open()
    await hall.becomes_free()
    async with theirs.alock(0):
        assert theirs["n"] == 2 or "hits" in theirs


@pytest.mark.parametrize("in_threads", [False, True])
@each_write
async def test_a_save_that_takes_too_long_keeps_the_lock_until_it_is_done(
    managers: Managers, in_threads: bool, write: Callable[[Session], Awaitable[None]]
) -> None:
    hall, gate = Hall(managers, Scripted, in_threads), Gate()
    session, theirs = await hall.open(), await hall.open(hall.there)
    hall.store.script("replace", held_before(gate))

    async def request() -> None:
        async with hall.locked(session):
            session["n"] = 2
            await write(session)

    with pytest.raises(StoreUnavailable):
        await request()
    assert await hall.is_kept_from(theirs)
    gate.open()
    await hall.becomes_free()
    async with theirs.alock(0):
        assert theirs["n"] == 2 or "hits" in theirs


@pytest.mark.parametrize("in_threads", [False, True])
async def test_a_save_that_has_not_begun_in_time_never_does_and_keeps_nobody_out(
    managers: Managers, in_threads: bool
) -> None:
    hall, gate = Hall(managers, Scripted, in_threads), Gate()
    session = await hall.open()

    async def request() -> None:
        async with hall.locked(session):
            session["n"] = 2
            hall.store.script("prepare", held_before(gate))

    with pytest.raises(StoreUnavailable):
        await request()
    assert hall.is_free
    gate.open()
    await hall.becomes_free()
    assert hall.store.calls["replace"] == 0
    assert hall.content() == {"n": 1}


async def test_a_save_that_may_still_be_carried_out_keeps_the_lock(hall: Hall) -> None:
    session, theirs = await hall.open(), await hall.open(hall.there)
    hall.store.script("replace", lost_before)
    hall.store.script("reload", carried_out, unavailable)
    with pytest.raises(StoreUnavailable, match="it is down"):
        async with hall.locked(session):
            session["n"] = 2
    assert hall.store.finished
    assert await hall.is_kept_from(theirs)


async def test_a_save_whose_lost_answer_is_read_back_keeps_nobody_out(hall: Hall) -> None:
    session = await hall.open()
    hall.store.script("replace", lost_after)
    async with hall.locked(session):
        session["n"] = 2
    assert hall.is_free
    assert hall.content() == {"n": 2}


async def test_a_save_that_is_cancelled_between_two_tries_keeps_nobody_out(
    managers: Managers,
) -> None:
    class Inline(Scripted):
        blocking = False

    hall, scope = Hall(managers, Inline, False), anyio.CancelScope()
    session = await hall.open()
    hall.store.script("replace", contended, preceded_by(scope.cancel, contended))
    with scope:
        async with hall.locked(session):
            session["n"] = 2
    assert hall.is_free
    assert hall.content() == {"n": 1}


# Those who wait go away.


@pytest.mark.parametrize("held", [held_before, held_after])
async def test_a_request_cancelled_while_it_takes_the_lock_leaves_none_behind(
    hall: Hall, held: Callable[[Gate], Step]
) -> None:
    if hall._in_threads:
        pytest.skip("a thread can't be cancelled")
    session, gate = await hall.open(), Gate()
    hall.store.script("claim", held(gate))

    async def request() -> None:
        async with hall.locked(session):
            await anyio.sleep_forever()

    async with Group() as group:
        group.start_soon(request)
        await gate.reached()
        group._group.cancel_scope.cancel()
        # On trio a store of coroutines shields what has begun.
        gate.open()
    await hall.becomes_free()
    async with (await hall.open()).alock(0):
        pass


async def test_a_request_cancelled_in_the_block_gives_the_lock_back(hall: Hall) -> None:
    if hall._in_threads:
        pytest.skip("a thread can't be cancelled")
    session, inside = await hall.open(), anyio.Event()

    async def request() -> None:
        async with hall.locked(session):
            session["n"] = 2
            inside.set()
            await anyio.sleep_forever()

    async with Group() as group:
        group.start_soon(request)
        await inside.wait()
        group._group.cancel_scope.cancel()
    assert hall.is_free
    assert hall.content() == {"n": 1}


async def test_a_claim_that_comes_too_late_is_given_back(managers: Managers) -> None:
    hall, gate = Hall(managers, Scripted, False), Gate()
    session = await hall.open()
    hall.store.script("claim", held_before(gate))
    with pytest.raises(StoreUnavailable):
        async with session.alock():
            pytest.fail("the store does not answer")
    gate.open()
    await hall.becomes_free()
    async with session.alock(0):
        session["n"] = 2
    assert hall.content() == {"n": 2}


async def test_who_waits_gives_up_in_time(hall: Hall) -> None:
    mine, theirs = await hall.open(hall.there), await hall.open()
    async with mine.alock():
        for timeout in (0, 0.2):
            began = time.monotonic()
            with pytest.raises(LockTimeout):
                async with hall.locked(theirs, timeout):
                    pytest.fail("both have it")
            assert timeout <= time.monotonic() - began < timeout + 2
