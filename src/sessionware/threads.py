"""A few daemon threads that work off a queue, so that no event loop ever waits for a database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple["Future[Any] | None", Callable[[], Any]]


class _Crew:
    """The threads that share a queue, until they are told to end.

    ``unclaimed``: jobs that were submitted, less the threads that were free for one since. Counted
    when a thread becomes free and not when it takes a job, or a job could wait behind a long one
    that a thread is just about to begin.
    """

    def __init__(self) -> None:
        self.queue: SimpleQueue[_Job | None] = SimpleQueue()
        self.count = 0
        self.unclaimed = 0


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

        Raises ``RuntimeError`` if there is no thread and none can be started.
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
            crew.unclaimed += 1
            if crew.unclaimed > 0 and crew.count < self._limit:
                self._start(crew)
            crew.queue.put((future, job))

    def _start(self, crew: _Crew) -> None:
        thread = threading.Thread(target=self._work, args=(crew,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system has no more of them. Those that there are will do.
            if not crew.count:
                crew.unclaimed -= 1
                raise
        else:
            crew.count += 1

    def _work(self, crew: _Crew) -> None:
        while True:
            with self._lock:
                crew.unclaimed -= 1
            taken = crew.queue.get()
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

    def close(self) -> None:
        """End the threads when they have worked off what was submitted."""
        with self._lock:
            # What is submitted from here on is for threads of its own.
            crew, self._crew = self._crew, _Crew()
        for _ in range(crew.count):
            crew.queue.put(None)
