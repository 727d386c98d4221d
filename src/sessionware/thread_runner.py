"""ThreadRunner: flows in threads, for stores that block."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import anyio

from .batches import PATIENCE, Job, Queue, answer, begin
from .errors import StoreUnavailable
from .flights import Flight, Flights
from .flows import Call, Flow, Pause, deferred, drive
from .threads import Threads
from .waiting import (
    Claim,
    Outcome,
    TaskWaiter,
    ThreadWaiter,
    Waiter,
    failed,
    in_event_loop,
    loop_of,
    result_of,
    tell_all,
    tell_loop,
    wait_for,
    waiter_here,
)

T = TypeVar("T")
_LOOK_SECONDS: Final = 0.002
_Work: TypeAlias = Callable[[], Callable[[], object] | None]
"""What a thread does; gives what is to be said when it is over."""


def too_slow(timeout: float) -> StoreUnavailable:
    """The error of whoever has waited in vain."""
    return StoreUnavailable(f"the store did not answer within {timeout:g} seconds (store_timeout)")


def close_store(store: Any) -> None:
    """A store that has nothing to close may leave the method out."""
    if hasattr(store, "close"):
        store.close()


LOST: Final = 3
"""So many times as long as a request waits, what gives no sign of life may hang for good."""
# How often threads that hang are replaced while the store gives no sign of life.
_MOST_CREWS = 4


class ThreadRunner:
    """For a store of plain methods that block: flows run in threads of ours.

    In a thread of the application's that may wait, what takes no network runs right there.
    """

    def __init__(self, store: Any, timeout: float, threads: int) -> None:
        self._store = store
        self._timeout = timeout
        self._threads = Threads(threads, "sessionware-store")
        self._under_way: set[_Work] = set()
        self._running: set[_Work] = set()
        self._last_sign = time.monotonic()
        self._crews = 1
        self._ending = weakref.finalize(self, self._threads.close)
        self._flights = Flights(LOST * timeout)
        self._shares_commits = bool(getattr(store, "shares_commits", False))
        # One more than can write may wait its turn; the other threads are for those who read.
        self._most_leaders = min(threads, getattr(store, "commits_at_once", threads) + 1)
        self._queue = Queue(self._most_leaders)

    @property
    def _at_once(self) -> bool:
        return bool(getattr(self._store, "answers_at_once", False))

    def _post(self, work: _Work) -> None:
        """Have a thread do it; raises ``StoreUnavailable`` if there is none and none can be had."""
        self._under_way.add(work)
        try:
            self._threads.post(partial(self._work, work))
        except BaseException as error:
            self._under_way.discard(work)
            if not isinstance(error, RuntimeError):
                raise
            raise StoreUnavailable("no thread can be started to ask the store") from error

    def _work(self, work: _Work) -> None:
        self._running.add(work)
        say: Callable[[], object] | None = None
        try:
            say = work()
        finally:
            self._running.discard(work)
            self._under_way.discard(work)
            self._last_sign = time.monotonic()
            self._crews = 1
        if say is not None:
            # Whoever hears of it may close us at once, and has nothing to wait for then.
            say()

    def _given_up(self) -> StoreUnavailable:
        """A wait was in vain. Where nothing at all comes back, threads and connections may hang for
        good, as behind a network that drops packets: go on with new ones.
        """
        now = time.monotonic()
        silence = now - self._last_sign
        if silence > LOST * self._timeout and self._running and self._crews < _MOST_CREWS:
            self._last_sign = now
            self._crews += 1
            self._threads.close()
            self._flights = Flights(LOST * self._timeout)
            self._queue = Queue(self._most_leaders)
            if hasattr(self._store, "renew"):
                with suppress(RuntimeError):
                    self._threads.submit(self._store.renew)
        return too_slow(self._timeout)

    def refuse_event_loop(self) -> None:
        """Raise ``RuntimeError`` where waiting would block an event loop."""
        if in_event_loop():
            raise RuntimeError(
                "this would block the event loop: use the twin with an `a` (`await asave()`)"
            )

    def _prepared(
        self,
        flow: Flow[Any],
        wanted: Call | Pause | None = None,
        deadline: float = float("inf"),
    ) -> Outcome:
        try:
            self._store.prepare()
            return drive(flow, self._store, wanted, deadline), None
        except BaseException as error:
            return None, error

    # One flow.

    def _begin(self, flow: Flow[T], waiter: Waiter) -> Claim:
        claim = Claim()

        def work() -> Callable[[], object] | None:
            return partial(waiter.tell, self._prepared(flow)) if claim.take() else None

        self._post(work)
        return claim

    def _result(self, outcome: Outcome | None, claim: Claim | None = None) -> Any:
        if outcome is not None:
            return result_of(outcome)
        if claim is not None:
            claim.take()
        raise self._given_up()

    def run(self, flow: Flow[T], /) -> T:
        self.refuse_event_loop()
        waiter = ThreadWaiter()
        claim = self._begin(flow, waiter)
        return self._result(waiter.wait(self._timeout), claim)  # type: ignore[no-any-return]

    async def arun(self, flow: Flow[T], /) -> T:
        waiter = waiter_here()
        claim = self._begin(flow, waiter)
        return self._result(await waiter.wait(self._timeout), claim)  # type: ignore[no-any-return]

    def background(self, flow: Flow[object], /) -> None:
        def work() -> None:
            # Whoever needs what fails will find out.
            self._prepared(flow)

        with suppress(StoreUnavailable):
            self._post(work)

    # One load for all who wait for it.

    def _launch(
        self, flights: Flights, key: Hashable, flight: Flight, flow: Callable[[], Flow[Any]]
    ) -> None:
        try:
            self._post(partial(self._fly, flights, key, flight, flow))
        except BaseException as error:
            # Else all who come later would wait for a load that nobody makes.
            flights.land(key, flight, (None, error))

    def _fly(
        self, flights: Flights, key: Hashable, flight: Flight, flow: Callable[[], Flow[Any]]
    ) -> Callable[[], object]:
        flight.begin()
        return partial(flights.land, key, flight, self._prepared(deferred(flow)))

    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        deadline = time.monotonic() + self._timeout
        while True:
            waiter, flights = ThreadWaiter(), self._flights
            flight, current, launch = flights.join(key, waiter)
            if launch and self._at_once:
                self._fly(flights, key, flight, flow)()
            elif launch:
                self._launch(flights, key, flight, flow)
            outcome = waiter.wait(deadline - time.monotonic())
            if outcome is None:
                flights.give_up(key, flight)
            if current or outcome is None:
                return self._result(outcome)  # type: ignore[no-any-return]
            found = cached()
            if found is not None:
                return found

    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        left = self._timeout
        while True:
            began = time.monotonic()
            waiter, flights = waiter_here(), self._flights
            flight, current, launch = flights.join(key, waiter)
            if launch:
                self._launch(flights, key, flight, flow)
            outcome = await waiter.wait(left)
            if outcome is None:
                flights.give_up(key, flight)
            if current or outcome is None:
                return self._result(outcome)  # type: ignore[no-any-return]
            found = cached()
            if found is not None:
                return found
            left -= time.monotonic() - began

    # Commits, which may be shared.

    def commit(self, flow: Flow[T], /) -> T:
        if not self._shares_commits:
            return self.run(flow)
        self.refuse_event_loop()
        waiter, queue = ThreadWaiter(), self._queue
        job = Job(flow, waiter, queue)
        if queue.add(job):
            if not self._at_once:
                self._summon(queue)
            elif queue.appoint():
                self._lead_once(queue)
        outcome = waiter.wait(self._timeout, PATIENCE, self._nudge, job)
        return self._committed(outcome, job)  # type: ignore[no-any-return]

    async def acommit(self, flow: Flow[T], /) -> T:
        if not self._shares_commits:
            return await self.arun(flow)
        waiter, queue = waiter_here(), self._queue
        job = Job(flow, waiter, queue)
        if queue.add(job):
            if isinstance(waiter, TaskWaiter):
                # After the tasks that have their turn now: they may bring more.
                waiter.loop.call_soon(self._summon, queue)
            else:
                self._summon(queue)
        outcome = await waiter.wait(self._timeout, PATIENCE, self._nudge, job)
        return self._committed(outcome, job)  # type: ignore[no-any-return]

    def _committed(self, outcome: Outcome | None, job: Job) -> Any:
        if outcome is not None:
            return result_of(outcome)
        job.queue.withdraw(job)
        raise self._given_up()

    def _nudge(self, job: Job) -> None:
        if job.queue.wants_leader(job):
            self._send_leader(job.queue)

    def _summon(self, queue: Queue) -> None:
        if queue.appoint():
            self._send_leader(queue)

    def _send_leader(self, queue: Queue) -> None:
        try:
            self._post(partial(self._lead, queue))
        except BaseException as error:
            # Whoever is told that it failed must not find it done later.
            tell_all(failed((job.waiter for job in queue.step_down()), error))

    def _lead(self, queue: Queue) -> Callable[[], object] | None:
        while jobs := queue.take():
            told = self._carry_out(jobs)
            # Under load a leader has no end, and is a sign of life all the time.
            self._last_sign = time.monotonic()
            loop = loop_of(told)
            if loop is not None and queue.rest(len(told)):
                summon = partial(self._summon, queue) if queue.called else None
                return partial(tell_loop, loop, told, summon)
            tell_all(told)
        return None

    def _lead_once(self, queue: Queue) -> None:
        """In the thread of one who waits, who is not kept for longer than a commit."""
        jobs = queue.take()
        if not jobs:
            # Another leader was quicker, and this one leads no more.
            return
        # What has failed shortly before the end of its time is not tried for as long again.
        tell_all(self._carry_out(jobs, time.monotonic() + 0.75 * self._timeout))
        if queue.resign():
            self._send_leader(queue)

    def _carry_out(
        self, jobs: list[Job], deadline: float = float("inf")
    ) -> list[tuple[Waiter, Outcome]]:
        """Who is to be told what."""
        if len(jobs) == 1:
            job = jobs[0]
            return [(job.waiter, self._prepared(job.flow, job.wanted, deadline))]
        try:
            self._store.prepare()
            shared, alone = begin(jobs, self._store.takes)
            answers = self._store.group([job.wanted for job in shared]) if shared else ()
            alone += answer(shared, answers)
        except BaseException as error:
            return failed((job.waiter for job in jobs), error)
        told: list[tuple[Waiter, Outcome]]
        told = [(job.waiter, job.outcome) for job in jobs if job.outcome is not None]
        for job in alone:
            try:
                self._post(partial(self._finished, job))
            except BaseException as error:
                told.append((job.waiter, (None, error)))
        return told

    def _finished(self, job: Job) -> Callable[[], object]:
        return partial(job.waiter.tell, self._prepared(job.flow, job.wanted))

    # The end.

    def close(self) -> None:
        """Let what is under way come to its end, close the store, end the threads."""
        deadline = time.monotonic() + self._timeout
        self._summon(self._queue)
        while self._is_busy() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        close_store(self._store)
        self._threads.close()

    async def aclose(self) -> None:
        """Let what is under way come to its end, close the store, end the threads."""
        deadline = time.monotonic() + self._timeout
        self._summon(self._queue)
        while self._is_busy() and time.monotonic() < deadline:
            await anyio.sleep(_LOOK_SECONDS)
        await wait_for(self._threads.submit(lambda: close_store(self._store)), self._timeout)
        self._threads.close()

    def _is_busy(self) -> bool:
        return bool(self._under_way) or not self._queue.is_idle

    def abandon(self) -> None:
        """In a child process: the threads are not there, and their lock may be held for ever."""
        self._ending.detach()
