"""Flows that wait for a commit, in the order they came, and who carries them out together.

There is no timer: while a commit is under way, those who come meanwhile wait, and go into the next
one. Whoever finds nobody at it calls for a leader; one whose commit hangs is joined by another.

An event loop calls when it has come round: what all of its tasks bring in one turn is one commit. A
leader who has told many of them leaves the next commit to them, for most come back at once; going
on with the one who came too late, it would be half a turn ahead of them for good.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

from .flows import Call, Flow, Pause
from .waiting import Outcome, Waiter

MOST: Final = 256
"""How many may share a commit."""
PATIENCE: Final = 0.05
"""Seconds after which who waits for others' commit sees to a leader of its own."""


class Alone(Enum):
    """The answer to a call that has to be made by itself: nothing of it was done."""

    ALONE = "alone"


ALONE: Final = Alone.ALONE


class Job:
    """A flow on its way: what it wants next, or its outcome."""

    __slots__ = ("begun", "flow", "outcome", "queue", "waiter", "wanted")

    def __init__(self, flow: Flow[Any], waiter: Waiter, queue: Queue) -> None:
        self.flow = flow
        self.waiter = waiter
        self.queue = queue
        self.begun = False
        self.wanted: Call | Pause | None = None
        self.outcome: Outcome | None = None

    def go_on(self, answer: Any = None) -> None:
        """Answer what the flow wanted; an exception is raised there."""
        try:
            if isinstance(answer, Exception):
                self.wanted = self.flow.throw(answer)
            else:
                self.wanted = self.flow.send(answer)
        except StopIteration as stop:
            self.outcome = (stop.value, None)
        except BaseException as error:
            self.outcome = (None, error)


class Queue:
    """Who waits, and how many lead."""

    def __init__(self, most_leaders: int) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._most_leaders = most_leaders
        self.leaders = 0
        # Whether somebody has been told to call for a leader, and has not done so yet.
        self.called = False

    def add(self, job: Job) -> bool:
        """Let it wait; whether the caller has to call for a leader, now or in a moment."""
        with self._lock:
            self._waiting.append(job)
            if self.leaders or self.called:
                return False
            self.called = True
            return True

    def appoint(self) -> bool:
        """Call for a leader; whether the caller has to see that one leads."""
        with self._lock:
            self.called = False
            if self.leaders or not self._waiting:
                return False
            self.leaders = 1
            return True

    def take(self) -> list[Job]:
        """For a leader: those who go next. None left: it leads no more."""
        with self._lock:
            if not self._waiting:
                self.leaders -= 1
                return []
            return self._next(MOST)

    def rest(self, told: int) -> bool:
        """For a leader who is about to tell so many: whether it leads no more, because fewer wait.
        If ``called`` is set then, those who are told have to call for the next.
        """
        with self._lock:
            if len(self._waiting) >= told:
                return False
            self.leaders -= 1
            self.called = self.called or bool(self._waiting)
            return True

    def step_down(self) -> list[Job]:
        """For a leader who could not begin: those for whom nobody leads now. They never begin."""
        with self._lock:
            self.leaders -= 1
            return [] if self.leaders else self._next(len(self._waiting))

    def desert(self) -> None:
        """For a leader who was cancelled: those who wait see to another; see ``wants_leader``."""
        with self._lock:
            self.leaders -= 1

    def resign(self) -> bool:
        """For a leader who has other things to do; whether somebody has to lead in its place."""
        with self._lock:
            if self._waiting:
                return True
            self.leaders -= 1
            return False

    def wants_leader(self, job: Job) -> bool:
        """Whether a job has waited in vain, so that the caller has to see that one more leads."""
        with self._lock:
            if job.begun or self.leaders >= self._most_leaders:
                return False
            # Whoever was to call may be gone, with its event loop.
            self.called = False
            self.leaders += 1
            return True

    def withdraw(self, job: Job) -> bool:
        """Whether it had not begun; then it never does."""
        with self._lock:
            if job.begun:
                return False
            self._waiting.remove(job)
            job.begun = True
            return True

    def _next(self, most: int) -> list[Job]:
        """Under the lock: those who have waited longest."""
        waiting = self._waiting
        jobs = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        for job in jobs:
            job.begun = True
        return jobs

    @property
    def is_idle(self) -> bool:
        return not (self.leaders or self._waiting)


def begin(jobs: Iterable[Job], takes: Callable[[Call], bool]) -> tuple[list[Job], list[Job]]:
    """Start flows: those whose calls may share a commit, and those that have to go on alone."""
    shared: list[Job] = []
    alone: list[Job] = []
    for job in jobs:
        job.go_on()
        if job.outcome is None:
            wanted = job.wanted
            together = isinstance(wanted, Call) and takes(wanted)
            (shared if together else alone).append(job)
    return shared, alone


def answer(jobs: Iterable[Job], answers: Iterable[Any]) -> list[Job]:
    """Give flows their answers; those that have to go on alone: a flow that was overtaken by
    another writer holds up nobody else.
    """
    alone: list[Job] = []
    for job, found in zip(jobs, answers, strict=True):
        if found is not ALONE:
            job.go_on(found)
        if job.outcome is None:
            alone.append(job)
    return alone
