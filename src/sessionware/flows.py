"""Store access as generators: one copy of the logic for threads and for coroutines.

A flow yields what it wants of the store (``Call``) or of time (``Pause``) and is sent the answer.
It knows nothing of threads or event loops; ``drive`` and ``adrive`` differ by an ``await``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

import anyio

from .chance import chance
from .errors import Contention

T = TypeVar("T")
P = ParamSpec("P")
_TRIES: Final = 3


class Call(NamedTuple):
    """Ask the store: call this method of it.

    ``ticket`` is the number that the stamps of what it changes shall have, if one was chosen.
    """

    method: str
    args: tuple[Any, ...] = ()
    ticket: int | None = None

    def to(self, store: object, prefix: str = "") -> Any:
        """What the store's method gives: the answer, or a coroutine if ``prefix`` is ``a``."""
        if self.ticket is None:
            return getattr(store, prefix + self.method)(*self.args)
        return getattr(store, prefix + "stamped")(self.ticket, self.method, self.args)


class Pause(NamedTuple):
    """Wait a little before the next try; seconds."""

    seconds: float


Flow: TypeAlias = Generator[Call | Pause, Any, T]


class Part(NamedTuple):
    """Have the owner run a flow, and wait for it, by itself."""

    flow: Flow[Any]

    def to(self, owner: object, prefix: str = "") -> Any:
        """As ``Call.to``."""
        return getattr(owner, prefix + "run")(self.flow)


Parts: TypeAlias = Generator[Part | Pause, Any, T]
"""What may take longer than a store has to answer: flows one after the other, with rests."""
_Wanted: TypeAlias = Call | Part | Pause


def deferred(make: Callable[[], Flow[T]]) -> Flow[T]:
    """A flow that is made when it begins."""
    return (yield from make())


def drive(
    flow: Generator[_Wanted, Any, T],
    store: object,
    wanted: _Wanted | None = None,
    deadline: float = float("inf"),
) -> T:
    """Run a flow in this thread, with a store of plain methods; from its beginning, or from what it
    wanted last. After the deadline (``time.monotonic()``) nothing that failed is tried again.
    """
    answer: Any = None
    error: Exception | None = None
    while True:
        if wanted is None:
            try:
                wanted = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
        answer, error = None, None
        try:
            if isinstance(wanted, Pause):
                time.sleep(wanted.seconds)
            else:
                answer = wanted.to(store)
        except Exception as raised:
            if time.monotonic() >= deadline:
                flow.close()
                raise
            error = raised
        wanted = None


async def adrive(
    flow: Generator[_Wanted, Any, T], store: object, wanted: _Wanted | None = None
) -> T:
    """Run a flow in this task, with a store whose coroutine methods are named with an ``a`` in
    front; see ``drive``.
    """
    answer: Any = None
    error: Exception | None = None
    # Closed at once if it is cancelled: what it cleans up can't wait for the garbage collection.
    with closing(flow):
        while True:
            if wanted is None:
                try:
                    wanted = flow.send(answer) if error is None else flow.throw(error)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
            answer, error = None, None
            try:
                if isinstance(wanted, Pause):
                    await anyio.sleep(wanted.seconds)
                else:
                    answer = await wanted.to(store, "a")
            except Exception as raised:
                error = raised
            wanted = None


def patiently(flow: Callable[[], Flow[T]]) -> Flow[T]:
    """Try again where other writers were in the way (a deadlock, or a lock that was held for long);
    the last refusal is raised.
    """
    for attempt in range(1, _TRIES):
        try:
            return (yield from flow())
        except Contention:
            yield Pause(chance.uniform(0.005, 0.02) * attempt)
    return (yield from flow())


class RunsFlows(Protocol):
    """What an object with twin methods has to offer."""

    def run(self, flow: Flow[T], /) -> T: ...
    async def arun(self, flow: Flow[T], /) -> T: ...


Owner = TypeVar("Owner", bound=RunsFlows)


Twins: TypeAlias = tuple[
    Callable[Concatenate[Owner, P], T],
    Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]],
]
"""The pair ``name, aname`` of public methods."""


def twins(flow: Callable[Concatenate[Owner, P], Flow[T]]) -> Twins[Owner, P, T]:
    """Make a pair of public methods out of one flow method."""
    return _pair(
        flow, "_flow", lambda owner, made: owner.run(made), lambda owner, made: owner.arun(made)
    )


def part_twins(parts: Callable[Concatenate[Owner, P], Parts[T]]) -> Twins[Owner, P, T]:
    """As ``twins``, of a method that gives parts: each is run, and waited for, by itself."""
    return _pair(
        parts,
        "_parts",
        lambda owner, made: drive(made, owner),
        lambda owner, made: adrive(made, owner),
    )


def _pair(
    source: Callable[..., Any],
    suffix: str,
    run: Callable[[Any, Any], Any],
    arun: Callable[[Any, Any], Coroutine[Any, Any, Any]],
) -> tuple[Any, Any]:
    name = source.__name__.removesuffix(suffix)

    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return run(self, source(self, *args, **kwargs))

    async def amethod(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await arun(self, source(self, *args, **kwargs))

    functions: tuple[Any, Any] = (method, amethod)
    for function, public in zip(functions, (name, "a" + name), strict=True):
        function.__name__ = public
        function.__qualname__ = source.__qualname__.replace(source.__name__, public)
        function.__doc__ = source.__doc__
    return functions
