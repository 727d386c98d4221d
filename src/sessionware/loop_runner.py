"""LoopRunner: flows in the event loop, for stores of coroutines."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import anyio
import anyio.from_thread

from .batches import PATIENCE, Job, Queue, answer, begin
from .errors import ConfigurationError, Finding, StoreUnavailable
from .flights import Flight, Flights
from .flows import Call, Flow, Pause, adrive, deferred
from .thread_runner import LOST, too_slow
from .waiting import (
    Outcome,
    TaskWaiter,
    failed,
    in_event_loop,
    result_of,
    running_loop,
    tell,
    tell_all,
)

T = TypeVar("T")
_MOST_LEADERS = 8
_Last: TypeAlias = tuple[weakref.ref[asyncio.AbstractEventLoop] | None, Queue]


class LoopRunner:
    """For a store of coroutines: flows run in the event loop.

    On asyncio as tasks of their own; on trio, which has none, shielded in the request's.
    """

    def __init__(self, store: Any, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._flights = Flights(LOST * timeout)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._shielded_flows = 0
        self._shares_commits = bool(getattr(store, "shares_commits", False))
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, Queue] = WeakKeyDictionary()
        # A look into that costs more than a look at this.
        self._last_queue: _Last = (None, Queue(0))

    async def _prepared(self, flow: Flow[T], wanted: Call | Pause | None = None) -> T:
        await self._store.aprepare()
        return await adrive(flow, self._store, wanted)

    async def _outcome(self, flow: Flow[Any], wanted: Call | Pause | None = None) -> Outcome:
        try:
            return await self._prepared(flow, wanted), None
        except BaseException as error:
            return None, error

    def _spawn(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, None],
        context: Context | None = None,
        undone: Callable[[], object] | None = None,
    ) -> None:
        """Have a task do it; in this request's context, or in ``context`` if it is for others too
        or may outlive the request. ``undone`` is called if the task is cancelled where nothing of
        it can notice, as before its first step: whoever cancels all tasks cancels ours too.
        """
        # Not by `context=`, which an application's task factory need not know.
        create = partial(loop.create_task, work)
        try:
            task = create() if context is None else context.run(create)
        except BaseException:
            work.close()
            raise
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if undone is not None:
            task.add_done_callback(partial(_note_cancelled, undone))

    def refuse_event_loop(self) -> None:
        """``run`` says it with the fix."""

    # From a worker thread of the event loop only (a ``def`` endpoint).

    def run(self, flow: Flow[T], /) -> T:
        return self._from_thread(lambda: self.arun(flow))

    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        return self.run(flow())

    def commit(self, flow: Flow[T], /) -> T:
        return self._from_thread(lambda: self.acommit(flow))

    def _from_thread(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        begun = False

        async def work() -> T:
            nonlocal begun
            begun = True
            return await call()

        if not in_event_loop():
            try:
                return anyio.from_thread.run(work)
            except RuntimeError:
                if begun:
                    raise
        raise ConfigurationError([_async_only()])

    # In the event loop.

    async def arun(self, flow: Flow[T], /) -> T:
        loop = running_loop()
        if loop is None:
            return await self._shielded(flow)
        waiter = TaskWaiter(loop)
        self._spawn(loop, self._run(flow, waiter))
        return self._result(await waiter.wait(self._timeout))  # type: ignore[no-any-return]

    async def _run(self, flow: Flow[Any], waiter: TaskWaiter) -> None:
        tell(waiter, await self._outcome(flow))

    def background(self, flow: Flow[object], /) -> None:
        loop = running_loop()
        if loop is not None:
            self._spawn(loop, self._alone(flow), Context())

    async def _alone(self, flow: Flow[object]) -> None:
        # Whoever needs what fails will find out.
        await self._outcome(flow)

    def _result(self, outcome: Outcome | None) -> Any:
        if outcome is None:
            raise too_slow(self._timeout)
        return result_of(outcome)

    async def _shielded(self, flow: Flow[T]) -> T:
        self._shielded_flows += 1
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._timeout):
                return await self._prepared(flow)
        finally:
            self._shielded_flows -= 1
        raise too_slow(self._timeout)

    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        loop = running_loop()
        if loop is None:
            return await self._shielded(flow())
        key = (loop, key)
        deadline = time.monotonic() + self._timeout
        while True:
            waiter = TaskWaiter(loop)
            flight, current, launch = self._flights.join(key, waiter)
            if launch:
                self._launch(loop, key, flight, flow)
            outcome = await waiter.wait(deadline - time.monotonic())
            if outcome is None:
                self._flights.give_up(key, flight)
            if current or outcome is None:
                return self._result(outcome)  # type: ignore[no-any-return]
            found = cached()
            if found is not None:
                return found

    def _launch(
        self,
        loop: asyncio.AbstractEventLoop,
        key: Hashable,
        flight: Flight,
        flow: Callable[[], Flow[Any]],
    ) -> None:
        try:
            undone = partial(self._crashed, key, flight)
            self._spawn(loop, self._fly(key, flight, flow), Context(), undone)
        except BaseException as error:
            # Else all who come later would wait for a load that nobody makes.
            self._flights.land(key, flight, (None, error))

    async def _fly(self, key: Hashable, flight: Flight, flow: Callable[[], Flow[Any]]) -> None:
        flight.begin()
        self._flights.land(key, flight, await self._outcome(deferred(flow)))

    def _crashed(self, key: Hashable, flight: Flight) -> None:
        error = StoreUnavailable("the event loop's tasks were cancelled, this load's among them")
        self._flights.land(key, flight, (None, error))

    async def acommit(self, flow: Flow[T], /) -> T:
        loop = running_loop() if self._shares_commits else None
        if loop is None:
            return await self.arun(flow)
        waiter, queue = TaskWaiter(loop), self._queue_of(loop)
        job = Job(flow, waiter, queue)
        if queue.add(job) and queue.appoint():
            # A task begins after those that have their turn now: they may bring more.
            self._send_leader(loop, queue)
        outcome = await waiter.wait(self._timeout, PATIENCE, self._nudge, job)
        if outcome is None:
            queue.withdraw(job)
        return self._result(outcome)  # type: ignore[no-any-return]

    def _queue_of(self, loop: asyncio.AbstractEventLoop) -> Queue:
        last, queue = self._last_queue
        if last is not None and last() is loop:
            return queue
        queue = self._queues.setdefault(loop, Queue(_MOST_LEADERS))
        self._last_queue = (weakref.ref(loop), queue)
        return queue

    def _nudge(self, job: Job) -> None:
        if job.queue.wants_leader(job):
            self._send_leader(asyncio.get_running_loop(), job.queue)

    def _send_leader(self, loop: asyncio.AbstractEventLoop, queue: Queue) -> None:
        try:
            self._spawn(loop, self._lead(loop, queue), Context(), queue.desert)
        except BaseException as error:
            # Whoever is told that it failed must not find it done later.
            tell_all(failed((job.waiter for job in queue.step_down()), error))

    async def _lead(self, loop: asyncio.AbstractEventLoop, queue: Queue) -> None:
        while jobs := queue.take():
            await self._carry_out(loop, jobs)
            if len(jobs) > 1:
                # Most of them come back at once.
                await asyncio.sleep(0)

    async def _carry_out(self, loop: asyncio.AbstractEventLoop, jobs: list[Job]) -> None:
        if len(jobs) == 1:
            await self._finish(jobs[0])
            return
        try:
            await self._store.aprepare()
            shared, alone = begin(jobs, self._store.takes)
            answers = await self._store.agroup([job.wanted for job in shared]) if shared else ()
            alone += answer(shared, answers)
        except BaseException as error:
            tell_all(failed((job.waiter for job in jobs), error))
            return
        for job in jobs:
            if job.outcome is not None:
                tell(job.waiter, job.outcome)
        for job in alone:
            self._spawn(loop, self._finish(job))

    async def _finish(self, job: Job) -> None:
        tell(job.waiter, await self._outcome(job.flow, job.wanted))

    # The end.

    def close(self) -> None:
        """From a worker thread of the event loop only, as ``run``."""
        with suppress(ConfigurationError):
            self._from_thread(self.aclose)

    async def aclose(self) -> None:
        """Let what is under way come to its end, and close the store."""
        loop = running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        if tasks:
            await asyncio.wait(tasks, timeout=self._timeout)
        with anyio.move_on_after(self._timeout):
            while self._shielded_flows:
                await anyio.sleep(0.01)
        if hasattr(self._store, "aclose"):
            await self._store.aclose()

    def abandon(self) -> None:
        """Nothing of the parent's is touched."""


def _note_cancelled(undone: Callable[[], object], task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        undone()


def _async_only() -> Finding:
    return Finding(
        "SW020",
        "store",
        "an async driver can't be used from plain threads.",
        "use the sync twin of its URL (postgresql+psycopg, mysql+pymysql, sqlite), or await.",
    )
