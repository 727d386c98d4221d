"""A few daemon threads that work off a queue, so that no event loop ever waits for a database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[[], Any]]


class Threads:
    """At most ``limit`` threads, started as work comes in.

    Unlike ``concurrent.futures`` the threads are daemons: a database that hangs doesn't keep the
    process from ending. A job whose future was cancelled before it began is skipped.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        self._idle = 0

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a thread run the job; its outcome is the future's."""
        future: Future[T] = Future()
        with self._lock:
            self._queue.put((future, job))
            wanted = self._idle < self._queue.qsize() and self._count < self._limit
            if wanted:
                self._count += 1
        if wanted:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            taken = self._queue.get()
            with self._lock:
                self._idle -= 1
                if taken is None:
                    self._count -= 1
                    return
            future, job = taken
            # Names of the last job would keep its data alive until the next one.
            del taken
            if future.set_running_or_notify_cancel():
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
            count = self._count
        for _ in range(count):
            self._queue.put(None)
