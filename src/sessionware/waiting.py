"""Waiting, in a thread or in a task of asyncio or trio, for what somebody else does."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Outcome: TypeAlias = tuple[Any, BaseException | None]
"""What was done gave, or the exception that it raised."""
_Told: TypeAlias = tuple["asyncio.Future[Outcome | None]", Outcome | None]
_FOREVER: Final = float("inf")


def _nothing() -> None:
    """Nobody is to be called."""


class Waiter(Protocol):
    """Somebody who waits; told once, from any thread."""

    def tell(self, outcome: Outcome) -> None: ...


class TaskWaiter:
    """A task of the running asyncio loop."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Outcome | None] = self.loop.create_future()

    def tell(self, outcome: Outcome) -> None:
        _wake(self.loop, [(self.future, outcome)])

    async def wait(
        self, seconds: float, patience: float = _FOREVER, nudge: Callable[[], object] = _nothing
    ) -> Outcome | None:
        """The outcome, if it comes in time; ``nudge`` is called whenever ``patience`` is over."""
        if not self.future.done():
            alarm = _Alarm(self, seconds, patience, nudge)
            try:
                return await self.future
            finally:
                alarm.off()
        return await self.future


class _Alarm:
    """Ends a task's wait, and calls while it lasts."""

    __slots__ = ("_left", "_nudge", "_patience", "_timer", "_waiter")

    def __init__(
        self, waiter: TaskWaiter, seconds: float, patience: float, nudge: Callable[[], object]
    ) -> None:
        self._waiter = waiter
        self._left = seconds
        self._patience = patience
        self._nudge = nudge
        self._wind()

    def _wind(self) -> None:
        part = min(self._left, self._patience)
        self._left -= part
        self._timer = self._waiter.loop.call_later(max(0.0, part), self._ring)

    def _ring(self) -> None:
        if self._left <= 0:
            _settle([(self._waiter.future, None)])
            return
        self._nudge()
        self._wind()

    def off(self) -> None:
        self._timer.cancel()


class ThreadWaiter:
    """A thread."""

    __slots__ = ("_lock", "outcome")

    def __init__(self) -> None:
        # A lock that is let go once is the quickest signal there is.
        self._lock = threading.Lock()
        self._lock.acquire()
        self.outcome: Outcome | None = None

    def tell(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._lock.release()

    def wait(
        self, seconds: float, patience: float = _FOREVER, nudge: Callable[[], object] = _nothing
    ) -> Outcome | None:
        """See ``TaskWaiter.wait``."""
        while self.outcome is None:
            part = min(seconds, patience)
            if part <= 0 or self._lock.acquire(timeout=part):
                break
            seconds -= part
            nudge()
        return self.outcome


class TrioWaiter:
    """A task of the running trio loop."""

    __slots__ = ("_event", "_token", "_trio", "outcome")

    def __init__(self) -> None:
        self._trio = sys.modules["trio"]
        self._token = self._trio.lowlevel.current_trio_token()
        self._event = self._trio.Event()
        self.outcome: Outcome | None = None

    def tell(self, outcome: Outcome) -> None:
        self.outcome = outcome
        with suppress(self._trio.RunFinishedError):
            self._token.run_sync_soon(self._event.set)

    async def wait(
        self, seconds: float, patience: float = _FOREVER, nudge: Callable[[], object] = _nothing
    ) -> Outcome | None:
        """See ``TaskWaiter.wait``."""
        while self.outcome is None:
            part = min(seconds, patience)
            if part <= 0:
                break
            seconds -= part
            with self._trio.move_on_after(part):
                await self._event.wait()
                break
            nudge()
        return self.outcome


class Claim:
    """What only one of two may take: who begins it, or who has waited in vain."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = [None]

    def take(self) -> bool:
        try:
            # One step for the interpreter.
            self._left.pop()
        except IndexError:
            return False
        return True


def tell_all(outcomes: Iterable[tuple[Waiter, Outcome]]) -> None:
    """Tell several: an event loop is woken once for all of its tasks."""
    loops: dict[asyncio.AbstractEventLoop, list[_Told]] = {}
    for waiter, outcome in outcomes:
        if isinstance(waiter, TaskWaiter):
            loops.setdefault(waiter.loop, []).append((waiter.future, outcome))
        else:
            waiter.tell(outcome)
    for loop, told in loops.items():
        _wake(loop, told)


def _wake(loop: asyncio.AbstractEventLoop, told: list[_Told]) -> None:
    try:
        loop.call_soon_threadsafe(_settle, told)
    except RuntimeError:
        return  # It has been closed in the meantime.


def tell(waiter: Waiter, outcome: Outcome) -> None:
    """Tell a task of the event loop that runs here."""
    if isinstance(waiter, TaskWaiter):
        _settle([(waiter.future, outcome)])
    else:
        waiter.tell(outcome)


def _settle(told: list[_Told]) -> None:
    for future, outcome in told:
        # Its task may have been cancelled, or has given up.
        if not future.done():
            future.set_result(outcome)


def result_of(outcome: Outcome) -> Any:
    """What it gave; raises what it raised."""
    value, error = outcome
    if error is not None:
        raise error
    return value


def waiter_here() -> TaskWaiter | TrioWaiter:
    """For the task that runs here."""
    return TaskWaiter() if in_asyncio() else TrioWaiter()


async def wait_for(future: Future[T], timeout: float) -> bool:
    """Wait until the future is done, for ``timeout`` seconds at the most; whether it is.

    A cancelled waiter leaves the future alone: it is the business of others too.
    """
    if not future.done():
        waiter = waiter_here()
        future.add_done_callback(lambda _: waiter.tell((None, None)))
        await waiter.wait(timeout)
    return future.done()


def in_asyncio() -> bool:
    """Whether this thread is running an asyncio event loop right now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def in_event_loop() -> bool:
    """Whether this thread is running an asyncio or trio event loop right now."""
    if in_asyncio():
        return True
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())
