"""Runners: who waits where, for how long, and which loads may be shared."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from sessionware import ConfigurationError, MemoryStore, StoreUnavailable
from sessionware.flows import Call, Flow, Pause
from sessionware.runners import InlineRunner, LoopRunner, Runner, ThreadRunner, runner_for

pytestmark = pytest.mark.anyio

PATIENCE = 5


class Store:
    """Answers with the number of the read, after the gate of that read has been opened, if any."""

    def __init__(self) -> None:
        self.prepared = 0
        self.reads = 0
        self.gates: dict[int, threading.Event] = {}
        self.reading = threading.Semaphore(0)

    def prepare(self) -> None:
        self.prepared += 1

    def load(self, *args: Any) -> Any:
        self.reads += 1
        number = self.reads
        self.reading.release()
        if number in self.gates:
            assert self.gates[number].wait(PATIENCE)
        return number

    def fail(self, error: Exception) -> None:
        raise error

    def gate(self, number: int) -> threading.Event:
        return self.gates.setdefault(number, threading.Event())


class AsyncStore:
    """The same for an event loop; its gates are made by the test, inside the loop."""

    def __init__(self) -> None:
        self.prepared = 0
        self.reads = 0
        self.finished = 0
        self.gates: dict[int, anyio.Event] = {}

    async def aprepare(self) -> None:
        self.prepared += 1

    async def aload(self, *args: Any) -> Any:
        self.reads += 1
        number = self.reads
        if number in self.gates:
            await self.gates[number].wait()
        self.finished += 1
        return number

    async def afail(self, error: Exception) -> None:
        raise error

    def gate(self, number: int) -> anyio.Event:
        return self.gates.setdefault(number, anyio.Event())


class NeverBlocks(Store):
    blocking = False


def loading() -> Flow[Any]:
    return (yield Call("load"))


def failing(error: Exception) -> Flow[Any]:
    return (yield Call("fail", (error,)))


def nothing() -> None:
    return None


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def threads(store: Store) -> Iterator[ThreadRunner]:
    runner = ThreadRunner(store, timeout=PATIENCE, threads=4)
    yield runner
    for number in range(10):
        store.gate(number).set()
    runner.close()


@pytest.fixture
def impatient(store: Store) -> Iterator[ThreadRunner]:
    """Waits a moment only, and has but one thread."""
    runner = ThreadRunner(store, timeout=0.05, threads=1)
    yield runner
    for number in range(10):
        store.gate(number).set()
    runner.close()


def in_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Run it in a plain thread; the function that is returned waits for its outcome."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def result() -> Any:
        thread.join(PATIENCE)
        return outcome[0]

    return result


class Both:
    """The two ways of asking a runner, from outside of event loops and from inside."""

    def __init__(self, runner: Runner, asynchronous: bool) -> None:
        self.runner = runner
        self.asynchronous = asynchronous

    def run(self, flow: Flow[Any]) -> Any:
        return anyio.run(self.runner.arun, flow) if self.asynchronous else self.runner.run(flow)

    def run_shared(self, cached: Callable[[], Any] = nothing) -> Any:
        if self.asynchronous:
            return anyio.run(self.runner.arun_shared, "key", loading, cached)
        return self.runner.run_shared("key", loading, cached)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["thread", "task"])
class TestThreadRunner:
    def test_a_flow_runs_in_a_thread_of_ours_against_a_prepared_store(
        self, threads: ThreadRunner, store: Store, asynchronous: bool
    ) -> None:
        def where() -> Flow[str]:
            yield Call("load")
            return threading.current_thread().name

        assert Both(threads, asynchronous).run(where()) == "sessionware-store"
        assert store.prepared == 1

    def test_its_exception_is_the_callers(self, threads: ThreadRunner, asynchronous: bool) -> None:
        error = LookupError("no")
        with pytest.raises(LookupError) as caught:
            Both(threads, asynchronous).run(failing(error))
        assert caught.value is error

    @pytest.mark.parametrize("error", [TimeoutError(), StoreUnavailable("down")])
    def test_a_timeout_of_the_driver_is_not_taken_for_ours(
        self, threads: ThreadRunner, error: Exception, asynchronous: bool
    ) -> None:
        with pytest.raises(type(error)) as caught:
            Both(threads, asynchronous).run(failing(error))
        assert caught.value is error

    def test_a_store_that_is_too_slow_is_unavailable_and_the_flow_goes_on_to_its_end(
        self, impatient: ThreadRunner, store: Store, asynchronous: bool
    ) -> None:
        finished = threading.Event()

        def flow() -> Flow[None]:
            yield Call("load")
            finished.set()

        store.gate(1)
        with pytest.raises(StoreUnavailable, match=r"0\.05 seconds \(store_timeout\)"):
            Both(impatient, asynchronous).run(flow())
        assert not finished.is_set()
        store.gate(1).set()
        assert finished.wait(PATIENCE)

    def test_what_had_not_begun_when_its_time_was_up_is_never_done(
        self, impatient: ThreadRunner, store: Store, asynchronous: bool
    ) -> None:
        store.gate(1)
        both = Both(impatient, asynchronous)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                both.run(loading())
        store.gate(1).set()
        assert both.run(loading()) == 2

    def test_a_shared_load_is_given_up_by_who_waits_and_not_for_the_others(
        self, impatient: ThreadRunner, store: Store, asynchronous: bool
    ) -> None:
        store.gate(1)
        both = Both(impatient, asynchronous)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                both.run_shared()
        assert store.reads == 1

    def test_loads_one_after_the_other_all_read(
        self, threads: ThreadRunner, asynchronous: bool
    ) -> None:
        both = Both(threads, asynchronous)
        assert [both.run_shared() for _ in range(3)] == [1, 2, 3]


class Herd:
    """Tasks that ask for the same key, all of which have joined before anything goes on."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.results: list[Any] = []

    async def come(
        self, count: int, then: Callable[[], object], cached: Callable[[], Any] = nothing
    ) -> list[Any]:
        async def wait() -> None:
            self.results.append(await self.runner.arun_shared("key", loading, cached))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                then()
        return self.results


