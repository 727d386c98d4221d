"""Where a callback was given to us, and is called: an event loop, or a thread of ours."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio.from_thread

from .events import logger
from .threads import Threads
from .waiting import in_event_loop, running_loop


class Home(Protocol):
    """Where a callback was given to us, and is called."""

    def is_closed(self) -> bool: ...

    def soon(self, context: Context, function: Callable[[], None]) -> None:
        """Call a function there; raises ``RuntimeError`` if it is closed."""
        ...

    def spawn(self, context: Context, awaitable: Awaitable[Any]) -> None:
        """Await it there; called there."""
        ...


_tasks: Final[set[asyncio.Task[Any]]] = set()


def _landed(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        note_failure(error)


@dataclass(frozen=True)
class _InAsyncio:
    _loop: asyncio.AbstractEventLoop

    def is_closed(self) -> bool:
        return self._loop.is_closed()

    def soon(self, context: Context, function: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(function, context=context)

    def spawn(self, context: Context, awaitable: Awaitable[Any]) -> None:
        # The coroutine itself: a task that is cancelled before it begins closes it.
        coroutine = awaitable if inspect.iscoroutine(awaitable) else _survived(awaitable)
        task = self._loop.create_task(coroutine, context=context)
        _tasks.add(task)
        task.add_done_callback(_landed)


@dataclass(frozen=True)
class _InTrio:
    _token: Any

    def is_closed(self) -> bool:
        try:
            self._token.run_sync_soon(_nothing, idempotent=True)
        except RuntimeError:
            return True
        return False

    def soon(self, context: Context, function: Callable[[], None]) -> None:
        self._token.run_sync_soon(context.run, function)

    def spawn(self, context: Context, awaitable: Awaitable[Any]) -> None:
        import trio

        try:
            # A copy: trio enters it, and we may be in it at this moment.
            trio.lowlevel.spawn_system_task(_survived, awaitable, context=context.copy())
        except RuntimeError:
            # trio is ending: it still makes the calls that wait, and takes no task any more.
            if inspect.iscoroutine(awaitable):
                awaitable.close()


class InThread:
    """For who gave it in no event loop: threads of ours, so that nobody waits for a callback."""

    def is_closed(self) -> bool:
        return False

    def soon(self, context: Context, function: Callable[[], None]) -> None:
        threads = Threads(1, "sessionware-ended")
        threads.submit(lambda: context.run(function))
        threads.close()

    def spawn(self, context: Context, awaitable: Awaitable[Any]) -> None:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        logger.error("an on_ended callback gave a coroutine where no event loop runs it")


def _nothing() -> None:
    """Only to see whether somebody is there to call it."""


async def _survived(awaitable: Awaitable[Any]) -> None:
    """What an application raises must not end a system task, and with it the whole of trio."""
    try:
        await awaitable
    except Exception as error:
        note_failure(error)


def note_failure(error: Exception) -> None:
    logger.error("an on_ended callback raised %s", type(error).__name__)


def home_here() -> Home | None:
    """The event loop that runs here."""
    loop = running_loop()
    if loop is not None:
        return _InAsyncio(loop)
    if not in_event_loop():
        return None
    import trio

    return _InTrio(trio.lowlevel.current_trio_token())


def home_of_thread() -> Home:
    """The event loop that this worker thread belongs to."""
    try:
        home = anyio.from_thread.run_sync(home_here)
    except RuntimeError:
        home = None
    if home is None:
        raise RuntimeError("on_ended needs an event loop here: the store is one of coroutines")
    return home
