"""What an async store has of its own in each event loop: an engine, connections at hand, locks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress

from sqlalchemy.ext.asyncio import AsyncEngine

from ..errors import StoreUnavailable
from .aiosqlites import Opened
from .engines import is_memory
from .executing import goes_straight
from .native import DRIVERS, AiosqliteNative, AsyncpgNative, connect

# In a child process: closed by nobody there, not even by chance.
parents: list[Place] = []


class Place:
    """What belongs to one event loop. SQLite lets one connection write at a time: ``writing``.

    ``idle`` are connections at hand, of an engine of our own; ``free`` bounds those in use.
    """

    def __init__(
        self, engine: AsyncEngine, prepared: bool, connections: int, opened: Opened | None
    ) -> None:
        self.engine = engine
        self._opened = opened
        self.prepared = prepared
        self.preparing = asyncio.Lock()
        self.writing = asyncio.Lock()
        self.free = asyncio.Semaphore(connections)
        self.idle: deque[AsyncpgNative | AiosqliteNative] = deque()
        self._usable = not is_memory(engine.url)
        self._end: AsyncGenerator[None, None] | None = None

    async def take(self) -> AsyncpgNative | AiosqliteNative | None:
        """A connection straight to the driver; None if statements go through SQLAlchemy."""
        if not self._usable or not goes_straight(self.engine.sync_engine, DRIVERS):
            await self.spare()
            return None
        while self.idle:
            lent = self.idle.pop()
            if lent.is_open:
                return lent
            lent.drop()
        made = await self._connect()
        self._usable = made is not None
        return made

    async def _connect(self) -> AsyncpgNative | AiosqliteNative | None:
        while True:
            forks = self._forks
            try:
                return await connect(self.engine)
            except Exception:
                # One that a fork has closed half open; nothing was done yet.
                if forks == self._forks:
                    raise

    @property
    def _forks(self) -> int:
        return 0 if self._opened is None else self._opened.forks

    async def spare(self) -> None:
        """Make room for a connection of the pool's."""
        if self.idle:
            with suppress(Exception):
                await self.idle.pop().close()

    def abandon(self) -> None:
        """Its event loop is no more, and whatever has to be awaited can't be."""
        self.engine.sync_engine.dispose(close=False)
        if self._opened is not None:
            self._opened.end()

    def close_with_loop(self, timeout: float) -> None:
        """Have it closed at the end of the loop that runs here, if nobody closes it before: whoever
        ends a loop in good order closes the generators that have begun in it.
        """
        self._end = self._until_the_end(timeout)
        with suppress(StopIteration):
            self._end.__anext__().__await__().send(None)

    async def _until_the_end(self, timeout: float) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self._end is not None and self not in parents:
                with suppress(Exception):
                    async with asyncio.timeout(timeout):
                        await self.let_go()

    async def close(self) -> None:
        """In its loop, which may go on without it, or be at its end."""
        end, self._end = self._end, None
        if end is not None:
            # The loop may be closing it at this moment.
            with suppress(RuntimeError):
                await end.aclose()
        await self.let_go()

    async def let_go(self) -> None:
        """Close what is not in use."""
        while self.idle:
            await self.spare()
        await self.engine.dispose()


class Held:
    """A lock held for a while at the most; waiting longer is an answer, not a hang."""

    def __init__(
        self,
        lock: asyncio.Lock | asyncio.Semaphore,
        timeout: float,
        refusal: str = "other tasks of this process hold the database",
    ) -> None:
        self._lock = lock
        self._timeout = timeout
        self._refusal = refusal

    async def __aenter__(self) -> None:
        if not self._lock.locked():
            await self._lock.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._lock.acquire()
        except TimeoutError:
            held = True
        else:
            held = False
        if held:
            raise StoreUnavailable(self._refusal)

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
