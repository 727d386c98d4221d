"""Which saves share a commit, by what the tasks of a loop do; and who is told if none can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from traceback import walk_tb
from typing import Any

import pytest

from sessionware import ConfigurationError, StoreUnavailable
from sessionware.batches import ALONE, PATIENCE
from sessionware.errors import Finding, OutcomeUnknown, SessionError
from sessionware.flows import Call, Flow
from sessionware.runners import LoopRunner, ThreadRunner
from sessionware.stores.grouping import after_failure

LONG = 5
SOME = 20


class Store:
    """Notes how many calls each commit had; a test may hold the first one up."""

    shares_commits = True

    def __init__(self) -> None:
        self.commits: list[int] = []
        self.saved: list[object] = []
        self.begun = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def prepare(self) -> None:
        self.begun.set()
        assert self.open.wait(LONG)

    def takes(self, call: Call) -> bool:
        return True

    def replace(self, value: object) -> bool:
        return self.group([Call("replace", (value,))])[0]

    def group(self, calls: list[Call]) -> list[bool]:
        self.commits.append(len(calls))
        self.saved += [call.args[0] for call in calls]
        return [True] * len(calls)


class AsyncStore(Store):
    """The same for an event loop."""

    async def aprepare(self) -> None:
        self.begun.set()
        while not self.open.is_set():
            await asyncio.sleep(0.001)

    async def areplace(self, value: object) -> bool:
        return self.replace(value)

    async def agroup(self, calls: list[Call]) -> list[bool]:
        return self.group(calls)


def saving(value: object) -> Flow[bool]:
    answer: bool = yield Call("replace", (value,))
    return answer


@pytest.fixture
def threads() -> Iterator[ThreadRunner]:
    runner = ThreadRunner(Store(), LONG, 2)
    yield runner
    runner.close()


@pytest.fixture(params=[ThreadRunner, LoopRunner])
def make_runner(request: pytest.FixtureRequest) -> Callable[[], Any]:
    def make() -> Any:
        if request.param is ThreadRunner:
            return ThreadRunner(Store(), LONG, 2)
        return LoopRunner(AsyncStore(), LONG)

    return make


def test_what_the_tasks_of_one_turn_save_is_one_commit(make_runner: Callable[[], Any]) -> None:
    async def run() -> list[int]:
        runner = make_runner()
        await asyncio.gather(*(runner.acommit(saving(number)) for number in range(SOME)))
        await runner.aclose()
        commits: list[int] = runner._store.commits
        return commits

    assert asyncio.run(run()) == [SOME]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_leader_that_is_cancelled_leads_no_more(turns: int) -> None:
    """As by an application that cancels all tasks: before its first step, or between two commits.
    The next find nobody at it, and wait for nobody.
    """

    async def run() -> list[int]:
        runner = LoopRunner(AsyncStore(), LONG)
        queue = runner._queue_of(asyncio.get_running_loop())
        leaders = []
        for number in range(SOME):
            saves = [asyncio.create_task(runner.acommit(saving(number))) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in [*runner._tasks, *saves]:
                task.cancel()
            await asyncio.gather(*saves, return_exceptions=True)
            while runner._tasks:
                await asyncio.sleep(0)
            leaders.append(queue.leaders)
        assert await runner.acommit(saving("last"))
        await runner.aclose()
        return leaders

    assert asyncio.run(run()) == [0] * SOME


class Failing(Store):
    """Fails all who share a commit, as a database that is down does."""

    def group(self, calls: list[Call]) -> list[Any]:
        return after_failure(OutcomeUnknown("the database is down"), True, len(calls))


class Unready(Store):
    """Fails them before it has begun."""

    def prepare(self) -> None:
        raise ConfigurationError([Finding("SW026", "create_table", "no table", "create it")])


@pytest.mark.parametrize("kind", [Failing, Unready])
@pytest.mark.parametrize("how", [ThreadRunner, LoopRunner])
def test_none_of_those_who_fail_together_is_shown_the_frames_of_another(
    kind: type[Store], how: type
) -> None:
    """Their locals are in what error pages and error reports show of an exception."""

    class Awaited(kind, AsyncStore):  # type: ignore[misc, valid-type]
        async def aprepare(self) -> None:
            self.prepare()

    errors: list[Exception] = []

    async def request(runner: Any, number: int) -> None:
        try:
            await runner.acommit(saving(number))
        except SessionError as error:
            errors.append(error)

    async def run() -> None:
        runner = how(kind(), LONG, 2) if how is ThreadRunner else how(Awaited(), LONG)
        await asyncio.gather(*(request(runner, number) for number in range(SOME)))
        await runner.aclose()

    asyncio.run(run())
    seen = []
    for error in errors:
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        mine = [frame for frame in frames if frame.f_code.co_name == "request"]
        seen.append({frame.f_locals["number"] for frame in mine})
    assert sorted(seen, key=min) == [{number} for number in range(SOME)]
    assert len({str(error) for error in errors}) == 1


REQUEST: ContextVar[int | None] = ContextVar("REQUEST", default=None)


@pytest.mark.parametrize("count", [1, SOME])
def test_what_is_done_for_several_requests_has_the_context_of_none(
    make_runner: Callable[[], Any], count: int
) -> None:
    """Else what a flow tells ``on_event`` would be put down to the request that leads."""
    seen: list[int | None] = []

    def telling(number: int) -> Flow[None]:
        yield Call("replace", (number,))
        seen.append(REQUEST.get())

    async def save(runner: Any, number: int) -> None:
        REQUEST.set(number)
        await runner.acommit(telling(number))
        await runner.arun_shared("key", lambda: telling(number), lambda: None)

    async def run() -> None:
        # An application's factory may know nothing of contexts.
        asyncio.get_running_loop().set_task_factory(
            lambda loop, coro: asyncio.Task(coro, loop=loop)
        )
        runner = make_runner()
        await asyncio.gather(*(save(runner, number) for number in range(count)))
        await runner.aclose()

    asyncio.run(run())
    assert len(seen) > count
    assert set(seen) == {None}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_where_no_task_can_be_had_all_who_wait_are_told_and_the_next_are_served() -> None:
    runner = LoopRunner(AsyncStore(), 2.0)

    def calling() -> Flow[str]:
        yield Call("replace", (1,))
        return "done"

    def none(*_: Any) -> Any:
        raise MemoryError

    loop = asyncio.get_running_loop()
    loop.set_task_factory(none)
    with pytest.raises(MemoryError):
        await runner.acommit(calling())
    with pytest.raises(MemoryError):
        await runner.arun_shared("key", calling, lambda: None)
    loop.set_task_factory(None)
    assert await runner.acommit(calling()) == "done"
    assert await runner.arun_shared("key", calling, lambda: None) == "done"


def test_who_comes_while_others_are_committed_goes_with_them_when_they_come_back(
    make_runner: Callable[[], Any],
) -> None:
    """Else it would have a commit of its own after each of theirs, for as long as they go on."""

    async def run() -> list[int]:
        runner = make_runner()
        store: Store = runner._store

        async def come_back(number: int) -> None:
            for round_ in range(3):
                await runner.acommit(saving((number, round_)))

        store.open.clear()
        many = [asyncio.create_task(come_back(number)) for number in range(SOME)]
        while not store.begun.is_set():
            await asyncio.sleep(0.001)
        late = asyncio.create_task(come_back(SOME))
        await asyncio.sleep(0)
        store.open.set()
        await asyncio.gather(late, *many)
        await runner.aclose()
        return store.commits

    assert asyncio.run(run()) == [SOME, SOME + 1, SOME + 1, 1]


def test_where_no_thread_can_be_started_all_who_wait_are_told_and_nothing_is_done_later(
    monkeypatch: pytest.MonkeyPatch, threads: ThreadRunner
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> list[object]:
        return await asyncio.gather(
            *(threads.acommit(saving(number)) for number in range(2)), return_exceptions=True
        )

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", refuse)
        outcomes = asyncio.run(run())
        with pytest.raises(StoreUnavailable, match="no thread"):
            threads.commit(saving("thread"))
    assert [type(each) for each in outcomes] == [StoreUnavailable, StoreUnavailable]
    assert threads.commit(saving("later"))
    assert threads._store.saved == ["later"]


def test_who_has_to_go_alone_and_finds_no_thread_is_told_and_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, threads: ThreadRunner
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    def first_alone(calls: list[Call]) -> list[object]:
        monkeypatch.setattr(threads._threads, "post", refuse)
        return [ALONE, *[True] * (len(calls) - 1)]

    monkeypatch.setattr(threads._store, "group", first_alone)

    async def run() -> list[object]:
        return await asyncio.gather(
            *(threads.acommit(saving(number)) for number in range(3)), return_exceptions=True
        )

    outcomes = asyncio.run(run())
    assert [type(each) for each in outcomes] == [StoreUnavailable, bool, bool]
    monkeypatch.undo()
    assert threads.commit(saving("later"))


class AtOnce(Store):
    """A thread of the application's may lead, as with SQLite."""

    answers_at_once = True


