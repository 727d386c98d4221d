"""aiosqlite's connections of an engine of ours, each known from before it is open: they are closed
from any thread, though no event loop runs, because each has a thread of its own.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import weakref
from contextlib import ExitStack, suppress
from typing import Any, Final

from .forking import close_over_forks, hold

_LOOK_SECONDS: Final = 0.01


class Opened:
    """The connections of one engine."""

    def __init__(self, file: str, timeout: float) -> None:
        self.file = file
        self.timeout = timeout
        self.forks = 0
        # Held while one is opened.
        self.opening = threading.Lock()
        self._opened: weakref.WeakSet[_Connection] = weakref.WeakSet()
        close_over_forks(self)

    def create(self, *args: Any, **kwargs: Any) -> Any:
        """A connection as SQLAlchemy makes it (``async_creator_fn``); the caller awaits it."""
        import aiosqlite

        made = _Connection(self)
        driver: Any = aiosqlite.connect(*args, factory=made.open, **kwargs)
        made.belongs_to(driver)
        return driver

    def add(self, connection: _Connection) -> None:
        self._opened.add(connection)

    @property
    def is_open(self) -> bool:
        """See ``forking.Opener``."""
        return any(is_open(connection._raw) for connection in list(self._opened))

    def hush(self, deadline: float, until: ExitStack) -> bool:
        """See ``forking.Opener``. What is under way in their threads comes to its end; who has more
        to say in the same transaction is told that the connection is lost.
        """
        if not hold(self.opening, deadline, until):
            return False
        self.forks += 1
        opened = list(self._opened)
        for connection in opened:
            connection.close()
        return all(connection.is_closed_by(deadline) for connection in opened)

    def after_fork(self) -> None:
        """In a child process: no thread of theirs is there."""
        self.opening = threading.Lock()
        self._opened = weakref.WeakSet()

    def end(self) -> None:
        """Close all and end their threads, when their event loop is no more."""
        with self.opening:
            for connection in list(self._opened):
                connection.end()


class _Connection:
    """Kept alive by the driver's connection, which makes it."""

    def __init__(self, owner: Opened) -> None:
        self._owner = owner
        self._raw: _Raw | None = None
        self._closed = threading.Event()

    def belongs_to(self, driver: Any) -> None:
        """Of older versions, a connection is itself the thread."""
        self._driver: weakref.ref[Any] = weakref.ref(driver)
        self._thread: threading.Thread = getattr(driver, "_thread", driver)
        self._thread.daemon = True
        self._jobs: Any = driver._tx

    def open(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        """In the driver's thread, which may wait."""
        owner = self._owner
        with owner.opening:
            self._raw = _Raw(*args, **kwargs)
            owner.add(self)
            return self._raw

    def close(self) -> None:
        """Have its thread close it."""
        self._jobs.put((_NOBODY, self._close))

    def _close(self) -> None:
        assert self._raw is not None
        self._raw.close_with_cursors()
        self._closed.set()

    def is_closed_by(self, deadline: float) -> bool:
        while not self._closed.wait(_LOOK_SECONDS):
            # Whoever was quicker has ended the thread, too.
            if not self._thread.is_alive() and not is_open(self._raw):
                return True
            if time.monotonic() >= deadline:
                return False
        return True

    def end(self) -> None:
        """Have its thread close it and end."""
        # There, it finds no event loop that it would try to tell.
        self._jobs.put((_NOBODY, getattr(self._driver(), "stop", self._close)))


class _Raw(sqlite3.Connection):
    """One that knows the cursors that SQLAlchemy keeps from one trip into its thread to the next:
    while there is a statement, SQLite keeps the file open.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        made = super().cursor(*args, **kwargs)
        self._cursors.add(made)
        return made

    def close_with_cursors(self) -> None:
        for cursor in list(self._cursors):
            with suppress(sqlite3.Error):
                cursor.close()
        self.close()


class _Nobody:
    """In place of the future that is told of a result."""

    def get_loop(self) -> _Nobody:
        return self

    def call_soon_threadsafe(self, *_: object) -> None:
        """There is nobody to tell."""


_NOBODY: Final = _Nobody()


def is_open(raw: Any) -> bool:
    """Whether a driver's connection has not been closed, as over a fork."""
    with suppress(sqlite3.ProgrammingError):
        return raw.in_transaction is not None
    return False
