"""Waiting, in a thread or in a task of asyncio or trio, for what somebody else does."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from .errors import apart

T = TypeVar("T")

Outcome: TypeAlias = tuple[Any, BaseException | None]
"""What was done gave, or the exception that it raised."""
Nudge: TypeAlias = Callable[[Any], object]
"""Called while a wait lasts, with what it is about."""
_FOREVER: Final = float("inf")


def _nothing(about: object) -> None:
    """Nobody is to be called."""


class Waiter(Protocol):
    """Somebody who waits; told once, from any thread."""

    def tell(self, outcome: Outcome) -> None: ...


class TaskWaiter:
    """A task of an asyncio loop, which runs in this thread."""

    __slots__ = ("_waits", "about", "due", "end", "future", "loop", "nudge", "patience")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Outcome | None] = loop.create_future()
        self._waits: dict[TaskWaiter, None] | None = None

    def tell(self, outcome: Outcome) -> None:
        tell_loop(self.loop, [(self, outcome)])

    def wait(
        self,
        seconds: float,
        patience: float = _FOREVER,
        nudge: Nudge = _nothing,
        about: object = None,
    ) -> asyncio.Future[Outcome | None]:
        """To be awaited: the outcome, if it comes in time, else None. ``nudge`` is called whenever
        ``patience`` is over.
        """
        if not self.future.done():
            now = self.loop.time()
            self.end, self.due = now + seconds, now + patience
            self.patience, self.nudge, self.about = patience, nudge, about
            self._waits = _alarms_of(self.loop).watch(self)
        return self.future

    def settle(self, outcome: Outcome | None) -> None:
        """In its loop: the wait is over. Its task may have been cancelled, or has given up."""
        if self._waits is not None:
            self._waits.pop(self, None)
            # It leads back here, and only a garbage collection would find that.
            self.about = None
        if not self.future.done():
            self.future.set_result(outcome)


class _Alarms:
    """Ends the waits of an event loop's tasks, and calls while they last.

    One timer for all: most waits are over in no time, and a timer for each, made and cancelled,
    would cost more than the rest of the wait.
    """

    __slots__ = ("_at", "_timer", "_waits")

    def __init__(self) -> None:
        self._waits: dict[TaskWaiter, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = _FOREVER

    def watch(self, waiter: TaskWaiter) -> dict[TaskWaiter, None]:
        """Begin to watch a wait. Who ends it takes it out of what this gives."""
        self._waits[waiter] = None
        if waiter.end < self._at or waiter.due < self._at:
            self._wind(waiter.loop, min(waiter.end, waiter.due))
        return self._waits

    def _wind(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        # In a context of its own: it outlives the request that happens to set it.
        self._timer = loop.call_at(at, self._ring, loop, context=Context())

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        # A clock with coarse steps may stand a little before the time that has come.
        now, at = max(loop.time(), self._at), _FOREVER
        self._at, self._timer = _FOREVER, None
        for waiter in list(self._waits):
            if waiter.end <= now or waiter.future.done():
                waiter.settle(None)
                continue
            if waiter.due <= now:
                waiter.due = now + waiter.patience
                try:
                    waiter.nudge(waiter.about)
                except Exception as error:
                    # No business of the other waits.
                    about = {"message": "a wait for the store was nudged", "exception": error}
                    loop.call_exception_handler(about)
            at = min(at, waiter.end, waiter.due)
        if at < self._at:
            self._wind(loop, at)


class _Here(threading.local):
    """The alarms of the loop that runs in this thread."""

    loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
    alarms: _Alarms


def _alarms_of(loop: asyncio.AbstractEventLoop) -> _Alarms:
    if _here.loop is None or _here.loop() is not loop:
        _here.loop, _here.alarms = weakref.ref(loop), _Alarms()
    return _here.alarms


_here: Final = _Here()


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
        self,
        seconds: float,
        patience: float = _FOREVER,
        nudge: Nudge = _nothing,
        about: object = None,
    ) -> Outcome | None:
        """See ``TaskWaiter.wait``."""
        while self.outcome is None:
            part = min(seconds, patience)
            if part <= 0 or self._lock.acquire(timeout=part):
                break
            seconds -= part
            nudge(about)
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
        self,
        seconds: float,
        patience: float = _FOREVER,
        nudge: Nudge = _nothing,
        about: object = None,
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
            nudge(about)
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


def tell_all(outcomes: Sequence[tuple[Waiter, Outcome]]) -> None:
    """Tell several: an event loop is woken once for all of its tasks."""
    if len(outcomes) == 1:
        waiter, outcome = outcomes[0]
        waiter.tell(outcome)
        return
    loops: dict[asyncio.AbstractEventLoop, list[tuple[TaskWaiter, Outcome]]] = {}
    for waiter, outcome in outcomes:
        if isinstance(waiter, TaskWaiter):
            loops.setdefault(waiter.loop, []).append((waiter, outcome))
        else:
            waiter.tell(outcome)
    for loop, told in loops.items():
        tell_loop(loop, told)


def failed(waiters: Iterable[Waiter], error: BaseException) -> list[tuple[Waiter, Outcome]]:
    """The outcome for all who are to be told of an error: one of his own for each."""
    return [(waiter, (None, apart(error))) for waiter in waiters]


def loop_of(outcomes: Iterable[tuple[Waiter, Outcome]]) -> asyncio.AbstractEventLoop | None:
    """The event loop, if tasks of one are all who are to be told."""
    loops = {waiter.loop if isinstance(waiter, TaskWaiter) else None for waiter, _ in outcomes}
    return loops.pop() if len(loops) == 1 else None


def tell_loop(
    loop: asyncio.AbstractEventLoop,
    told: Iterable[tuple[Waiter, Outcome]],
    then: Callable[[], object] | None = None,
) -> None:
    """Tell tasks of an event loop. ``then`` is called there when they have gone on, or here if the
    loop has been closed in the meantime.
    """
    try:
        loop.call_soon_threadsafe(_settle, told, then)
    except RuntimeError:
        # It has been closed in the meantime.
        if then is not None:
            then()


def tell(waiter: Waiter, outcome: Outcome) -> None:
    """Tell a task of the event loop that runs here."""
    if isinstance(waiter, TaskWaiter):
        waiter.settle(outcome)
    else:
        waiter.tell(outcome)


def _settle(
    told: Iterable[tuple[Waiter, Outcome]], then: Callable[[], object] | None = None
) -> None:
    for waiter, outcome in told:
        if isinstance(waiter, TaskWaiter):
            waiter.settle(outcome)
    if then is not None:
        asyncio.get_running_loop().call_soon(then)


def result_of(outcome: Outcome) -> Any:
    """What it gave; raises what it raised."""
    value, error = outcome
    if error is not None:
        raise error
    return value


def waiter_here() -> TaskWaiter | TrioWaiter:
    """For the task that runs here."""
    try:
        return TaskWaiter(asyncio.get_running_loop())
    except RuntimeError:
        return TrioWaiter()


async def wait_for(future: Future[T], timeout: float) -> bool:
    """Wait until the future is done, for ``timeout`` seconds at the most; whether it is.

    A cancelled waiter leaves the future alone: it is the business of others too.
    """
    if not future.done():
        waiter = waiter_here()
        future.add_done_callback(lambda _: waiter.tell((None, None)))
        await waiter.wait(timeout)
    return future.done()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The asyncio event loop that this thread is running right now."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def in_event_loop() -> bool:
    """Whether this thread is running an asyncio or trio event loop right now."""
    if running_loop() is not None:
        return True
    # While another thread imports trio for the first time, it is there in part only.
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    in_trio_run = getattr(lowlevel, "in_trio_run", None)
    return in_trio_run is not None and bool(in_trio_run())
