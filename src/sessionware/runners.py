"""Who runs a flow: worker threads for a blocking store, the event loop for an async one.

A flow that has begun runs to its end whatever becomes of the request that asked for it: a cancelled
request leaves neither half a transaction nor a cache that disagrees with the database.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Protocol, TypeVar

from .flows import Flow, adrive, drive
from .loop_runner import LoopRunner
from .thread_runner import ThreadRunner, close_store

__all__ = ["InlineRunner", "LoopRunner", "Runner", "ThreadRunner", "runner_for"]

T = TypeVar("T")


class Runner(Protocol):
    """Runs flows, in both worlds where the store allows it.

    ``run_shared`` waits wherever it is called: Flask runs an ``async def`` view in an event loop of
    its own, in a thread that nobody else waits for. ``refuse_event_loop`` is for everybody else.
    ``commit`` is ``run`` for a flow that begins with a write, which may share a transaction.
    ``background`` runs a flow that nobody waits for.
    """

    def refuse_event_loop(self) -> None: ...
    def run(self, flow: Flow[T], /) -> T: ...
    async def arun(self, flow: Flow[T], /) -> T: ...
    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T: ...
    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T: ...
    def background(self, flow: Flow[object], /) -> None: ...
    def commit(self, flow: Flow[T], /) -> T: ...
    async def acommit(self, flow: Flow[T], /) -> T: ...
    def close(self) -> None: ...
    async def aclose(self) -> None: ...
    def abandon(self) -> None: ...


class _Awaited:
    """A store of plain methods as one of coroutines."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self._store, name.removeprefix("a"))

        async def call(*args: Any) -> Any:
            return method(*args)

        return call


class InlineRunner:
    """For a store that never blocks: flows run right where they are asked for."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._awaited = _Awaited(store)

    def refuse_event_loop(self) -> None:
        """Nothing ever waits here."""

    def run(self, flow: Flow[T], /) -> T:
        return drive(flow, self._store)

    async def arun(self, flow: Flow[T], /) -> T:
        return await adrive(flow, self._awaited)

    def run_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        return drive(flow(), self._store)

    async def arun_shared(
        self, key: Hashable, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        return await adrive(flow(), self._awaited)

    def commit(self, flow: Flow[T], /) -> T:
        return self.run(flow)

    async def acommit(self, flow: Flow[T], /) -> T:
        return await self.arun(flow)

    def background(self, flow: Flow[object], /) -> None:
        drive(flow, self._store)

    def close(self) -> None:
        """Close the store; nothing is under way."""
        close_store(self._store)

    async def aclose(self) -> None:
        """Close the store; nothing is under way."""
        close_store(self._store)

    def abandon(self) -> None:
        """Nothing of the parent's is touched."""


def runner_for(store: Any, timeout: float) -> Runner:
    """The runner that fits what the store offers; see ``stores.protocol``."""
    if not hasattr(store, "load"):
        return LoopRunner(store, timeout)
    if not getattr(store, "blocking", True):
        return InlineRunner(store)
    return ThreadRunner(store, timeout, getattr(store, "connections", 8))
