"""Run by test_fork: a parent and its child have a SQLite file in turn, and say what is left of it.

``python -m tests.processes.forked SCENARIO URL [WORD ...]``
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only

from sessionware import CachedStore, SessionManager, StoreUnavailable
from sessionware.chance import eight_bytes
from sessionware.stores.sql import SQLStore
from tests.apps import SECRET
from tests.byhand import Visitor, storing

BUSY_SECONDS: Final = 0.3


def fork_unnoticed() -> int:
    """As uWSGI forks: no hook of Python's is called."""
    # The interpreter of the child may hang for good if a thread waits for its turn at that moment:
    # let those that end come to their end, and the others to rest.
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(0.2)
    process: int = ctypes.PyDLL(None).fork()
    return process


def make_manager(store: Any, **more: Any) -> SessionManager:
    return SessionManager(secret_key=SECRET, store=store, purge_interval=None, **more)


class Child:
    """A child that takes one step each time it is told, in a thread of its own."""

    def __init__(self, *steps: Callable[[], object], fork: Callable[[], int] = os.fork) -> None:
        to_child, to_parent = os.pipe(), os.pipe()
        self._tell, self._hear = to_child[1], to_parent[0]
        self._process = fork()
        if self._process:
            return
        # An event loop that the parent has running is none here.
        thread = threading.Thread(target=self._go, args=(steps, to_child[0], to_parent[1]))
        thread.start()
        thread.join()
        os._exit(0)

    def _go(self, steps: tuple[Callable[[], object], ...], hear: int, tell: int) -> None:
        with asyncio.Runner() as runner:
            for step in steps:
                os.read(hear, 1)
                try:
                    said = step()
                    if asyncio.iscoroutine(said):
                        said = runner.run(said)
                except StoreUnavailable as error:
                    said = f"{type(error).__name__}: {error}"
                os.write(tell, str(said).encode())

    def step(self) -> str:
        os.write(self._tell, b"!")
        return os.read(self._hear, 1000).decode()

    def end(self) -> None:
        assert os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1]) == 0