class TestSharingInThreads:
    async def test_who_comes_before_the_load_has_begun_shares_it(self, store: Store) -> None:
        runner = ThreadRunner(store, timeout=PATIENCE, threads=1)
        gate = store.gate(1)
        busy = in_thread(lambda: runner.run(loading()))
        assert store.reading.acquire(timeout=PATIENCE)
        assert await Herd(runner).come(5, gate.set) == [2] * 5
        assert busy() == 1
        assert store.reads == 2
        runner.close()

    async def test_who_comes_after_it_has_begun_reads_again(
        self, threads: ThreadRunner, store: Store
    ) -> None:
        """What is under way may have read before a change that has been acknowledged since."""
        gate = store.gate(1)
        first = in_thread(lambda: threads.run_shared("key", loading, nothing))
        assert store.reading.acquire(timeout=PATIENCE)
        results = await Herd(threads).come(5, gate.set)
        assert first() == 1
        assert min(results) == 2

    async def test_who_comes_after_it_has_begun_takes_what_the_cache_vouches_for(
        self, threads: ThreadRunner, store: Store
    ) -> None:
        gate = store.gate(1)
        first = in_thread(lambda: threads.run_shared("key", loading, nothing))
        assert store.reading.acquire(timeout=PATIENCE)
        results = await Herd(threads).come(5, gate.set, lambda: "cached")
        assert first() == 1
        assert results == ["cached"] * 5
        assert store.reads == 1

    def test_different_keys_are_loaded_at_the_same_time(
        self, threads: ThreadRunner, store: Store
    ) -> None:
        gate = store.gate(1)
        first = in_thread(lambda: threads.run_shared("one", loading, nothing))
        assert store.reading.acquire(timeout=PATIENCE)
        assert threads.run_shared("two", loading, nothing) == 2
        gate.set()
        assert first() == 1

    def test_a_failed_load_is_not_remembered(self, threads: ThreadRunner) -> None:
        with pytest.raises(LookupError):
            threads.run_shared("key", lambda: failing(LookupError()), nothing)
        assert threads.run_shared("key", loading, nothing) == 1

    def test_a_flow_that_cannot_be_made_leaves_no_load_behind(self, threads: ThreadRunner) -> None:
        def broken() -> Flow[Any]:
            raise LookupError

        with pytest.raises(LookupError):
            threads.run_shared("key", broken, nothing)
        assert threads.run_shared("key", loading, nothing) == 1

    def test_who_waits_for_anothers_load_waits_no_longer_than_the_timeout(
        self, impatient: ThreadRunner, store: Store
    ) -> None:
        store.gate(1)
        first = in_thread(lambda: impatient.run_shared("key", loading, nothing))
        assert store.reading.acquire(timeout=PATIENCE)
        with pytest.raises(StoreUnavailable):
            impatient.run_shared("key", loading, nothing)
        assert isinstance(first(), StoreUnavailable)

    def test_a_load_that_hangs_for_good_keeps_nobody_from_the_key_for_good(
        self, store: Store
    ) -> None:
        """The others go on all the time, so that the store gives signs of life."""
        runner = ThreadRunner(store, timeout=0.02, threads=4)
        gate = store.gate(1)

        def load(key: str) -> Any:
            try:
                return runner.run_shared(key, loading, nothing)
            except StoreUnavailable:
                return None

        assert load("hangs") is None
        deadline = time.monotonic() + PATIENCE / 2
        while load("hangs") is None and time.monotonic() < deadline:
            assert load("other")
        assert load("hangs")
        gate.set()
        runner.close()

    def test_a_load_that_is_late_is_still_the_only_one(self, store: Store) -> None:
        runner = ThreadRunner(store, timeout=0.2, threads=4)
        gate = store.gate(1)
        with pytest.raises(StoreUnavailable):
            runner.run_shared("key", loading, nothing)
        second = in_thread(lambda: runner.run_shared("key", loading, lambda: "cached"))
        while len(runner._flights._under_way["key"].waiters) < 2:
            time.sleep(0.001)
        gate.set()
        assert second() == "cached"
        assert store.reads == 1
        runner.close()


