"""AsyncSQLStore: a store on a SQLAlchemy ``AsyncEngine``, for asyncio; as ``sql``, with awaits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, Unpack
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ..batches import ALONE
from ..coherence.slots import new_number
from ..coherence.stamps import Hold, StampFile
from ..errors import ConfigurationError, Finding
from ..flows import Call, adrive
from .aiosqlites import Opened
from .base import Operable, SQLBase, SQLOptions, held_by_others, refuse_engine
from .bulk import Bulk, in_bulk
from .engines import create_private_file, is_memory, make_async_engine
from .executing import OPTIONS, Through, may_begin, run_committed, run_script
from .faults import broken, connection_is_stale, is_undone, repeats, table_is_missing, translate
from .forking import close_over_forks, in_use, refuse_inherited
from .grouping import MOVES, after_failure, moved
from .native import AiosqliteNative, AsyncpgNative
from .operating import READS, STEPS, WHOLE, hashes_after, hashes_before, run_method, run_together
from .places import Held, Place, parents
from .protocol import Removed
from .statements import T


def _awaited(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def method(self: AsyncSQLStore, /, *args: Any, **kwargs: Any) -> Any:
        return await self.aexecute(name, *args, **kwargs)

    method.__name__ = "a" + name
    return method


class AsyncSQLStore(SQLBase):
    """A store on a SQLAlchemy ``AsyncEngine`` or an async driver's URL; asyncio only.

    With a URL each event loop gets its own engine. An ``AsyncEngine`` that is given belongs to one
    loop at a time.
    """

    def __init__(self, database: str | URL | AsyncEngine, **options: Unpack[SQLOptions]) -> None:
        super().__init__(**options)
        url = database.url if isinstance(database, AsyncEngine) else make_url(database)
        refuse_engine(database, url, self.steps.schema.metadata.schema)
        self._given = database if isinstance(database, AsyncEngine) else None
        self._prepared = False
        self._take_url(url)
        self.after_fork()
        if self._given is not None and self.file is not None:
            close_over_forks(self)

    @property
    def is_open(self) -> bool:
        """See ``forking.Opener``; of an engine of the application's it is only known how many
        connections are open.
        """
        return self._given is not None and in_use(self._given.sync_engine.pool, idle=True)

    def hush(self, deadline: float, until: ExitStack) -> bool:
        """See ``forking.Opener``."""
        return not self.is_open

    def after_fork(self) -> None:
        """In a child process: leave the parent's connections alone and start afresh."""
        for place in list(getattr(self, "_places", {}).values()):
            place.engine.sync_engine.dispose(close=False)
            parents.append(place)
        if self.stamps is not None:
            self.stamps.after_fork()
        self._lock = threading.Lock()
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, Place] = WeakKeyDictionary()

    def _place(self) -> Place:
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
            self._let_go_of_closed_loops()
            if self._given is not None and len(self._places):
                raise ConfigurationError([_one_loop()])
            refuse_inherited(self.file)
            place = self._places[loop] = self._new_place()
        if self._given is None:
            place.close_with_loop(self.timeout)
        return place

    def _let_go_of_closed_loops(self) -> None:
        for loop in list(self._places):
            if loop.is_closed():
                self._places.pop(loop).abandon()

    def _new_place(self) -> Place:
        opened = None
        if self._given is not None:
            engine = self._given.execution_options(**OPTIONS)
        else:
            if self.file is not None:
                opened = Opened(self.file, self.timeout)
            engine = make_async_engine(
                self._address, timeout=self.timeout, connections=self._connections, opened=opened
            )
        return Place(engine, self._prepared, self._connections, opened)

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
                await asyncio.to_thread(create_private_file, self._address)
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
        empty = wanted and await self.aexecute("is_empty")
        await asyncio.to_thread(self.stamps.look, lambda: empty)

    async def astamped(self, ticket: int, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method that changes rows, and give their slots this number."""
        return await self.aexecute(method, *args, ticket=ticket)

    async def aexecute(
        self, method: Operable, *args: Any, ticket: int | None = None, **kwargs: Any
    ) -> Any:
        """Run one operation on a connection; raises only errors of ``sessionware.errors``."""
        reading = method in READS
        try:
            place = self._place()
            async with nullcontext() if reading else self._writing(place):
                if method in MOVES and self.stamps is not None:
                    return await self._moving(self.stamps, method, args, kwargs, ticket)
                return await self._once(method, reading, *args, **kwargs)
        except Exception as error:
            failure = self._translated(error)
        raise failure

    async def agroup(self, calls: Sequence[Call]) -> list[Any]:
        """See ``SQLStore.group``."""
        begun: list[bool] = []
        try:
            place = self._place()
            async with self._writing(place):
                if self._bulk is not None:
                    return await self._in_bulk(self._bulk, calls)
                return await self._moving_all(calls, lambda: begun.append(True))
        except Exception as error:
            failure = self._translated(error)
        return after_failure(failure, bool(begun), len(calls))

    def _translated(self, error: Exception) -> Exception:
        if table_is_missing(error):
            # Dropped under us: the next use makes it again, or says what to do.
            self._place().prepared = self._prepared = False
        return translate(error, self._broken)

    def _writing(self, place: Place) -> Any:
        alone = self._url.get_backend_name() == "sqlite"
        return Held(place.writing, self.timeout) if alone else nullcontext()

    async def _moving(
        self,
        stamps: StampFile,
        method: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ticket: int | None,
    ) -> Any:
        """Move the stamps of what an operation changes: odd, commit, a new number."""
        hold = await self._hold(stamps, hashes_before(method, args))
        answer = None
        try:
            answer = await self._once(method, False, *args, **kwargs)
        except asyncio.CancelledError:
            # It may be done later, by the driver's thread: odd until the next write.
            ticket = new_number() | 1
            raise
        finally:
            hold = hold._replace(hashes=hashes_after(method, args, answer))
            await _let_go(partial(stamps.let_go, hold, ticket or new_number()), hold)
        return answer

    async def _moving_all(self, calls: Sequence[Call], begun: Callable[[], None]) -> list[Any]:
        hashes, numbers = moved(calls)
        if self.stamps is None or not hashes:
            return await self._together(calls, begun)
        hold = await self._hold(self.stamps, hashes)
        try:
            return await self._together(calls, begun)
        except asyncio.CancelledError:
            numbers = [number | 1 for number in numbers]
            raise
        finally:
            await _let_go(partial(self.stamps.let_go_each, hold, numbers), hold)

    async def _hold(self, stamps: StampFile, hashes: tuple[bytes, ...] | None) -> Hold:
        await self.alook_after_stamps()
        deadline = time.monotonic() + self.timeout
        while not isinstance(hold := stamps.try_hold(hashes), Hold):
            if time.monotonic() + hold > deadline:
                raise held_by_others()
            await asyncio.sleep(hold)
        return hold

    async def _together(self, calls: Sequence[Call], begun: Callable[[], None]) -> list[Any]:
        async def straight(lent: AsyncpgNative | AiosqliteNative) -> list[Any]:
            assert isinstance(lent, AiosqliteNative)
            return await lent.run_together(self.steps, calls, begun)

        return await self._lent(
            straight, lambda plain: run_together(self.steps, calls, Through(plain), begun)
        )

    async def _in_bulk(self, bulk: Bulk, calls: Sequence[Call]) -> list[Any]:
        answers: list[Any] = [ALONE] * len(calls)
        for places in in_bulk(calls):
            chosen = [calls[place] for place in places]
            try:
                found = await self._one_statement(bulk, chosen)
            except Exception as error:
                found = after_failure(self._translated(error), True, len(places))
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    async def _one_statement(self, bulk: Bulk, calls: Sequence[Call]) -> list[Any]:
        async def straight(lent: AsyncpgNative | AiosqliteNative) -> list[Any]:
            assert isinstance(lent, AsyncpgNative)
            return await lent.run_script(bulk.together(calls))

        return await self._lent(
            straight, lambda plain: run_script(bulk.together(calls), Through(plain))
        )

    async def _once(self, method: Any, reading: bool, *args: Any, **kwargs: Any) -> Any:
        whole = method in STEPS
        tries, isolated = 0, False

        async def straight(lent: AsyncpgNative | AiosqliteNative) -> Any:
            return await lent.run_method(self.steps, method, args, kwargs, isolated)

        def through(plain: Connection) -> Any:
            if whole:
                return run_method(self.steps, method, args, kwargs, Through(plain), isolated)
            return self.on_connection(method, args, kwargs, plain, isolated)

        while True:
            try:
                if whole:
                    return await self._lent(straight, through)
                return await self._connected(through)
            except Exception as error:
                if tries >= repeats(error, reading, method in WHOLE, self._broken):
                    raise
                isolated = is_undone(error)
            # Of a server that has gone, we have let go of all connections now.
            tries += 1

    async def _lent(
        self,
        straight: Callable[[AsyncpgNative | AiosqliteNative], Coroutine[Any, Any, T]],
        through: Callable[[Connection], T],
    ) -> T:
        """Work with a connection that is at hand, where nobody wants SQLAlchemy in between."""
        place = self._place()
        if self._given is not None:
            return await self._connected(through)
        async with Held(place.free, self.timeout, "no free connection in the pool"):
            lent = await place.take()
            if lent is None:
                return await self._connected_to(place, through)
            try:
                result = await straight(lent)
            except DBAPIError as error:
                if error.connection_invalidated or connection_is_stale(error):
                    lent.drop()
                    await place.let_go()
                else:
                    place.idle.append(lent)
                raise
            except self._broken:
                await lent.call_off()
                raise
            except Exception:
                place.idle.append(lent)
                raise
            except BaseException:
                lent.drop()
                raise
            place.idle.append(lent)
            return result

    async def _connected(self, work: Callable[[Connection], T]) -> T:
        place = self._place()
        if self._given is not None:
            return await self._connected_to(place, work)
        async with Held(place.free, self.timeout, "no free connection in the pool"):
            await place.spare()
            return await self._connected_to(place, work)

    async def _connected_to(self, place: Place, work: Callable[[Connection], T]) -> T:
        if self._given is not None or may_begin(place.engine.sync_engine):
            work = partial(run_committed, work)
        async with place.engine.connect() as connection:
            try:
                return await connection.run_sync(work)
            except DBAPIError as error:
                if connection_is_stale(error):
                    await connection.invalidate()
                raise
            except self._broken:
                await connection.invalidate()
                raise

    aload = _awaited("load")
    areload = _awaited("reload")
    astamp = _awaited("stamp")
    ainsert = _awaited("insert")
    areplace = _awaited("replace")
    arotate = _awaited("rotate")
    aalter = _awaited("alter")
    atouch = _awaited("touch")
    aremove = _awaited("remove")
    auser_rows = _awaited("user_rows")
    aremove_user = _awaited("remove_user")
    aremove_all = _awaited("remove_all")
    alast_id = _awaited("last_id")
    acount = _awaited("count")
    aclaim = _awaited("claim")
    atake_over = _awaited("take_over")
    arelease = _awaited("release")
    anotify = _awaited("notify")

    async def aremove_some(self, after: int, last: int, limit: int) -> Removed:
        """See ``Store.remove_all``."""
        return await adrive(self._remove_some_flow(after, last, limit), self)

    async def apurge(self, now: int, limit: int, exact: bool = False) -> int:
        """See ``Store.purge``."""
        return await adrive(self._purge_flow(now, limit, exact), self)

    async def apurge_retired(self, now: int, limit: int) -> int:
        """See ``Store.purge``."""
        return await adrive(self._purge_retired_flow(now, limit), self)

    async def aclose(self) -> None:
        """Close the connections of an engine of our own; the application's engine stays open."""
        place = self._places.pop(asyncio.get_running_loop(), None)
        if place is not None and self._given is None:
            await place.close()
        with self._lock:
            self._let_go_of_closed_loops()
        if self.stamps is not None:
            self.stamps.close()


async def _let_go(let_go: Callable[[], None], hold: Hold) -> None:
    if hold.took_long:
        await asyncio.to_thread(let_go)
    else:
        let_go()


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
