"""Waiting in a coroutine: for a thread's future, and to be told, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from contextvars import Context, ContextVar
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sessionware.waiting import (
    Outcome,
    TaskWaiter,
    TrioWaiter,
    in_event_loop,
    wait_for,
    waiter_here,
)

pytestmark = pytest.mark.anyio

PATIENCE = 5


async def wait(waiter: TaskWaiter | TrioWaiter, seconds: float, *more: Any) -> Outcome | None:
    return await waiter.wait(seconds, *more)


def finish_from_a_thread(future: Future[int]) -> None:
    threading.Thread(target=future.set_result, args=(7,)).start()


async def test_a_future_that_is_done_is_not_waited_for() -> None:
    future: Future[int] = Future()
    future.set_result(7)
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await wait_for(future, 0)
    assert not scope.cancelled_caught, "no checkpoint where there is nothing to wait for"


async def test_a_thread_wakes_the_waiter() -> None:
    future: Future[int] = Future()
    finish_from_a_thread(future)
    with anyio.fail_after(PATIENCE):
        assert await wait_for(future, PATIENCE)
    assert future.result() == 7


@pytest.mark.parametrize("end", [lambda f: f.set_exception(LookupError()), Future.cancel])
async def test_any_end_of_the_future_wakes_the_waiter(end: object) -> None:
    future: Future[int] = Future()
    assert callable(end)
    threading.Thread(target=end, args=(future,)).start()
    with anyio.fail_after(PATIENCE):
        assert await wait_for(future, PATIENCE)


async def test_many_may_wait_for_one_future() -> None:
    future: Future[int] = Future()
    done: list[bool] = []

    async def wait() -> None:
        done.append(await wait_for(future, PATIENCE))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            finish_from_a_thread(future)
    assert done == [True] * 20


@pytest.mark.parametrize("timeout", [0, 0.01])
async def test_the_time_being_up_ends_the_waiting_and_not_the_future(timeout: float) -> None:
    future: Future[int] = Future()
    with anyio.fail_after(PATIENCE):
        assert not await wait_for(future, timeout)
    assert not future.done()
    future.set_result(7)


async def test_a_cancelled_waiter_leaves_the_future_to_the_others() -> None:
    future: Future[int] = Future()
    done: list[bool] = []

    async def wait() -> None:
        done.append(await wait_for(future, PATIENCE))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            with anyio.move_on_after(0.01) as scope:
                await wait_for(future, PATIENCE)
            assert scope.cancelled_caught
            assert not future.cancelled()
            finish_from_a_thread(future)
    assert done == [True]


async def test_it_knows_an_event_loop_from_a_thread_of_it() -> None:
    assert in_event_loop()
    assert not await anyio.to_thread.run_sync(in_event_loop)


async def abandon(future: Future[int]) -> None:
    with anyio.move_on_after(0.001):
        await wait_for(future, PATIENCE)


def test_no_event_loop_is_none() -> None:
    assert not in_event_loop()


@pytest.mark.parametrize(
    "so_far", [{}, {"lowlevel": ModuleType("trio.lowlevel")}], ids=["nothing", "lowlevel"]
)
def test_while_another_thread_imports_trio_no_event_loop_is_none(
    so_far: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trio = ModuleType("trio")
    trio.__dict__.update(so_far)
    monkeypatch.setitem(sys.modules, "trio", trio)
    assert not in_event_loop()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_future_may_end_after_the_loop_of_its_waiter(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    future: Future[int] = Future()
    anyio.run(abandon, future, backend=backend)
    future.set_result(7)
    assert caplog.records == [], "concurrent.futures logs what a callback raises"


def test_a_waiter_of_one_loop_may_be_woken_while_another_runs() -> None:
    future: Future[int] = Future()
    asyncio.run(abandon(future))

    async def wait() -> bool:
        finish_from_a_thread(future)
        return await wait_for(future, PATIENCE)

    assert asyncio.run(wait())


# Told, nudged, or out of time: many waits at once, of which each ends by itself.


async def test_each_of_many_waits_ends_at_its_own_time() -> None:
    began, ended = time.monotonic(), {}

    async def wait(seconds: float, patience: float) -> None:
        assert await waiter_here().wait(seconds, patience, lambda _: None) is None
        ended[seconds] = time.monotonic() - began

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for seconds in (0.3, 0.05, 0.2, 0.1):
                group.start_soon(wait, seconds, seconds * 0.4)
    assert list(ended) == [0.05, 0.1, 0.2, 0.3]
    assert all(taken >= seconds * 0.95 for seconds, taken in ended.items())


async def test_a_wait_is_nudged_whenever_its_patience_is_over_until_it_is_told() -> None:
    waiter, nudged = waiter_here(), []

    def nudge(_: object) -> None:
        nudged.append(time.monotonic())
        if len(nudged) == 3:
            waiter.tell(("done", None))

    async with anyio.create_task_group() as group:
        group.start_soon(wait, waiter_here(), 0.5)
        with anyio.fail_after(PATIENCE):
            assert await waiter.wait(PATIENCE, 0.05, nudge) == ("done", None)
    assert all(later - sooner >= 0.04 for sooner, later in itertools.pairwise(nudged))


async def test_who_gives_up_waiting_leaves_the_others_their_alarms() -> None:
    nudged: list[int] = []

    async def wait(number: int) -> None:
        await waiter_here().wait(0.2, 0.05, lambda _: nudged.append(number))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(0.01):
                await wait(0)
            group.start_soon(wait, 1)
    assert set(nudged) == {1}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_waits_that_are_over_in_no_time_share_one_timer_and_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop: Any = asyncio.get_running_loop()
    timers: list[float] = []
    set_timer = loop.call_at

    def call_at(when: float, *what: Any, **more: Any) -> Any:
        timers.append(when)
        return set_timer(when, *what, **more)

    monkeypatch.setattr(loop, "call_at", call_at)

    class Answer:
        pass

    async with anyio.create_task_group() as group:
        group.start_soon(wait, TaskWaiter(loop), 0.5)
        await anyio.wait_all_tasks_blocked()
        timers.clear()
        for _ in range(100):
            waiter, answer = TaskWaiter(loop), Answer()
            known = weakref.ref(answer)
            loop.call_soon(waiter.tell, (answer, None))
            assert await waiter.wait(PATIENCE, 1.0) == (answer, None)
            del waiter, answer
            await asyncio.sleep(0)
            assert known() is None
        assert timers == []


def test_each_event_loop_of_a_thread_has_alarms_of_its_own() -> None:
    async def told_at_once() -> None:
        waiter = waiter_here()
        asyncio.get_running_loop().call_soon(waiter.tell, (7, None))
        assert await waiter.wait(0.01) == (7, None)

    async def told_nothing() -> None:
        async with asyncio.timeout(PATIENCE):
            assert await waiter_here().wait(0.05) is None

    for _ in range(3):
        asyncio.run(told_at_once())
        asyncio.run(told_nothing())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_nudge_that_fails_is_reported_and_ends_no_alarm() -> None:
    loop = asyncio.get_running_loop()
    reported: list[Any] = []
    loop.set_exception_handler(lambda _, about: reported.append(about["exception"]))

    def fail(_: object) -> None:
        raise RuntimeError("no more threads")

    try:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for seconds in (0.1, 0.15):
                    group.start_soon(wait, TaskWaiter(loop), seconds)
                assert await TaskWaiter(loop).wait(0.12, 0.05, fail) is None
    finally:
        loop.set_exception_handler(None)
    assert {str(error) for error in reported} == {"no more threads"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_timer_of_all_keeps_nothing_of_the_request_that_set_it() -> None:
    loop = asyncio.get_running_loop()
    request: ContextVar[object] = ContextVar("request")
    seen: list[object] = []

    class Request:
        pass

    async def visit(known: Request) -> None:
        request.set(known)
        await TaskWaiter(loop).wait(0.02)

    known = Request()
    alive = weakref.ref(known)
    first = asyncio.create_task(visit(known), context=Context())
    del known
    await asyncio.sleep(0)
    second = TaskWaiter(loop)
    waiting = asyncio.create_task(wait(second, 0.2, 0.05, lambda _: seen.append(request.get(None))))
    await first
    del first
    await asyncio.sleep(0)
    assert alive() is None
    await waiting
    assert set(seen) == {None}
