"""AsyncSQLStore: a store on a SQLAlchemy ``AsyncEngine``, for asyncio; as ``sql``, with awaits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, Concatenate
from weakref import WeakKeyDictionary

from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ..coherence.slots import new_number
from ..coherence.stamps import Hold, StampFile
from ..errors import ConfigurationError, Finding, StoreUnavailable
from .engines import create_private_file, is_memory, make_async_engine
from .faults import broken, connection_is_stale, table_is_missing, translate
from .scripts import Scripts
from .sql import (
    MOVES,
    READS,
    P,
    Script,
    SQLBase,
    T,
    hashes_after,
    hashes_before,
    held_by_others,
    refuse_one_connection,
)


def _awaited(
    script: Script[P, T],
) -> Callable[Concatenate[AsyncSQLStore, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncSQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self.aexecute(script, *args, **kwargs)  # type: ignore[arg-type]
        return result

    return method


class AsyncSQLStore(SQLBase):
    """A store on a SQLAlchemy ``AsyncEngine`` or an async driver's URL; asyncio only.

    With a URL each event loop gets its own engine. An ``AsyncEngine`` that is given belongs to one
    loop at a time.
    """

    def __init__(self, database: str | URL | AsyncEngine, **options: Any) -> None:
        super().__init__(**options)
        refuse_one_connection(database)
        self._given = database if isinstance(database, AsyncEngine) else None
        self._url = database.url if isinstance(database, AsyncEngine) else make_url(database)
        self._prepared = False
        self._keep_stamps()
        self.after_fork()

    def after_fork(self) -> None:
        """In a child process: leave the parent's connections alone and start afresh."""
        for place in list(getattr(self, "_places", {}).values()):
            place.engine.sync_engine.dispose(close=False)
        if self.stamps is not None:
            self.stamps.after_fork()
        self._lock = threading.Lock()
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, _Place] = WeakKeyDictionary()

    def _place(self) -> _Place:
        """What belongs to the running loop. What belonged to loops that are closed is let go."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None:
            raise ConfigurationError([_asyncio_only()])
        place = self._places.get(loop)
        if place is not None:
            return place
        with self._lock:
            for other in list(self._places):
                if other.is_closed():
                    self._places.pop(other).engine.sync_engine.dispose(close=False)
            if self._given is not None and len(self._places):
                raise ConfigurationError([_one_loop()])
            place = self._places[loop] = _Place(self._new_engine(), self._prepared)
            return place

    def _new_engine(self) -> AsyncEngine:
        if self._given is not None:
            return self._given.execution_options(isolation_level="AUTOCOMMIT")
        return make_async_engine(self._url, timeout=self.timeout, connections=self._connections)

    @property
    def _broken(self) -> tuple[type[Exception], ...]:
        return broken(self._place().engine.dialect)

    async def aprepare(self) -> None:
        """Create or check the tables, once a process."""
        place = self._place()
        if place.prepared:
            return
        async with place.preparing:
            if place.prepared:
                return
            if self._given is None:
                await asyncio.to_thread(create_private_file, self._url)
            await self.aexecute(lambda _, connection: self.make_tables(connection))
            await self.alook_after_stamps()
            place.prepared = True
            # A database in memory is another one in each loop.
            self._prepared = not is_memory(self._url)

    async def alook_after_stamps(self) -> None:
        """See that the stamp file is there and the right one, if that is due."""
        if self.stamps is None or not self.stamps.due():
            return
        wanted = self.stamps.wanted and self.stamps.missing
        empty = wanted and await self.aexecute(Scripts.is_empty)
        await asyncio.to_thread(self.stamps.look, lambda: empty)

    async def astamped(self, ticket: int, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method that changes rows, and give their slots this number."""
        return await self.aexecute(getattr(Scripts, method), *args, ticket=ticket)

    async def aexecute(
        self, script: Any, *args: Any, ticket: int | None = None, **kwargs: Any
    ) -> Any:
        """Run one script on a connection; raises only errors of ``sessionware.errors``."""
        method = getattr(script, "__name__", "")
        reading = method in READS
        try:
            place = self._place()
            alone = self._url.get_backend_name() == "sqlite" and not reading
            async with _Held(place.writing, self.timeout) if alone else nullcontext():
                if method in MOVES and self.stamps is not None:
                    return await self._moving(self.stamps, script, args, kwargs, ticket)
                return await self._once(script, reading, *args, **kwargs)
        except Exception as error:
            if table_is_missing(error):
                # Dropped under us: the next use makes it again, or says what to do.
                self._place().prepared = self._prepared = False
            failure = translate(error, self._broken)
        raise failure

    async def _moving(
        self,
        stamps: StampFile,
        script: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ticket: int | None,
    ) -> Any:
        """Move the stamps of what a script changes: odd, commit, a new number."""
        await self.alook_after_stamps()
        deadline = time.monotonic() + self.timeout
        while not isinstance(hold := stamps.try_hold(hashes_before(script.__name__, args)), Hold):
            if time.monotonic() + hold > deadline:
                raise held_by_others()
            await asyncio.sleep(hold)
        answer = None
        try:
            answer = await self._once(script, False, *args, **kwargs)
        except asyncio.CancelledError:
            # It may be done later, by the driver's thread: odd until the next write.
            ticket = new_number() | 1
            raise
        finally:
            hold = hold._replace(hashes=hashes_after(script.__name__, args, answer))
            ticket = ticket or new_number()
            if hold.took_long:
                await asyncio.to_thread(stamps.let_go, hold, ticket)
            else:
                stamps.let_go(hold, ticket)
        return answer

    async def _once(self, script: Any, reading: bool, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._connected(script, *args, **kwargs)
        except DBAPIError as error:
            if not (reading and error.connection_invalidated):
                raise
        except self._broken:
            if not reading:
                raise
        return await self._connected(script, *args, **kwargs)

    async def _connected(self, script: Any, *args: Any, **kwargs: Any) -> Any:
        async with self._place().engine.connect() as connection:
            try:
                result = await connection.run_sync(
                    lambda plain: script(self.scripts, plain, *args, **kwargs)
                )
                if self._given is not None:
                    # Its listeners may begin a transaction in spite of AUTOCOMMIT.
                    await connection.commit()
                return result
            except DBAPIError as error:
                if connection_is_stale(error):
                    await connection.invalidate()
                raise
            except self._broken:
                await connection.invalidate()
                raise

    aload = _awaited(Scripts.load)
    areload = _awaited(Scripts.reload)
    astamp = _awaited(Scripts.stamp)
    ainsert = _awaited(Scripts.insert)
    areplace = _awaited(Scripts.replace)
    arotate = _awaited(Scripts.rotate)
    aalter = _awaited(Scripts.alter)
    atouch = _awaited(Scripts.touch)
    aremove = _awaited(Scripts.remove)
    auser_rows = _awaited(Scripts.user_rows)
    aremove_user = _awaited(Scripts.remove_user)
    aremove_all = _awaited(Scripts.remove_all)
    acount = _awaited(Scripts.count)
    aclaim = _awaited(Scripts.claim)
    arelease = _awaited(Scripts.release)
    anotify = _awaited(Scripts.notify)
    apurge = _awaited(Scripts.purge)

    async def aclose(self) -> None:
        """Close the connections of an engine of our own; the application's engine stays open."""
        place = self._places.pop(asyncio.get_running_loop(), None)
        if place is not None and self._given is None:
            await place.engine.dispose()
        if self.stamps is not None:
            self.stamps.close()


class _Place:
    """What belongs to one event loop. SQLite lets one connection write at a time: ``writing``."""

    def __init__(self, engine: AsyncEngine, prepared: bool) -> None:
        self.engine = engine
        self.prepared = prepared
        self.preparing = asyncio.Lock()
        self.writing = asyncio.Lock()


class _Held:
    """A lock held for a while at the most; waiting longer is an answer, not a hang."""

    def __init__(self, lock: asyncio.Lock, timeout: float) -> None:
        self._lock = lock
        self._timeout = timeout

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._lock.acquire()
        except TimeoutError:
            held = True
        else:
            held = False
        if held:
            raise StoreUnavailable("other tasks of this process hold the database")

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def _asyncio_only() -> Finding:
    return Finding(
        "SW019",
        "store",
        "an AsyncEngine works under asyncio only.",
        "under trio give a sync driver's URL: it runs in worker threads.",
    )


def _one_loop() -> Finding:
    return Finding(
        "SW019",
        "store",
        "this AsyncEngine is in use in another running event loop.",
        "give a URL, of which each loop makes its own engine, or one middleware a loop.",
    )