async def test_a_cancelled_waiter_does_not_cancel_the_load_of_the_others(
    threads: ThreadRunner, store: Store
) -> None:
    gate = store.gate(1)
    results: list[Any] = []

    async def wait() -> None:
        results.append(await threads.arun_shared("key", loading, nothing))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(0.01) as scope:
                await threads.arun_shared("key", loading, nothing)
            assert scope.cancelled_caught
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            gate.set()
    assert results == [2], "it had begun before the second came"
    assert store.reads == 2


BLOCKING: dict[str, Callable[[Runner], Any]] = {
    "run": lambda runner: runner.run(loading()),
    "refuse_event_loop": lambda runner: runner.refuse_event_loop(),
}


@pytest.mark.parametrize("call", BLOCKING.values(), ids=BLOCKING)
async def test_blocking_calls_are_refused_in_an_event_loop_with_the_way_out(
    threads: ThreadRunner, store: Store, call: Callable[[Runner], Any]
) -> None:
    with pytest.raises(RuntimeError, match=r"would block the event loop.*await asave\(\)"):
        call(threads)
    assert store.reads == 0
    assert await anyio.to_thread.run_sync(threads.run, loading()) == 1


@pytest.fixture
def astore() -> AsyncStore:
    return AsyncStore()


class TestLoopRunner:
    async def test_a_flow_runs_against_a_prepared_store(self, astore: AsyncStore) -> None:
        runner = LoopRunner(astore, PATIENCE)
        assert await runner.arun(loading()) == 1
        assert await runner.arun_shared("key", loading, nothing) == 2
        assert astore.prepared == 2

    async def test_its_exception_is_the_callers(self, astore: AsyncStore) -> None:
        error = LookupError("no")
        with pytest.raises(LookupError) as caught:
            await LoopRunner(astore, PATIENCE).arun(failing(error))
        assert caught.value is error

    @pytest.mark.parametrize("shared", [False, True])
    async def test_a_store_that_is_too_slow_is_unavailable(
        self, astore: AsyncStore, shared: bool
    ) -> None:
        astore.gate(1)
        runner = LoopRunner(astore, 0.01)
        waiting: Awaitable[Any] = (
            runner.arun_shared("key", loading, nothing) if shared else runner.arun(loading())
        )
        with pytest.raises(StoreUnavailable, match=r"0\.01 seconds \(store_timeout\)"):
            await waiting

    async def test_a_flow_that_has_begun_ends_though_its_request_was_cancelled(
        self, astore: AsyncStore
    ) -> None:
        runner = LoopRunner(astore, PATIENCE)
        gate = astore.gate(1)

        async def request() -> None:
            with anyio.move_on_after(0.01):
                await runner.arun(loading())

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(request)
                await anyio.sleep(0.03)
                gate.set()
            await anyio.wait_all_tasks_blocked()
        assert astore.finished == 1

    async def test_a_def_endpoint_may_call_from_its_worker_thread(self, astore: AsyncStore) -> None:
        runner = LoopRunner(astore, PATIENCE)
        assert await anyio.to_thread.run_sync(runner.run, loading()) == 1
        shared = await anyio.to_thread.run_sync(runner.run_shared, "key", loading, nothing)
        assert shared == 2

    async def test_what_a_flow_raises_in_a_worker_thread_is_not_taken_for_a_wrong_thread(
        self, astore: AsyncStore
    ) -> None:
        error = RuntimeError("the worker thread of the database died")
        with pytest.raises(RuntimeError) as caught:
            await anyio.to_thread.run_sync(LoopRunner(astore, PATIENCE).run, failing(error))
        assert caught.value is error

    async def test_calls_without_await_are_refused_in_the_loop(self, astore: AsyncStore) -> None:
        with pytest.raises(ConfigurationError, match=r"SW020.*or await"):
            LoopRunner(astore, PATIENCE).run(loading())
        assert astore.reads == 0

    async def test_plain_threads_are_refused(self, astore: AsyncStore) -> None:
        runner = LoopRunner(astore, PATIENCE)
        refused = in_thread(lambda: runner.run(loading()))()
        assert isinstance(refused, ConfigurationError)
        assert astore.reads == 0


