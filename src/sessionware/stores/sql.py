"""SQLAlchemy stores: ``SQLStore`` for threads, ``AsyncSQLStore`` for asyncio. They differ by an
await.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ..errors import ConfigurationError, Finding, StoreUnavailable
from .engines import create_private_file, is_memory, make_async_engine, make_engine
from .faults import connection_is_stale, translate
from .schema import Schema
from .scripts import Scripts

P = ParamSpec("P")
T = TypeVar("T")
Script = Callable[Concatenate[Scripts, Connection, P], T]

_READS = frozenset({"load", "reload", "stamp", "user_rows", "count"})


class _Base:
    """What both stores know of their database."""

    def __init__(
        self,
        *,
        table_name: str = "sessions",
        create_table: bool = True,
        timeout: float = 2.0,
        connections: int = 8,
    ) -> None:
        self.scripts = Scripts(Schema(table_name))
        self.timeout = timeout
        self._create_table = create_table
        self._connections = connections
        self._prepared = False

    def _prepare(self, connection: Connection) -> None:
        if self._create_table:
            self.scripts.create(connection)
        else:
            self.scripts.check(connection)


def _blocking(script: Script[P, T]) -> Callable[Concatenate[SQLStore, P], T]:
    def method(self: SQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.execute(script, *args, **kwargs)

    return method


class SQLStore(_Base):
    """A store on a SQLAlchemy ``Engine`` or URL, for any number of threads.

    An engine of the application's is used as it is, through connections switched to AUTOCOMMIT
    while they are ours; the application's transactions are never touched.
    """

    blocking = True

    def __init__(self, database: str | URL | Engine, **options: Any) -> None:
        super().__init__(**options)
        self._given = database if isinstance(database, Engine) else None
        self._url = database.url if isinstance(database, Engine) else make_url(database)
        self._engine: Engine | None = None
        self._disposal: weakref.finalize[..., SQLStore] | None = None
        self._forget()

    def _forget(self) -> None:
        self._setup = threading.Lock()
        self._preparing = threading.Lock()
        # SQLite lets one connection write at a time: better to queue here than to poll its lock.
        self._writer = threading.Lock() if self._url.get_backend_name() == "sqlite" else None
        self._memory = threading.RLock() if is_memory(self._url) else nullcontext()

    @property
    def connections(self) -> int:
        """How many operations can be under way at once."""
        return 1 if is_memory(self._url) else self._connections

    def after_fork(self) -> None:
        """In a child process: leave the parent's connections alone and start afresh."""
        if self._engine is not None:
            self._engine.dispose(close=False)
        if self._disposal is not None:
            self._disposal.detach()
        if self._given is None:
            self._engine = None
        self._prepared = False
        self._forget()

    def _ready_engine(self) -> Engine:
        engine = self._engine
        if engine is not None:
            return engine
        with self._setup:
            if self._engine is None:
                if self._given is not None:
                    self._engine = self._given.execution_options(isolation_level="AUTOCOMMIT")
                else:
                    create_private_file(self._url)
                    self._engine = make_engine(
                        self._url, timeout=self.timeout, connections=self._connections
                    )
                    # A store that is dropped without close() leaves no connection open.
                    self._disposal = weakref.finalize(self, self._engine.dispose)
            return self._engine

    def prepare(self) -> None:
        """Create or check the tables, once a process."""
        if self._prepared:
            return
        with _Held(self._preparing, self.timeout):
            if not self._prepared:
                self.execute(lambda _, connection: self._prepare(connection))
                self._prepared = True

    def execute(self, script: Script[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one script on a connection; raises only errors of ``sessionware.errors``."""
        reading = getattr(script, "__name__", "") in _READS
        try:
            with self._memory, nullcontext() if reading else self._writing():
                result: T = self._once(script, reading, *args, **kwargs)
                return result
        except Exception as error:
            failure = translate(error)
        # Raised outside the handler: the driver's error, which may hold data, is no context of
        # ours.
        raise failure

    def _writing(self) -> Any:
        return _Held(self._writer, self.timeout) if self._writer is not None else nullcontext()

    def _once(self, script: Any, reading: bool, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._connected(script, *args, **kwargs)
        except DBAPIError as error:
            if not (reading and error.connection_invalidated):
                raise
        # The pool held connections of a server that has gone; it has let go of them all now.
        return self._connected(script, *args, **kwargs)

    def _connected(self, script: Any, *args: Any, **kwargs: Any) -> Any:
        with self._ready_engine().connect() as connection:
            try:
                return script(self.scripts, connection, *args, **kwargs)
            except DBAPIError as error:
                if connection_is_stale(error):
                    connection.invalidate()
                raise
            except (OSError, TimeoutError):
                connection.invalidate()
                raise

    load = _blocking(Scripts.load)
    reload = _blocking(Scripts.reload)
    stamp = _blocking(Scripts.stamp)
    insert = _blocking(Scripts.insert)
    replace = _blocking(Scripts.replace)
    rotate = _blocking(Scripts.rotate)
    alter = _blocking(Scripts.alter)
    touch = _blocking(Scripts.touch)
    remove = _blocking(Scripts.remove)
    user_rows = _blocking(Scripts.user_rows)
    remove_user = _blocking(Scripts.remove_user)
    remove_all = _blocking(Scripts.remove_all)
    count = _blocking(Scripts.count)
    claim_purge = _blocking(Scripts.claim_purge)
    purge = _blocking(Scripts.purge)

    def close(self) -> None:
        """Close the connections of an engine of our own; the application's engine stays open."""
        with self._setup:
            if self._disposal is not None:
                self._disposal()
                self._engine = self._disposal = None
            # A memory database is empty after this.
            self._prepared = self._prepared and not is_memory(self._url)


class _Held:
    """A lock held for a while at the most; waiting longer is an answer, not a hang."""

    def __init__(self, lock: threading.Lock, timeout: float) -> None:
        self._lock = lock
        self._timeout = timeout

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=self._timeout):
            raise StoreUnavailable("other threads of this process hold the database")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _awaited(
    script: Script[P, T],
) -> Callable[Concatenate[AsyncSQLStore, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncSQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.aexecute(script, *args, **kwargs)

    return method


class AsyncSQLStore(_Base):
    """A store on a SQLAlchemy ``AsyncEngine`` or an async driver's URL; asyncio only.

    With a URL each event loop gets its own engine. An ``AsyncEngine`` that is given belongs to one
    loop.
    """

    def __init__(self, database: str | URL | AsyncEngine, **options: Any) -> None:
        super().__init__(**options)
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
            await self.aexecute(lambda _, connection: self._prepare(connection))
            self._prepared = True

    async def aexecute(self, script: Script[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one script on a connection; raises only errors of ``sessionware.errors``."""
        reading = getattr(script, "__name__", "") in _READS
        try:
            self._ready_engine()
            async with nullcontext() if reading or self._writer is None else self._writer:
                result: T = await self._once(script, reading, *args, **kwargs)
                return result
        except Exception as error:
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
