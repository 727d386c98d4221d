"""One way to call a store, whether it offers plain methods or coroutines."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from anyio.from_thread import BlockingPortal

from ..errors import SessionError

T = TypeVar("T")
# Nothing here takes seconds; a thread that is still running then never ends.
PATIENCE = 60.0


class _Awaited:
    """``name(…)`` runs ``aname(…)`` in an event loop of another thread and waits for it."""

    def __init__(self, target: Any, portal: BlockingPortal) -> None:
        self._target = target
        self._portal = portal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._target, "a" + name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._portal.call(functools.partial(method, *args, **kwargs))

        return call


def caller(target: T, portal: BlockingPortal | None) -> T:
    """``target`` itself, or with a portal its coroutines under the names of its plain methods."""
    return target if portal is None else cast(T, _Awaited(target, portal))


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """Run each job in a thread of its own, all at once: what each returned, or the error of ours
    that it raised.
    """
    start = threading.Barrier(len(jobs))
    outcomes: list[Any] = [None] * len(jobs)

    def work(place: int, job: Callable[[], Any]) -> None:
        try:
            start.wait(PATIENCE)
            outcomes[place] = job()
        except BaseException as error:
            outcomes[place] = error

    threads = [threading.Thread(target=work, args=each, daemon=True) for each in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a call did not return"
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, SessionError):
            raise outcome
    return outcomes