class TestSharingInALoop:
    @pytest.fixture
    def anyio_backend(self) -> str:
        """trio has no tasks that outlive a request: there is no sharing."""
        return "asyncio"

    async def test_a_herd_that_comes_at_once_reads_once(self, astore: AsyncStore) -> None:
        gate = astore.gate(1)
        runner = LoopRunner(astore, PATIENCE)
        results: list[Any] = []

        async def wait() -> None:
            results.append(await runner.arun_shared("key", loading, nothing))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    # All are called before the load's task has had its first turn.
                    group.start_soon(wait)
                gate.set()
        assert results == [1] * 20

    async def test_a_herd_that_comes_during_a_load_shares_the_next_one(
        self, astore: AsyncStore
    ) -> None:
        runner = LoopRunner(astore, PATIENCE)
        gate = astore.gate(1)
        first: list[Any] = []

        async def begin() -> None:
            first.append(await runner.arun_shared("key", loading, nothing))

        async with anyio.create_task_group() as group:
            group.start_soon(begin)
            await anyio.wait_all_tasks_blocked()
            assert await Herd(runner).come(20, gate.set) == [2] * 20
        assert first == [1]
        assert astore.reads == 2

    async def test_a_herd_that_fails_gets_an_error_each(self, astore: AsyncStore) -> None:
        """Who raises one adds frames of his own to it."""
        runner = LoopRunner(astore, PATIENCE)
        errors: list[Exception] = []

        async def wait() -> None:
            try:
                await runner.arun_shared("key", lambda: failing(StoreUnavailable("down")), nothing)
            except StoreUnavailable as error:
                errors.append(error)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(wait)
        assert len({id(error) for error in errors}) == 20
        assert {str(error) for error in errors} == {"down"}

    async def test_a_failed_load_is_not_remembered(self, astore: AsyncStore) -> None:
        runner = LoopRunner(astore, PATIENCE)
        with pytest.raises(LookupError):
            await runner.arun_shared("key", lambda: failing(LookupError()), nothing)
        assert await runner.arun_shared("key", loading, nothing) == 1

    async def test_a_load_whose_task_is_cancelled_before_it_begins_keeps_nobody_from_the_key(
        self, astore: AsyncStore
    ) -> None:
        """As by an application that cancels all tasks."""
        runner = LoopRunner(astore, PATIENCE)
        errors: list[str] = []

        async def wait() -> None:
            try:
                await runner.arun_shared("key", loading, nothing)
            except StoreUnavailable as error:
                errors.append(str(error))

        with anyio.fail_after(PATIENCE / 2):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(wait)
                await asyncio.sleep(0)
                for task in runner._tasks:
                    task.cancel()
            assert [error for error in errors if "cancelled" in error] == errors
            assert len(errors) == 2
            assert await runner.arun_shared("key", loading, nothing) == 1

    async def test_a_load_that_hangs_for_good_keeps_nobody_from_the_key_for_good(
        self, astore: AsyncStore
    ) -> None:
        runner = LoopRunner(astore, 0.02)
        gate = astore.gate(1)

        async def load() -> Any:
            with suppress(StoreUnavailable):
                return await runner.arun_shared("key", loading, nothing)

        with anyio.fail_after(PATIENCE):
            while await load() is None:
                pass
        assert astore.finished == 1
        gate.set()