def keep_busy(manager: SessionManager, how: str) -> threading.Thread | None:
    """A thread that uses the file when this returns, and for a while."""
    if how == "quiet":
        return None
    store: Any = manager.store.store
    entered = threading.Event()

    def read() -> None:
        load = store.steps.load

        def slow(*args: Any) -> Any:
            found = yield from load(*args)
            entered.set()
            time.sleep(BUSY_SECONDS)
            return found

        store.steps.load = slow
        try:
            store.load(bytes(32), 0)
        finally:
            store.steps.load = load

    def write() -> None:
        def act(_: Any, connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            entered.set()
            time.sleep(BUSY_SECONDS)
            connection.exec_driver_sql("COMMIT")

        store.execute(act)

    thread = threading.Thread(target=read if how == "reading" else write)
    thread.start()
    assert entered.wait(10)
    return thread


def in_turn(url: str, given: str, how: str) -> None:
    """The child writes, the parent lets go of the file, the child writes again."""
    engine = create_engine(url, hide_parameters=True) if given == "engine" else None
    manager = make_manager(engine or url)
    visitor = Visitor(manager)
    visitor.visit(storing(parent=1))
    visitor.visit()
    busy = keep_busy(manager, how)
    child = Child(lambda: visitor.visit(storing(first=1)), lambda: visitor.visit(storing(second=1)))
    child.step()
    if busy is not None:
        busy.join()
    manager.shutdown()
    if engine is not None:
        engine.dispose()
    child.step()
    while_it_lives = visitor.content()
    child.end()
    print(while_it_lives, visitor.content())
    manager.shutdown()
    if engine is not None:
        engine.dispose()


def too_long(url: str) -> None:
    """A thread of the parent does not let go of the file in time."""
    manager = make_manager(url, store_timeout=BUSY_SECONDS / 3)
    manager.store.put("key", {"by": "parent"})
    busy = keep_busy(manager, "reading")

    def anew() -> None:
        make_manager(url).store.put("key", {"by": "child"})

    child = Child(lambda: manager.store.put("key", {"by": "child"}), anew)
    print(child.step())
    print(child.step())
    child.end()
    assert busy is not None
    busy.join()
    manager.store.put("other", {"by": "parent"})
    print(manager.store.get("key"), manager.store.get("other"))
    manager.shutdown()


def of_the_application(url: str) -> None:
    """The application itself has a connection of its engine's in use."""
    engine = create_engine(url, hide_parameters=True)
    store = CachedStore(SQLStore(engine))
    store.put("key", {"by": "parent"})
    with engine.connect() as connection:
        child = Child(lambda: store.put("key", {"by": "child"}))
        # Its pool is gone, and would leave it to the garbage collector, of which Python 3.13 warns.
        connection.invalidate()
    print(child.step())
    child.end()
    print(store.get("key"))
    engine.dispose()


def unnoticed(url: str, given: str, table_name: str = "sessions") -> None:
    """Python is not told of the fork."""
    logging.disable()
    # Word of a change may come a moment later.
    manager = make_manager(url, table_name=table_name, coherence="validate")
    visitor = Visitor(manager)
    if given != "unused":
        visitor.visit(storing(parent=1))
        visitor.visit()
    if given == "closed":
        manager.shutdown()
    child = Child(
        lambda: visitor.visit(storing(first=1)) and visitor.content(),
        lambda: visitor.visit(storing(second=1)) and visitor.content(),
        lambda: [eight_bytes().hex() for _ in range(20)],
        fork=fork_unnoticed,
    )
    print(child.step())
    if given == "used":
        print(visitor.content())
    print(child.step())
    drawn = child.step()
    print(sum(eight_bytes().hex() in drawn for _ in range(1_000)))
    child.end()
    manager.shutdown()


def standalone(url: str) -> None:
    """A cached store that no manager has."""
    store = CachedStore(SQLStore(url))
    store.put("key", {"by": "parent"})
    child = Child(lambda: len(store.cache), lambda: store.put("key", {"by": "child"}))
    cached = child.step()
    store.close()
    child.step()
    child.end()
    print(cached, store.get("key"))
    store.close()


# In an event loop.


async def _fork(thread: str, *steps: Callable[[], object]) -> Child:
    return await asyncio.to_thread(Child, *steps) if thread == "thread" else Child(*steps)


async def loop_in_turn(url: str, thread: str, how: str) -> None:
    """As ``in_turn``, with a driver whose connections belong to an event loop."""
    manager = make_manager(url)
    visitor = Visitor(manager)
    await visitor.avisit(storing(parent=1))
    await visitor.avisit()
    await manager.alist_sessions("nobody")
    busy = await _keep_loop_busy(manager, how)
    child = await _fork(
        thread,
        lambda: visitor.avisit(storing(first=1)),
        lambda: visitor.avisit(storing(second=1)),
    )
    await asyncio.to_thread(child.step)
    if busy is not None:
        await busy
    await visitor.avisit(storing(third=1))
    await manager.ashutdown()
    await asyncio.to_thread(child.step)
    child.end()
    print(dict(await manager.aopen(visitor.cookie)))
    await manager.ashutdown()


async def _keep_loop_busy(manager: SessionManager, how: str) -> asyncio.Task[Any] | None:
    if how == "quiet":
        return None
    store: Any = manager.store.store
    loop, entered = asyncio.get_running_loop(), asyncio.Event()

    async def write() -> None:
        """In the driver's thread, in one trip."""
        insert = store.steps.insert

        def slow(*args: Any) -> Any:
            loop.call_soon_threadsafe(entered.set)
            time.sleep(BUSY_SECONDS)
            return (yield from insert(*args))

        store.steps.insert = slow
        try:
            await manager.store.aput("key", {"by": "parent"})
        finally:
            store.steps.insert = insert
        assert await manager.store.aget("key") == {"by": "parent"}

    async def hesitate() -> None:
        """With a cursor, between two trips into the driver's thread."""

        def act(_: Any, connection: Any) -> None:
            cursor = await_only(connection.connection.driver_connection.cursor())
            await_only(cursor.execute("VALUES (1), (2)"))
            entered.set()
            await_only(asyncio.sleep(BUSY_SECONDS))
            await_only(cursor.close())

        with suppress(StoreUnavailable):
            await store.aexecute(act)

    task = asyncio.create_task(write() if how == "writing" else hesitate())
    await entered.wait()
    return task


async def loop_of_the_application(url: str, how: str) -> None:
    """The engine is the application's, which may close its connections or not."""
    engine = create_async_engine(url, hide_parameters=True)
    manager = make_manager(engine)
    await manager.store.aput("key", {"by": "parent"})
    if how == "disposed":
        await engine.dispose()
    child = Child(lambda: manager.store.aput("key", {"by": "child"}))
    print(await asyncio.to_thread(child.step))
    child.end()
    await manager.store.aclose()
    print(await manager.store.aget("key"))
    await engine.dispose()


SCENARIOS: Final[dict[str, Callable[..., Any]]] = {
    each.__name__: each
    for each in (
        in_turn,
        too_long,
        of_the_application,
        unnoticed,
        standalone,
        loop_in_turn,
        loop_of_the_application,
    )
}

if __name__ == "__main__":
    scenario = SCENARIOS[sys.argv[1]]
    answer = scenario(*sys.argv[2:])
    if asyncio.iscoroutine(answer):
        asyncio.run(answer)
