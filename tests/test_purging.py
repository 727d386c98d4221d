"""The purge: expired rows go, in the background, one process at a time, whatever fails."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import time
from typing import Any

import anyio
import pytest

from sessionware import MemoryStore, SessionManager
from sessionware.pacing import FIRST, LEAST, TARGET
from sessionware.purging import Purger
from sessionware.stores.protocol import Store
from tests.apps import Managers
from tests.byhand import DAY, Clock, Visitor, expiring, storing

PATIENCE = 5
NAME = "sessionware-purge"


class Counting:
    """Stands for a manager: counts, refuses the lease or fails where it is told to."""

    def __init__(self) -> None:
        self.leases: list[float] = []
        self.purges = 0
        self.free = True
        self.failing = 0
        self.asked = threading.Semaphore(0)

    def claim_purge(self, seconds: float) -> bool:
        self.leases.append(seconds)
        self.asked.release()
        if self.failing:
            self.failing -= 1
            raise RuntimeError("hunter2")
        return self.free

    def purge(self, *, exact: bool) -> int:
        assert not exact
        self.purges += 1
        return 0

    async def aclaim_purge(self, seconds: float) -> bool:
        return self.claim_purge(seconds)

    async def apurge(self, *, exact: bool) -> int:
        return self.purge(exact=exact)


def purger_of(manager: Any, interval: float | None = 0.01, *, in_loop: bool = False) -> Purger:
    return Purger(manager, interval, in_loop)


EARLIER: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def threads_of_this_test() -> None:
    """Managers of other tests may still be alive, and their threads with them."""
    EARLIER.clear()
    EARLIER.update(threading.enumerate())


def purge_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == NAME and each not in EARLIER]


def wait_until_no_thread_is_left() -> None:
    for thread in purge_threads():
        thread.join(PATIENCE)
    assert purge_threads() == []


def asked(manager: Counting, times: int) -> None:
    for _ in range(times):
        assert manager.asked.acquire(timeout=PATIENCE)


class TestThread:
    def test_it_purges_again_and_again_under_a_lease_of_half_the_interval(self) -> None:
        manager = Counting()
        purger = purger_of(manager)
        purger.start()
        asked(manager, 3)
        purger.stop()
        wait_until_no_thread_is_left()
        assert set(manager.leases) == {0.005}
        assert manager.purges == len(manager.leases)

    def test_who_does_not_get_the_lease_does_not_purge(self) -> None:
        manager = Counting()
        manager.free = False
        purger = purger_of(manager)
        purger.start()
        asked(manager, 2)
        purger.stop()
        wait_until_no_thread_is_left()
        assert manager.purges == 0

    def test_an_error_is_logged_without_its_text_and_survived(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        manager = Counting()
        manager.failing = 2
        purger = purger_of(manager)
        with caplog.at_level(logging.WARNING, "sessionware"):
            purger.start()
            asked(manager, 4)
        purger.stop()
        wait_until_no_thread_is_left()
        assert manager.purges >= 1
        assert [record.getMessage() for record in caplog.records] == [
            "the purge failed, and is tried again: RuntimeError"
        ] * 2
        assert "hunter2" not in caplog.text

    def test_starting_often_starts_one_daemon(self) -> None:
        manager = Counting()
        purger = purger_of(manager, 600)
        for _ in range(5):
            purger.start()
        (thread,) = purge_threads()
        assert thread.daemon
        purger.stop()
        wait_until_no_thread_is_left()

    def test_starting_from_many_threads_at_once_starts_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manager = Counting()
        purger = purger_of(manager, 600)
        barrier = threading.Barrier(4)
        made = threading.Thread

        def slowly(*args: Any, **kwargs: Any) -> threading.Thread:
            threading.Event().wait(0.02)
            return made(*args, **kwargs)

        def start() -> None:
            barrier.wait(PATIENCE)
            purger.start()

        starters = [made(target=start) for _ in range(4)]
        monkeypatch.setattr("sessionware.purging.threading.Thread", slowly)
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join(PATIENCE)
        running = len(purge_threads())
        purger.stop()
        wait_until_no_thread_is_left()
        assert running == 1

    def test_it_can_be_started_again_after_a_stop(self) -> None:
        manager = Counting()
        purger = purger_of(manager)
        for _ in range(2):
            purger.start()
            asked(manager, 1)
            purger.stop()
            wait_until_no_thread_is_left()

    def test_stopping_what_was_never_started_is_nothing(self) -> None:
        purger_of(Counting()).stop()

    @pytest.mark.parametrize("interval", [None, 0])
    def test_without_an_interval_nothing_is_started(self, interval: float | None) -> None:
        purger_of(Counting(), interval).start()
        assert purge_threads() == []

    def test_it_ends_with_its_manager(self) -> None:
        manager = Counting()
        purger_of(manager).start()
        asked(manager, 1)
        del manager
        gc.collect()
        wait_until_no_thread_is_left()


class TestTask:
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    pytestmark = pytest.mark.anyio

    @staticmethod
    def tasks() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task.get_name() == NAME]

    @staticmethod
    async def asked(manager: Counting, times: int) -> None:
        with anyio.fail_after(PATIENCE):
            while len(manager.leases) < times:
                await anyio.sleep(0.002)

    async def test_it_purges_again_and_again_whatever_fails_until_it_is_stopped(self) -> None:
        manager = Counting()
        manager.failing = 1
        purger = purger_of(manager, in_loop=True)
        for _ in range(3):
            purger.start()
        (task,) = self.tasks()
        await self.asked(manager, 3)
        purger.stop()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert manager.purges >= 1
        assert purge_threads() == []

    async def test_it_can_be_started_again_after_a_stop(self) -> None:
        manager = Counting()
        purger = purger_of(manager, in_loop=True)
        for times in (1, 2):
            purger.start()
            await self.asked(manager, times)
            purger.stop()

    async def test_who_does_not_get_the_lease_does_not_purge(self) -> None:
        manager = Counting()
        manager.free = False
        purger = purger_of(manager, in_loop=True)
        purger.start()
        await self.asked(manager, 2)
        purger.stop()
        assert manager.purges == 0

    async def test_it_ends_with_its_manager(self) -> None:
        manager = Counting()
        purger = purger_of(manager, in_loop=True)
        purger.start()
        (task,) = self.tasks()
        del manager
        gc.collect()
        with anyio.fail_after(PATIENCE):
            await task


def test_after_an_event_loop_was_closed_with_the_task_in_it_another_one_gets_a_task() -> None:
    manager = Counting()
    purger = purger_of(manager, in_loop=True)

    async def use() -> None:
        purger.start()

    abandoned = asyncio.new_event_loop()
    abandoned.run_until_complete(use())
    (task,) = asyncio.all_tasks(abandoned)
    abandoned.close()

    async def use_again() -> None:
        purger.start()
        await TestTask.asked(manager, 1)
        purger.stop()

    asyncio.run(use_again())
    # Nobody is to be told of a task that was left behind on purpose.
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_without_an_event_loop_a_task_is_started_by_the_first_use_that_has_one() -> None:
    manager = Counting()
    purger = purger_of(manager, in_loop=True)
    purger.start()

    async def use() -> None:
        purger.start()
        await TestTask.asked(manager, 1)

    asyncio.run(use())
    assert manager.purges >= 1
    purger.stop()
    leases = len(manager.leases)
    asyncio.run(use())
    assert len(manager.leases) >= leases


class Batches(MemoryStore):
    """Says how many rows it takes at once."""

    purge_batch = 2

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, bool]] = []

    def purge(self, now: int, limit: int, exact: bool = False) -> int:
        self.asked.append((limit, exact))
        return super().purge(now, limit, exact)


class Plainest:
    """A store with the methods that every store has to have, and no more parameters."""

    blocking = False

    def __init__(self) -> None:
        self._memory = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        if name not in Store.__dict__:
            raise AttributeError(name)
        takes = inspect.signature(getattr(Store, name))

        def call(*args: Any) -> Any:
            takes.bind(self, *args)
            return getattr(self._memory, name)(*args)

        return call


@pytest.fixture
def manager(clock: Clock) -> SessionManager:
    return Managers()(store=Batches(), idle_timeout=600)


def purged(manager: SessionManager, how: str) -> int:
    return manager.purge() if how == "plain" else anyio.run(manager.apurge)


@pytest.mark.parametrize("how", ["plain", "coroutine"])
class TestByHand:
    def test_all_expired_rows_go_in_batches_and_no_other(
        self, manager: SessionManager, clock: Clock, how: str
    ) -> None:
        for _ in range(5):
            Visitor(manager).visit(storing(a=1))
        clock.tick(599)
        assert purged(manager, how) == 0
        living = Visitor(manager)
        living.visit(storing(a=1))
        clock.tick(1)
        manager.store.store.asked.clear()
        assert purged(manager, how) == 5
        assert manager.store.store.asked == [(2, False), (2, False), (2, False), (2, True)]
        assert living.content() == {"a": 1}
        assert purged(manager, how) == 0

    def test_a_row_is_left_until_it_is_certain_to_have_expired(
        self, manager: SessionManager, clock: Clock, how: str
    ) -> None:
        """A touch moves `expires_at` and seldom `purge_after`."""
        visitor = Visitor(manager)
        visitor.visit(storing(a=1))
        for _ in range(20):
            clock.tick(300)
            visitor.visit()
            assert purged(manager, how) == 0
        assert visitor.content() == {"a": 1}

    def test_only_one_process_at_a_time_gets_the_lease(
        self, manager: SessionManager, clock: Clock, how: str
    ) -> None:
        other = Managers()(store=manager.store.store)

        def claim(which: SessionManager) -> bool:
            if how == "plain":
                return which.claim_purge(300)
            return anyio.run(which.aclaim_purge, 300)

        assert [claim(manager), claim(other), claim(manager)] == [True, False, False]
        clock.tick(300)
        assert [claim(other), claim(manager)] == [True, False]

    def test_a_store_that_can_do_no_more_than_the_protocol_is_purged_and_emptied_too(
        self, clock: Clock, how: str
    ) -> None:
        manager = Managers()(store=Plainest())
        visitors = [Visitor(manager) for _ in range(2)]
        for visitor in visitors:
            visitor.visit(storing(a=1))
        visitors[0].visit(expiring(60))
        clock.tick(DAY / 1000)

        assert manager.claim_purge(300)
        assert purged(manager, how) == 1
        assert manager.revoke_all() == 1

    def test_a_clock_that_ran_ahead_for_a_moment_keeps_nobody_from_purging(
        self, manager: SessionManager, clock: Clock, how: str
    ) -> None:
        ahead = 30 * 86_400
        clock.tick(ahead)
        assert manager.claim_purge(300)
        clock.tick(-ahead)
        if how == "plain":
            assert manager.claim_purge(300)
        else:
            assert anyio.run(manager.aclaim_purge, 300)
        assert not manager.claim_purge(300)


class Littered(MemoryStore):
    """Has more tombstones than it deletes at once."""

    purge_batch = 2

    def __init__(self) -> None:
        super().__init__()
        self.tombstones = 7

    def purge(self, now: int, limit: int, exact: bool = False) -> int:
        self.purge_retired(now, limit)
        return super().purge(now, limit, exact)

    def purge_retired(self, now: int, limit: int) -> int:
        gone = min(limit, self.tombstones)
        self.tombstones -= gone
        return gone


@pytest.mark.parametrize("how", ["plain", "coroutine"])
@pytest.mark.parametrize("exact", [False, True])
def test_it_goes_on_until_no_tombstone_is_left_and_counts_sessions_only(
    clock: Clock, how: str, exact: bool
) -> None:
    store = Littered()
    manager = Managers()(store=store, idle_timeout=600)
    Visitor(manager).visit(storing(a=1))
    clock.tick(100_000)

    if how == "plain":
        deleted = manager.purge(exact=exact)
    else:
        deleted = anyio.run(lambda: manager.apurge(exact=exact))

    assert (deleted, store.tombstones) == (1, 0)


class Slow(MemoryStore):
    """Always takes longer than a batch should, and has rows for two."""

    purge_batch = 1000

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    def purge(self, now: int, limit: int, exact: bool = False) -> int:
        end = time.perf_counter() + 1.5 * TARGET
        while time.perf_counter() < end:
            pass
        self.limits.append(limit)
        return limit if len(self.limits) < 3 else 0


@pytest.mark.parametrize("how", ["plain", "coroutine"])
def test_a_slow_store_is_asked_for_fewer_rows_at_a_time(how: str) -> None:
    store = Slow()

    assert purged(Managers()(store=store), how) == FIRST + FIRST // 2

    # Then the whole table, once.
    assert store.limits == [FIRST, FIRST // 2, LEAST, 1000]


class Telling(MemoryStore):
    """Tells when a row is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = threading.Event()

    def purge(self, now: int, limit: int, exact: bool = False) -> int:
        purged = super().purge(now, limit, exact)
        if purged:
            self.gone.set()
        return purged


def test_the_first_use_of_a_manager_starts_its_purge(clock: Clock) -> None:
    store = Telling()
    manager = Managers()(store=store, purge_interval=0.01)
    assert purge_threads() == []
    Visitor(manager).visit(expiring(1, a=1))
    assert len(purge_threads()) == 1
    clock.tick(3600)
    assert store.gone.wait(PATIENCE)
    manager.shutdown()
    wait_until_no_thread_is_left()
