"""The system has no thread left for a moment: who needs one is refused, and nothing stays so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionware import MemoryStore, SessionManager, StoreUnavailable
from sessionware.coherence.broadcast import Broadcast
from sessionware.flows import Call, Flow
from sessionware.runners import ThreadRunner
from sessionware.waiting import ThreadWaiter
from tests.byhand import Visitor, storing

LONG = 5


class Store:
    def prepare(self) -> None:
        """There is nothing to do."""

    def load(self) -> str:
        return "loaded"


def loading() -> Flow[Any]:
    return (yield Call("load"))


def nothing() -> None:
    return None


@pytest.fixture
def runner() -> Iterator[ThreadRunner]:
    made = ThreadRunner(Store(), LONG, 2)
    yield made
    made.close()


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Until it is undone."""
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        yield patched


WAYS: dict[str, Callable[[ThreadRunner], Any]] = {
    "run": lambda runner: runner.run(loading()),
    "arun": lambda runner: asyncio.run(runner.arun(loading())),
    "commit": lambda runner: runner.commit(loading()),
    "acommit": lambda runner: asyncio.run(runner.acommit(loading())),
    "run_shared": lambda runner: runner.run_shared("key", loading, nothing),
    "arun_shared": lambda runner: asyncio.run(runner.arun_shared("key", loading, nothing)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_who_gets_no_thread_is_told_that_the_store_is_unavailable_and_the_next_one_is_served(
    runner: ThreadRunner, scarce: pytest.MonkeyPatch, way: Callable[[ThreadRunner], Any]
) -> None:
    with pytest.raises(StoreUnavailable, match="no thread"):
        way(runner)
    scarce.undo()
    assert way(runner) == "loaded"


def test_who_waits_for_a_load_that_gets_no_thread_is_told_too(
    runner: ThreadRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ThreadWaiter()

    def joined_by_another(_: object) -> None:
        assert runner._flights.join("key", other)[1:] == (True, False)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(runner._threads, "post", joined_by_another)
    with pytest.raises(StoreUnavailable):
        runner.run_shared("key", loading, nothing)
    outcome = other.wait(0)
    assert outcome is not None
    assert isinstance(outcome[1], StoreUnavailable)


def test_what_nobody_waits_for_is_left_undone(
    runner: ThreadRunner, scarce: pytest.MonkeyPatch
) -> None:
    runner.background(loading())


def test_no_request_fails_for_want_of_a_thread_that_purges_and_the_next_one_starts_it(
    scarce: pytest.MonkeyPatch,
) -> None:
    manager = SessionManager(secret_key="x" * 40, store=MemoryStore())
    Visitor(manager).visit(storing(a=1))
    scarce.undo()
    Visitor(manager).visit(storing(a=1))
    thread = manager._purger._thread
    assert thread is not None
    assert thread.is_alive()
    manager.shutdown()


class Unreachable:
    """A transport that gets no connection."""

    def connect(self) -> None:
        raise ConnectionError

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_channel_that_gets_no_thread_is_unavailable_and_begins_later(
    scarce: pytest.MonkeyPatch,
) -> None:
    transport: Any = Unreachable
    channel = Broadcast(transport)
    with pytest.raises(StoreUnavailable, match="no thread"):
        channel.mark(b"\0" * 32)
    scarce.undo()
    channel.mark(b"\0" * 32)
    channel.close()


def test_a_session_that_was_asked_for_then_is_loaded_afterwards(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def manager() -> SessionManager:
        return SessionManager(secret_key="x" * 40, store=sqlite_url, purge_interval=None)

    first, second = manager(), manager()
    visitor = Visitor(first)
    visitor.visit(storing(a=1))
    first.shutdown()

    async def ask() -> dict[str, Any]:
        return dict(await second.aopen(visitor.cookie))

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StoreUnavailable):
            asyncio.run(ask())
    assert asyncio.run(ask()) == {"a": 1}
    second.shutdown()
