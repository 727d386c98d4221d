"""A few daemon threads that work off a queue, so that no event loop ever waits for a database."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from .errors import ConfigurationError, Finding

T = TypeVar("T")
_Job = tuple["Future[Any] | None", Callable[[], Any]]


class _Seat:
    """Where an idle thread waits, and the job that ends its wait; None sends it home.

    A lock of its own, so that a job wakes one thread: those who wait on one ``SimpleQueue`` wake
    each other, and compete for the interpreter with the one that has the job.
    """

    __slots__ = ("job", "signal")

    def __init__(self) -> None:
        self.job: _Job | None = None
        self.signal = threading.Lock()
        self.signal.acquire()


class _Crew:
    """Threads, until they are told to end: who is idle, and what waits for one to become so."""

    def __init__(self) -> None:
        self.count = 0
        # The last to become idle is the first to be called: its data is still in the caches.
        self.idle: list[_Seat] = []
        self.waiting: deque[_Job] = deque()
        self.ending = False


class Threads:
    """At most ``limit`` threads, started as work comes in.

    Unlike ``concurrent.futures`` the threads are daemons: a database that hangs doesn't keep the
    process from ending. A job whose future was cancelled before it began is skipped.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._lock = threading.Lock()
        self._crew = _Crew()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a thread run the job; its outcome is the future's.

        Raises ``RuntimeError`` if there is no thread and none can be started, and
        ``ConfigurationError`` if they are no longer what they were when this was made.
        """
        future: Future[T] = Future()
        self._put(future, job)
        return future

    def post(self, job: Callable[[], object]) -> None:
        """Have a thread run the job, which raises nothing; raises as ``submit`` does."""
        self._put(None, job)

    def _put(self, future: Future[Any] | None, job: Callable[[], Any]) -> None:
        with self._lock:
            crew = self._crew
            if crew.idle:
                seat = crew.idle.pop()
                seat.job = (future, job)
                seat.signal.release()
                return
            if crew.count < self._limit:
                self._start(crew)
            crew.waiting.append((future, job))

    def _start(self, crew: _Crew) -> None:
        if _takes_turns(threading.Lock()) and not _takes_turns(self._lock):
            # A lock from before stops the one thread that they all share.
            raise ConfigurationError([_patched_late()])
        thread = threading.Thread(target=self._work, args=(crew,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system has no more of them. Those that there are will do.
            if not crew.count:
                raise
        else:
            crew.count += 1

    def _work(self, crew: _Crew) -> None:
        seat = _Seat()
        while True:
            taken = self._next(crew, seat)
            if taken is None:
                return
            future, job = taken
            # Names of the last job would keep its data alive until the next one.
            del taken
            if future is None:
                job()
            elif future.set_running_or_notify_cancel():
                try:
                    result = job()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del future, job

    def _next(self, crew: _Crew, seat: _Seat) -> _Job | None:
        """The job to be done next, when there is one; None at the end."""
        with self._lock:
            if crew.waiting:
                return crew.waiting.popleft()
            if crew.ending:
                return None
            crew.idle.append(seat)
        seat.signal.acquire()
        job, seat.job = seat.job, None
        return job

    def close(self) -> None:
        """End the threads when they have worked off what was submitted."""
        with self._lock:
            # What is submitted from here on is for threads of its own.
            crew, self._crew = self._crew, _Crew()
            crew.ending = True
            for seat in crew.idle:
                seat.signal.release()


def _takes_turns(lock: object) -> bool:
    """Whether it is one for threads that only take turns."""
    return type(lock).__module__.partition(".")[0] in ("gevent", "eventlet")


def _patched_late() -> Finding:
    return Finding(
        "SW020",
        "store",
        "gevent or eventlet has replaced Python's threads after this was made: all would wait for "
        "each other for ever.",
        "patch before the application is imported; with gunicorn --preload in its configuration "
        "file: from gevent import monkey; monkey.patch_all()",
    )
