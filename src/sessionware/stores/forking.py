"""A fork: who has to know of it, and how no SQLite file is open in the process meanwhile.

SQLite's locks are the process's. A child that inherits an open file takes none for its own
connections either, so that the WAL is deleted under it as soon as the parent lets go, and nobody
ever sees what it commits (sqlite.org/howtocorrupt.html, 2.6). So all connections are closed before
a fork, and none is opened until it is over. Where that does not succeed in time, a child refuses to
use the file: better than to acknowledge what is going to vanish.

A fork may come from any thread, an event loop's own too: nothing here waits for a loop.

uWSGI forks in C and, by default, tells Python nothing of it. Its children are found out by their
number when they first ask a store: then all that was not done before the fork is known as well.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Final, Protocol

from sqlalchemy import Pool

from .. import chance
from ..errors import StoreUnavailable


class Follower(Protocol):
    """Who has something of its own that a child must not share."""

    def before_fork(self) -> None: ...
    def after_fork(self) -> None: ...


class Opener(Protocol):
    """Who opens a SQLite file."""

    @property
    def file(self) -> str | None: ...
    @property
    def timeout(self) -> float: ...
    @property
    def is_open(self) -> bool:
        """Whether it may have the file open, as far as can be told without waiting for anybody."""
        ...

    def hush(self, deadline: float, until: ExitStack) -> bool:
        """Close all connections and open none until ``until`` is closed, which a child never does;
        whether that succeeded by the deadline.
        """
        ...

    def after_fork(self) -> None: ...


_followers: weakref.WeakSet[Follower] = weakref.WeakSet()
_openers: weakref.WeakSet[Opener] = weakref.WeakSet()
_reborn: list[Callable[[], None]] = []
_inherited: Final[set[str]] = set()
# One fork at a time; whoever is new waits until it is over.
_turn = threading.RLock()
_until = ExitStack()
_open: list[str] = []
# The process that all of this belongs to.
_process = os.getpid()
_noticing = threading.Lock()


def follow(follower: Follower) -> None:
    """Have it told of forks, for as long as it is in use."""
    with _turn:
        _followers.add(follower)


def close_over_forks(opener: Opener) -> None:
    """Have it close its file over a fork, for as long as it is in use."""
    with _turn:
        _openers.add(opener)


def in_child(act: Callable[[], None]) -> None:
    """Have it called in each child, after those that follow and those that open files."""
    _reborn.append(act)


def notice_fork() -> None:
    """To be called before a store is asked: in a child that was forked unnoticed, do now what was
    not done then.
    """
    if os.getpid() == _process:
        return
    with _noticing:
        if os.getpid() != _process:
            _open[:] = [os.path.realpath(each.file or "") for each in _openers if each.is_open]
            chance.forget()
            _in_child()
            _tell_child()


def refuse_inherited(file: str | None) -> None:
    """Raise ``StoreUnavailable`` if the parent had this file open when this process began."""
    if _inherited and file is not None and os.path.realpath(file) in _inherited:
        raise StoreUnavailable(
            "the SQLite file was in use while this process was forked, so that what it writes "
            "could be lost: fork before the parent uses it, or start processes anew (spawn; "
            "lazy-apps with uWSGI)"
        )


def hold(lock: threading.Lock, deadline: float, until: ExitStack) -> bool:
    """Take a lock by the deadline, for as long as the fork takes."""
    if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
        return False
    until.callback(lock.release)
    return True


def in_use(pool: Pool, idle: bool = False) -> bool:
    """Whether somebody has a connection of the pool's, or, with ``idle``, the pool itself; as far
    as the pool counts them.
    """
    counts = ("checkedout", "checkedin") if idle else ("checkedout",)
    return any(getattr(pool, count, int)() > 0 for count in counts)


class Gate:
    """Knows how many are inside, and lets nobody in while it is shut."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_shut = False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_shut)
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self, deadline: float, until: ExitStack) -> bool:
        """Whether nobody is inside any more by the deadline; it is open again after the fork."""
        until.callback(self._open)
        with self._changed:
            self._is_shut = True
            left = max(0.0, deadline - time.monotonic())
            return self._changed.wait_for(lambda: not self._inside, left)

    def _open(self) -> None:
        with self._changed:
            self._is_shut = False
            self._changed.notify_all()


def _tell_before() -> None:
    with _turn:
        for follower in list(_followers):
            follower.before_fork()


def _tell_child() -> None:
    global _process
    for follower in list(_followers):
        follower.after_fork()
    for act in _reborn:
        act()
    _process = os.getpid()


def _before() -> None:
    _turn.acquire()
    openers = list(_openers)
    # As it is if what follows is interrupted.
    _open[:] = [os.path.realpath(opener.file or "") for opener in openers]
    began = time.monotonic()
    _open[:] = [
        os.path.realpath(opener.file or "")
        for opener in openers
        if not opener.hush(began + opener.timeout, _until)
    ]


def _in_parent() -> None:
    _open.clear()
    try:
        _until.close()
    finally:
        with suppress(RuntimeError):
            _turn.release()


def _in_child() -> None:
    global _turn
    _turn = threading.RLock()
    # The locks in there are the parent's.
    _until.pop_all()
    _inherited.update(_open)
    _open.clear()
    for opener in list(_openers):
        opener.after_fork()


if hasattr(os, "register_at_fork"):
    # Those registered last are called first before a fork, and last after it.
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
    os.register_at_fork(before=_tell_before, after_in_child=_tell_child)
