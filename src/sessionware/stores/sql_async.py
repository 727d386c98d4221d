"""AsyncSQLStore: a store on a SQLAlchemy ``AsyncEngine``, for asyncio; as ``sql``, with awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, Concatenate

from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ..errors import ConfigurationError, Finding
from .engines import create_private_file, is_memory, make_async_engine
from .faults import connection_is_stale, table_is_missing, translate
from .scripts import Scripts
from .sql import READS, P, Script, SQLBase, T, refuse_one_connection


def _awaited(
    script: Script[P, T],
) -> Callable[Concatenate[AsyncSQLStore, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncSQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.aexecute(script, *args, **kwargs)

    return method


class AsyncSQLStore(SQLBase):
    """A store on a SQLAlchemy ``AsyncEngine`` or an async driver's URL; asyncio only.

    With a URL each event loop gets its own engine. An ``AsyncEngine`` that is given belongs to one
    loop.
    """

    def __init__(self, database: str | URL | AsyncEngine, **options: Any) -> None:
        super().__init__(**options)
        refuse_one_connection(database)
        self._given = database if isinstance(database, AsyncEngine) else None
        self._url = database.url if isinstance(database, AsyncEngine) else make_url(database)
        self._engine: AsyncEngine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: asyncio.Lock | None = None
        self._preparing: asyncio.Lock | None = None

    def after_fork(self) -> None:
        """In a child process: leave the parent's connections alone and start afresh."""
        self._let_go()
        self._prepared = False

    def _let_go(self) -> None:
        if self._engine is not None:
            self._engine.sync_engine.dispose(close=False)
        self._engine = self._loop = self._writer = None

    def _ready_engine(self) -> AsyncEngine:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None:
            raise ConfigurationError([_asyncio_only()])
        if self._engine is not None and self._loop is loop:
            return self._engine
        if self._loop is not None and self._loop is not loop:
            if self._loop.is_running() and self._given is not None:
                raise ConfigurationError([_one_loop()])
            self._let_go()
        if self._given is not None:
            self._engine = self._given.execution_options(isolation_level="AUTOCOMMIT")
        else:
            self._engine = make_async_engine(
                self._url, timeout=self.timeout, connections=self._connections
            )
        self._loop = loop
        self._preparing = asyncio.Lock()
        if self._url.get_backend_name() == "sqlite":
            self._writer = asyncio.Lock()
        return self._engine

    async def aprepare(self) -> None:
        """Create or check the tables, once a process."""
        if self._prepared:
            return
        self._ready_engine()
        assert self._preparing is not None
        async with self._preparing:
            if self._prepared:
                return
            if self._given is None:
                await asyncio.to_thread(create_private_file, self._url)
            await self.aexecute(lambda _, connection: self.make_tables(connection))
            self._prepared = True

    async def aexecute(self, script: Script[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one script on a connection; raises only errors of ``sessionware.errors``."""
        reading = getattr(script, "__name__", "") in READS
        try:
            self._ready_engine()
            async with nullcontext() if reading or self._writer is None else self._writer:
                result: T = await self._once(script, reading, *args, **kwargs)
                return result
        except Exception as error:
            if table_is_missing(error):
                # Dropped under us: the next use makes it again, or says what to do.
                self._prepared = False
            failure = translate(error)
        raise failure

    async def _once(self, script: Any, reading: bool, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._connected(script, *args, **kwargs)
        except DBAPIError as error:
            if not (reading and error.connection_invalidated):
                raise
        return await self._connected(script, *args, **kwargs)

    async def _connected(self, script: Any, *args: Any, **kwargs: Any) -> Any:
        async with self._ready_engine().connect() as connection:
            try:
                return await connection.run_sync(
                    lambda plain: script(self.scripts, plain, *args, **kwargs)
                )
            except DBAPIError as error:
                if connection_is_stale(error):
                    await connection.invalidate()
                raise
            except (OSError, TimeoutError):
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
    aclaim_purge = _awaited(Scripts.claim_purge)
    apurge = _awaited(Scripts.purge)

    async def aclose(self) -> None:
        """Close the connections of an engine of our own; the application's engine stays open."""
        if self._engine is None:
            return
        if self._given is None and self._loop is asyncio.get_running_loop():
            await self._engine.dispose()
        elif self._given is None:
            self._engine.sync_engine.dispose(close=False)
        self._engine = self._loop = self._writer = None
        self._prepared = self._prepared and not is_memory(self._url)


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