def test_each_event_loop_has_its_own_loads(astore: AsyncStore) -> None:
    runner = LoopRunner(astore, 0.01)

    async def abandoned() -> None:
        astore.gate(1)
        with pytest.raises(StoreUnavailable):
            await runner.arun_shared("key", loading, nothing)

    anyio.run(abandoned)
    assert anyio.run(runner.arun_shared, "key", loading, nothing) == 2


class TestInlineRunner:
    async def test_a_flow_runs_right_here_in_every_way(self) -> None:
        store = NeverBlocks()
        runner = InlineRunner(store)
        here = threading.get_ident()

        def where() -> Flow[int]:
            yield Call("load")
            return threading.get_ident()

        assert runner.run(where()) == here
        assert await runner.arun(where()) == here
        assert runner.run_shared("key", where, nothing) == here
        assert await runner.arun_shared("key", where, nothing) == here
        assert store.reads == 4

    async def test_its_exception_is_the_callers(self) -> None:
        with pytest.raises(LookupError):
            await InlineRunner(NeverBlocks()).arun(failing(LookupError()))

    @pytest.mark.parametrize("shared", [False, True])
    async def test_a_pause_does_not_block_the_event_loop(self, shared: bool) -> None:
        def pausing() -> Flow[str]:
            yield Pause(0.02)
            return "late"

        runner = InlineRunner(NeverBlocks())
        order: list[str] = []

        async def run() -> None:
            if shared:
                order.append(await runner.arun_shared("key", pausing, nothing))
            else:
                order.append(await runner.arun(pausing()))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            order.append("early")
        assert order == ["early", "late"]


class OnlySync:
    def load(self) -> None: ...


class OnlyAsync:
    async def aload(self) -> None: ...


@pytest.mark.parametrize(
    ("store", "kind"),
    [
        (MemoryStore(), InlineRunner),
        (OnlySync(), ThreadRunner),
        (OnlyAsync(), LoopRunner),
        (Store(), ThreadRunner),
        (NeverBlocks(), InlineRunner),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_the_runner_fits_what_the_store_offers(store: object, kind: type) -> None:
    runner = runner_for(store, 1)
    assert type(runner) is kind
    runner.close()