def test_a_thread_that_finds_its_own_save_done_when_it_comes_to_lead_leads_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = ThreadRunner(AtOnce(), LONG, 2)
    queue = runner._queue
    appoint = queue.appoint

    def overtaken() -> bool:
        """It is descheduled here, for so long that another leads and takes all that waits."""
        appointed = appoint()
        waiting = queue._waiting[0]
        assert queue.wants_leader(waiting)
        runner._send_leader(queue)
        while not (waiting.begun and queue.leaders == 1):
            threading.Event().wait(0.001)
        return appointed

    with monkeypatch.context() as slow:
        slow.setattr(queue, "appoint", overtaken)
        assert runner.commit(saving("first"))
    assert queue.leaders == 0
    assert queue.is_idle
    assert runner.commit(saving("second"))
    assert runner._store.saved == ["first", "second"]
    runner.close()


def test_a_loop_that_ends_before_it_has_called_for_a_leader_delays_others_once(
    threads: ThreadRunner,
) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    abandoned = loop.create_task(threads.acommit(saving("abandoned")))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert threads._store.saved == []

    async def run() -> float:
        began = asyncio.get_running_loop().time()
        assert await threads.acommit(saving("next"))
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(run()) >= 0.9 * PATIENCE
    assert threads._store.saved == ["abandoned", "next"]
    assert asyncio.run(run()) < 0.9 * PATIENCE
    del abandoned


def test_closing_does_not_wait_for_a_loop_to_call_for_a_leader() -> None:
    async def run() -> list[object]:
        runner = ThreadRunner(Store(), LONG, 2)
        under_way = asyncio.create_task(runner.acommit(saving(1)))
        asyncio.get_running_loop().call_soon(runner.close)
        await under_way
        saved: list[object] = runner._store.saved
        return saved

    assert asyncio.run(run()) == [1]
