"""Waiting in a coroutine for a thread's future: on asyncio and on trio."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import anyio
import anyio.to_thread
import pytest

from sessionware.waiting import in_event_loop, wait_for

pytestmark = pytest.mark.anyio

PATIENCE = 5


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
