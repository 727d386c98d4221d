"""SQLStore: a store on a SQLAlchemy engine, for threads. ``sql_async`` is the same with awaits."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Unpack

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError

from ..batches import ALONE
from ..coherence.slots import new_number
from ..coherence.stamps import Hold, StampFile
from ..errors import StoreUnavailable
from ..flows import Call, drive
from .base import Operable, SQLBase, SQLOptions, held_by_others, refuse_engine
from .bulk import Bulk, in_bulk
from .engines import create_private_file, is_memory, make_engine
from .executing import (
    OPTIONS,
    Executor,
    Through,
    goes_straight,
    may_begin,
    run_committed,
    run_script,
)
from .faults import broken, connection_is_stale, is_undone, repeats, table_is_missing, translate
from .forking import Gate, close_over_forks, hold, in_use, refuse_inherited
from .grouping import MOVES, after_failure, moved
from .lending import Lender, Lent
from .operating import READS, STEPS, WHOLE, hashes_after, hashes_before, run_method, run_together
from .protocol import Removed
from .statements import T


def _blocking(name: str) -> Callable[..., Any]:
    def method(self: SQLStore, /, *args: Any, **kwargs: Any) -> Any:
        return self.execute(name, *args, **kwargs)

    method.__name__ = name
    return method


class SQLStore(SQLBase):
    """A store on a SQLAlchemy ``Engine`` or URL, for any number of threads.

    An engine of the application's is used as it is, through connections switched to AUTOCOMMIT
    while they are ours; the application's transactions are never touched.
    """

    blocking = True

    def __init__(self, database: str | URL | Engine, **options: Unpack[SQLOptions]) -> None:
        super().__init__(**options)
        url = database.url if isinstance(database, Engine) else make_url(database)
        refuse_engine(database, url, self.steps.schema.metadata.schema)
        self._given = database if isinstance(database, Engine) else None
        # Read as one: another thread may close the store meanwhile.
        self._ready: tuple[Engine, Lender | None] | None = None
        self._prepared = False
        self._disposal: weakref.finalize[..., SQLStore] | None = None
        self._take_url(url)
        self._forget()
        if self.file is not None:
            close_over_forks(self)

    def _forget(self) -> None:
        self._lenders: weakref.WeakSet[Lender] = weakref.WeakSet()
        self._gate = Gate()
        self._setup = threading.Lock()
        self._preparing = threading.Lock()
        # What keeps operations apart. SQLite lets one connection write at a time: better to queue
        # here than to poll its lock.
        self._reading: Any = None
        self._writing: Any = None
        if is_memory(self._url):
            self._reading = self._writing = threading.RLock()
        elif self._url.get_backend_name() == "sqlite":
            self._writing = _Held(threading.Lock(), self.timeout)

    @property
    def connections(self) -> int:
        """How many operations can be under way at once."""
        return 1 if is_memory(self._url) else self._connections

    @property
    def answers_at_once(self) -> bool:
        """Whether a thread of the application's may call it itself: no network that falls silent
        is in between, the tables are there, and waiting has an end: how long an engine of the
        application's waits for a connection or a lock, we don't know.
        """
        ours = self._given is None and self._url.get_backend_name() == "sqlite"
        return ours and self._prepared

    def before_fork(self) -> None:
        """In the parent: close what is idle, and connect again when it is needed."""
        if self._given is None and not is_memory(self._url):
            self._dispose()

    @property
    def is_open(self) -> bool:
        """See ``forking.Opener``."""
        if self._given is not None:
            return in_use(self._given.pool, idle=True)
        return self._ready is not None

    def hush(self, deadline: float, until: ExitStack) -> bool:
        """See ``forking.Opener``. Writers first: they hold the stamps' lock too."""
        if not hold(self._writing.lock, deadline, until) or not hold(self._setup, deadline, until):
            return False
        # One that was closed may still be in use.
        stopped = [lender.stop(deadline, until) for lender in self._lenders]
        return all(stopped) and (self._given is None or self._hush_theirs(deadline, until))

    def _hush_theirs(self, deadline: float, until: ExitStack) -> bool:
        assert self._given is not None
        quiet = self._gate.shut(deadline, until) and not in_use(self._given.pool)
        self._given.dispose()
        return quiet

    def _dispose(self) -> None:
        if self._ready is not None:
            engine, lender = self._ready
            (lender or engine).dispose()

    def after_fork(self) -> None:
        """In a child process: leave the parent's connections alone and start afresh."""
        if self._ready is not None:
            engine, lender = self._ready
            if lender is not None:
                lender.forget()
            engine.dispose(close=False)
        if self._disposal is not None:
            self._disposal.detach()
        self._ready = None
        if self.stamps is not None:
            self.stamps.after_fork()
        self._prepared = False
        self._forget()

    def _make_ready(self) -> tuple[Engine, Lender | None]:
        with self._setup:
            if self._ready is None:
                refuse_inherited(self.file)
                if self._given is not None:
                    theirs = self._given.execution_options(**OPTIONS)
                    self._ready = (theirs, None)
                else:
                    address = self._address
                    create_private_file(address)
                    engine = make_engine(
                        address, timeout=self.timeout, connections=self._connections
                    )
                    lender = Lender(engine, self.connections, self.timeout)
                    self._lenders.add(lender)
                    # A store that is dropped without close() leaves no connection open.
                    self._disposal = weakref.finalize(self, lender.close)
                    self._ready = (engine, lender)
            return self._ready

    @property
    def _broken(self) -> tuple[type[Exception], ...]:
        ready = self._ready
        return (OSError,) if ready is None else broken(ready[0].dialect)

    def renew(self) -> None:
        """Let go of the connections of an engine of our own: they may hang for good."""
        if self._given is None:
            self._dispose()

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
            self.stamps.look(lambda: self.execute("is_empty"))

    def stamped(self, ticket: int, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method that changes rows, and give their slots this number."""
        return self.execute(method, *args, ticket=ticket)

    def execute(
        self, method: Operable, *args: Any, ticket: int | None = None, **kwargs: Any
    ) -> Any:
        """Run one operation on a connection; raises only errors of ``sessionware.errors``."""
        reading = method in READS
        guard = self._reading if reading else self._writing
        try:
            if guard is None:
                return self._once(method, reading, *args, **kwargs)
            with guard:
                if method in MOVES and self.stamps is not None:
                    return self._moving(self.stamps, method, args, kwargs, ticket)
                return self._once(method, reading, *args, **kwargs)
        except Exception as error:
            failure = self._translated(error)
        # Raised outside the handler: the driver's error, which may hold data, is no context of
        # ours.
        raise failure

    def group(self, calls: Sequence[Call]) -> list[Any]:
        """Carry out calls that share a commit: the answer to each, which may be an exception, or
        ``ALONE`` if it has to be called by itself.
        """
        begun: list[bool] = []
        try:
            with self._writing or nullcontext():
                if self._bulk is not None:
                    return self._in_bulk(self._bulk, calls)
                together = partial(self._together, calls, lambda: begun.append(True))
                return self._moving_all(calls, together)
        except Exception as error:
            failure = self._translated(error)
        return after_failure(failure, bool(begun), len(calls))

    def _translated(self, error: Exception) -> Exception:
        if table_is_missing(error):
            # Dropped under us: the next use makes it again, or says what to do.
            self._prepared = False
        return translate(error, self._broken)

    def _moving(
        self,
        stamps: StampFile,
        method: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ticket: int | None,
    ) -> Any:
        """Move the stamps of what an operation changes: odd, commit, a new number."""
        hold = self._hold(stamps, hashes_before(method, args))
        answer = None
        try:
            answer = self._once(method, False, *args, **kwargs)
        finally:
            if method == "remove_user":
                hold = hold._replace(hashes=hashes_after(method, args, answer))
            stamps.let_go(hold, ticket or new_number())
        return answer

    def _moving_all(self, calls: Sequence[Call], together: Callable[[], list[Any]]) -> list[Any]:
        hashes, numbers = moved(calls)
        if self.stamps is None or not hashes:
            return together()
        hold = self._hold(self.stamps, hashes)
        try:
            return together()
        finally:
            self.stamps.let_go_each(hold, numbers)

    def _hold(self, stamps: StampFile, hashes: tuple[bytes, ...] | None) -> Hold:
        if stamps.due():
            self.look_after_stamps()
        hold = stamps.try_hold(hashes)
        deadline = 0.0 if isinstance(hold, Hold) else time.monotonic() + self.timeout
        while not isinstance(hold, Hold):
            if time.monotonic() + hold > deadline:
                raise held_by_others()
            time.sleep(hold)
            hold = stamps.try_hold(hashes)
        return hold

    def _together(self, calls: Sequence[Call], begun: Callable[[], None]) -> list[Any]:
        return self._with_executor(
            lambda executor: run_together(self.steps, calls, executor, begun)
        )

    def _in_bulk(self, bulk: Bulk, calls: Sequence[Call]) -> list[Any]:
        answers: list[Any] = [ALONE] * len(calls)
        for places in in_bulk(calls):
            chosen = [calls[place] for place in places]
            try:
                found = self._with_executor(partial(self._one_statement, bulk, chosen))
            except Exception as error:
                found = after_failure(self._translated(error), True, len(places))
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _one_statement(self, bulk: Bulk, calls: Sequence[Call], executor: Executor) -> list[Any]:
        return run_script(bulk.together(calls), executor)

    def _once(self, method: Any, reading: bool, *args: Any, **kwargs: Any) -> Any:
        whole = method in STEPS
        call = self._step if whole else self._through
        tries, isolated = 0, False
        while True:
            try:
                return call(method, args, kwargs, isolated)
            except Exception as error:
                if tries >= repeats(error, reading, method in WHOLE, self._broken):
                    raise
                isolated = is_undone(error)
            # Of a server that has gone, we have let go of all connections now.
            tries += 1

    def _step(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], isolated: bool
    ) -> Any:
        lender = self._straight()
        if lender is None:
            return self._connected(
                lambda plain: run_method(self.steps, method, args, kwargs, Through(plain), isolated)
            )
        lent = lender.take()
        try:
            result = run_method(self.steps, method, args, kwargs, lent, isolated)
        except BaseException as error:
            self._after(error, lender, lent)
            raise
        lender.give_back(lent)
        return result

    def _with_executor(self, work: Callable[[Executor], T]) -> T:
        lender = self._straight()
        if lender is None:
            return self._connected(lambda plain: work(Through(plain)))
        lent = lender.take()
        try:
            result = work(lent)
        except BaseException as error:
            self._after(error, lender, lent)
            raise
        lender.give_back(lent)
        return result

    def _straight(self) -> Lender | None:
        """Who lends connections that go straight to the driver, if they may."""
        engine, lender = self._ready or self._make_ready()
        return lender if lender is not None and goes_straight(engine) else None

    def _after(self, error: BaseException, lender: Lender, lent: Lent) -> None:
        """Keep the connection if it is still of use."""
        if isinstance(error, DBAPIError):
            if error.connection_invalidated or connection_is_stale(error):
                lender.drop(lent)
                lender.dispose()
                return
        elif isinstance(error, self._broken) or not isinstance(error, Exception):
            lender.drop(lent)
            return
        lender.give_back(lent)

    def _through(
        self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any], isolated: bool
    ) -> Any:
        return self._connected(
            lambda connection: self.on_connection(method, args, kwargs, connection, isolated)
        )

    def _connected(self, work: Callable[[Connection], T]) -> T:
        engine, lender = self._ready or self._make_ready()
        if lender is None or may_begin(engine):
            work = partial(run_committed, work)
        with self._theirs(engine) if lender is None else lender.pooled() as connection:
            try:
                return work(connection)
            except DBAPIError as error:
                if connection_is_stale(error):
                    connection.invalidate()
                raise
            except self._broken:
                connection.invalidate()
                raise

    @contextmanager
    def _theirs(self, engine: Engine) -> Iterator[Connection]:
        with self._gate, engine.connect() as connection:
            yield connection

    load = _blocking("load")
    reload = _blocking("reload")
    stamp = _blocking("stamp")
    insert = _blocking("insert")
    replace = _blocking("replace")
    rotate = _blocking("rotate")
    alter = _blocking("alter")
    touch = _blocking("touch")
    remove = _blocking("remove")
    user_rows = _blocking("user_rows")
    remove_user = _blocking("remove_user")
    remove_all = _blocking("remove_all")
    last_id = _blocking("last_id")
    count = _blocking("count")
    claim = _blocking("claim")
    take_over = _blocking("take_over")
    release = _blocking("release")
    notify = _blocking("notify")

    def remove_some(self, after: int, last: int, limit: int) -> Removed:
        """See ``Store.remove_all``."""
        return drive(self._remove_some_flow(after, last, limit), self)

    def purge(self, now: int, limit: int, exact: bool = False) -> int:
        """See ``Store.purge``."""
        return drive(self._purge_flow(now, limit, exact), self)

    def purge_retired(self, now: int, limit: int) -> int:
        """See ``Store.purge``."""
        return drive(self._purge_retired_flow(now, limit), self)

    def close(self) -> None:
        """Close the connections of an engine of our own; the application's engine stays open."""
        with self._setup:
            if self._disposal is not None:
                self._disposal()
                self._ready = self._disposal = None
            # A memory database is empty after this.
            self._prepared = self._prepared and not is_memory(self._url)
        if self.stamps is not None:
            self.stamps.close()


class _Held:
    """A lock held for a while at the most; waiting longer is an answer, not a hang."""

    def __init__(self, lock: threading.Lock, timeout: float) -> None:
        self.lock = lock
        self._timeout = timeout

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=self._timeout):
            raise StoreUnavailable("other threads of this process hold the database")

    def __exit__(self, *_: object) -> None:
        self.lock.release()
