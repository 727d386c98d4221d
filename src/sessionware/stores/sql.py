"""SQLStore: a store on a SQLAlchemy engine, for threads. ``sql_async`` is the same with awaits."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, StaticPool, make_url
from sqlalchemy.exc import DBAPIError

from ..coherence.slots import new_number
from ..coherence.stampfile import file_of
from ..coherence.stamps import Hold, StampFile
from ..errors import ConfigurationError, Contention, Finding, StoreUnavailable
from .engines import create_private_file, is_memory, make_engine
from .faults import broken, connection_is_stale, table_is_missing, translate
from .schema import Schema
from .scripts import Scripts

P = ParamSpec("P")
T = TypeVar("T")
Script = Callable[Concatenate[Scripts, Connection, P], T]

READS = frozenset({"load", "reload", "stamp", "user_rows", "count", "is_empty"})
# What moves the stamps of the rows it changes. A touch changes nothing that a cache must know.
MOVES = frozenset({"replace", "rotate", "alter", "remove", "remove_user", "remove_all"})


class SQLBase:
    """What both stores know of their database."""

    _url: URL

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
        self.table_name = table_name
        self._create_table = create_table
        self._connections = connections
        self.stamps: StampFile | None = None

    @property
    def url(self) -> URL:
        """Which database it is."""
        return self._url

    def _keep_stamps(self) -> None:
        if self._url.get_backend_name() == "sqlite":
            path = file_of(self._url.database, self._url.query)
            self.stamps = None if path is None else StampFile(path)

    @property
    def purge_batch(self) -> int:
        """How many rows a purge deletes at a time: on SQLite the others wait meanwhile."""
        return 5000 if self._url.get_backend_name() == "postgresql" else 1000

    def make_tables(self, connection: Connection) -> None:
        if self._create_table:
            self.scripts.create(connection)
        else:
            self.scripts.check(connection)


def hashes_before(method: str, args: tuple[Any, ...]) -> tuple[bytes, ...] | None:
    """The hashes of what a method is about to change; None: of any row."""
    match method:
        case "remove_all" | "remove_user":
            return None
        case _:
            return (args[0].sid_hash,)


def hashes_after(method: str, args: tuple[Any, ...], answer: Any) -> tuple[bytes, ...] | None:
    """The hashes of what a method has changed; without an answer of what it may have changed."""
    if method == "remove_user":
        return None if answer is None else tuple(answer)
    return hashes_before(method, args)


def _blocking(script: Script[P, T]) -> Callable[Concatenate[SQLStore, P], T]:
    def method(self: SQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self.execute(script, *args, **kwargs)  # type: ignore[arg-type]
        return result

    return method


class SQLStore(SQLBase):
    """A store on a SQLAlchemy ``Engine`` or URL, for any number of threads.

    An engine of the application's is used as it is, through connections switched to AUTOCOMMIT
    while they are ours; the application's transactions are never touched.
    """

    blocking = True

    def __init__(self, database: str | URL | Engine, **options: Any) -> None:
        super().__init__(**options)
        refuse_one_connection(database)
        self._given = database if isinstance(database, Engine) else None
        self._url = database.url if isinstance(database, Engine) else make_url(database)
        self._engine: Engine | None = None
        self._prepared = False
        self._disposal: weakref.finalize[..., SQLStore] | None = None
        self._keep_stamps()
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

    def before_fork(self) -> None:
        """In the parent: close what is idle, and connect again when it is needed.

        SQLite's locks are the process's. A child that inherits an open file takes none for its own
        connections either, so that the WAL is deleted under it as soon as the parent lets go, and
        nobody ever sees what it commits (sqlite.org/howtocorrupt.html, 2.6).
        """
        own = self._given is None or self._url.get_backend_name() == "sqlite"
        if self._engine is not None and own and not is_memory(self._url):
            self._engine.dispose()

    def after_fork(self) -> None:
        """In a child process: leave the parent's connections alone and start afresh."""
        if self._engine is not None:
            self._engine.dispose(close=False)
        if self._disposal is not None:
            self._disposal.detach()
        if self._given is None:
            self._engine = None
        if self.stamps is not None:
            self.stamps.after_fork()
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

    @property
    def _broken(self) -> tuple[type[Exception], ...]:
        return (OSError,) if self._engine is None else broken(self._engine.dialect)

    def renew(self) -> None:
        """Let go of the connections of an engine of our own: they may hang for good."""
        if self._engine is not None and self._given is None:
            self._engine.dispose()

    def prepare(self) -> None:
        """Create or check the tables, once a process."""
        if self._prepared:
            return
        with _Held(self._preparing, self.timeout):
            if not self._prepared:
                self.execute(lambda _, connection: self.make_tables(connection))
                self.look_after_stamps()
                self._prepared = True

    def look_after_stamps(self) -> None:
        """See that the stamp file is there and the right one, if that is due."""
        if self.stamps is not None and self.stamps.due():
            self.stamps.look(lambda: self.execute(Scripts.is_empty))

    def stamped(self, ticket: int, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method that changes rows, and give their slots this number."""
        return self.execute(getattr(Scripts, method), *args, ticket=ticket)

    def execute(self, script: Any, *args: Any, ticket: int | None = None, **kwargs: Any) -> Any:
        """Run one script on a connection; raises only errors of ``sessionware.errors``."""
        method = getattr(script, "__name__", "")
        reading = method in READS
        try:
            with self._memory, nullcontext() if reading else self._writing():
                if method in MOVES and self.stamps is not None:
                    return self._moving(self.stamps, script, args, kwargs, ticket)
                return self._once(script, reading, *args, **kwargs)
        except Exception as error:
            if table_is_missing(error):
                # Dropped under us: the next use makes it again, or says what to do.
                self._prepared = False
            failure = translate(error, self._broken)
        # Raised outside the handler: the driver's error, which may hold data, is no context of
        # ours.
        raise failure

    def _writing(self) -> Any:
        return _Held(self._writer, self.timeout) if self._writer is not None else nullcontext()

    def _moving(
        self,
        stamps: StampFile,
        script: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ticket: int | None,
    ) -> Any:
        """Move the stamps of what a script changes: odd, commit, a new number."""
        self.look_after_stamps()
        deadline = time.monotonic() + self.timeout
        while not isinstance(hold := stamps.try_hold(hashes_before(script.__name__, args)), Hold):
            if time.monotonic() + hold > deadline:
                raise held_by_others()
            time.sleep(hold)
        answer = None
        try:
            answer = self._once(script, False, *args, **kwargs)
        finally:
            changed = hashes_after(script.__name__, args, answer)
            stamps.let_go(hold._replace(hashes=changed), ticket or new_number())
        return answer

    def _once(self, script: Any, reading: bool, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._connected(script, *args, **kwargs)
        except DBAPIError as error:
            if not (reading and error.connection_invalidated):
                raise
        except self._broken:
            if not reading:
                raise
        # The pool held connections of a server that has gone; it has let go of them all now.
        return self._connected(script, *args, **kwargs)

    def _connected(self, script: Any, *args: Any, **kwargs: Any) -> Any:
        with self._ready_engine().connect() as connection:
            try:
                result = script(self.scripts, connection, *args, **kwargs)
                if self._given is not None:
                    # Its listeners may begin a transaction in spite of AUTOCOMMIT.
                    connection.commit()
                return result
            except DBAPIError as error:
                if connection_is_stale(error):
                    connection.invalidate()
                raise
            except self._broken:
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
    claim = _blocking(Scripts.claim)
    release = _blocking(Scripts.release)
    notify = _blocking(Scripts.notify)
    purge = _blocking(Scripts.purge)

    def close(self) -> None:
        """Close the connections of an engine of our own; the application's engine stays open."""
        with self._setup:
            if self._disposal is not None:
                self._disposal()
                self._engine = self._disposal = None
            # A memory database is empty after this.
            self._prepared = self._prepared and not is_memory(self._url)
        if self.stamps is not None:
            self.stamps.close()


def refuse_one_connection(database: Any) -> None:
    """An application's engine on a ``StaticPool``: our commits would be those of its
    transactions.
    """
    if isinstance(getattr(database, "pool", None), StaticPool):
        raise ConfigurationError(
            [
                Finding(
                    "SW022",
                    "store",
                    "this engine has one connection for everybody: our commits would commit the "
                    "application's transactions.",
                    "give a URL, or an engine whose pool has several connections.",
                )
            ]
        )


def held_by_others() -> Contention:
    """Another process has been writing all the time."""
    return Contention("the database is locked")


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
