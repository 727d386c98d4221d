"""Waiting in a coroutine, on asyncio or trio, for what a thread does."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def wait_for(future: Future[T], timeout: float) -> bool:
    """Wait until the future is done, for ``timeout`` seconds at the most; whether it is.

    A cancelled waiter leaves the future alone: it is the business of others too.
    """
    if future.done():
        return True
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return await _wait_in_trio(future, timeout)
    done = asyncio.Event()

    def wake(_: object = None) -> None:
        # The loop may have been closed in the meantime.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(done.set)

    future.add_done_callback(wake)
    alarm = loop.call_later(timeout, done.set)
    try:
        await done.wait()
    finally:
        alarm.cancel()
    return future.done()


async def _wait_in_trio(future: Future[Any], timeout: float) -> bool:
    trio = sys.modules["trio"]
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()

    def wake(_: object = None) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    future.add_done_callback(wake)
    with trio.move_on_after(timeout):
        await done.wait()
    return future.done()


def in_event_loop() -> bool:
    """Whether this thread is running an asyncio or trio event loop right now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    return True
