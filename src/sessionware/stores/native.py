"""Async drivers without SQLAlchemy in between, for engines of our own; see ``executing``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from ..flows import Call
from .aiosqlites import is_open
from .executing import BEGIN, Straight
from .operating import IN_TRANSACTION, run_method, run_together
from .statements import Gives, Script, Step, Text, worded
from .steps import Steps

T = TypeVar("T")
DRIVERS: Final = frozenset({"asyncpg", "aiosqlite"})
_CALLING_OFF_SECONDS: Final = 1.0


async def connect(engine: AsyncEngine) -> AsyncpgNative | AiosqliteNative | None:
    """A new connection, apart from the engine's pool; None if this version of the driver can't be
    used so.
    """
    connection = await engine.connect()
    fairy = await connection.get_raw_connection()
    driver: Any = fairy.driver_connection
    if engine.dialect.driver == "asyncpg":
        # Whoever drops an event loop with connections in it drops the driver's, not a pool's.
        fairy.detach()
        return AsyncpgNative(driver, engine.dialect)
    if hasattr(driver, "_execute") and hasattr(driver, "_conn"):
        fairy.detach()
        return AiosqliteNative(driver, engine.dialect)
    await connection.close()
    return None


class AsyncpgNative:
    """A connection of asyncpg's."""

    def __init__(self, driver: Any, dialect: Dialect) -> None:
        import asyncpg

        self._driver = driver
        self._dialect = dialect
        # The last: of a connection that the server has ended, and that is not closed yet.
        self._errors = (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        )

    async def run_method(
        self,
        steps: Steps,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        isolated: bool = False,
    ) -> Any:
        """See ``operating.run_method``."""
        script = getattr(steps, method)(*args, **kwargs)
        if not isolated and method not in IN_TRANSACTION:
            return await self.run_script(script)
        async with self._transaction():
            return await self.run_script(script)

    async def run_script(self, script: Script[T]) -> T:
        """See ``executing.run_script``."""
        answer: Any = None
        failure: Exception | None = None
        while True:
            try:
                step = script.send(answer) if failure is None else script.throw(failure)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            answer = failure = None
            try:
                answer = await self._perform(step)
            except Exception as error:
                failure = error

    async def _perform(self, step: Step) -> Any:
        text, values, gives = worded(step, self._dialect)
        driver = self._driver
        try:
            match gives:
                case Gives.COUNT:
                    status: str = await driver.execute(text, *values)
                    return int(status.rpartition(" ")[2])
                case Gives.ROW:
                    found = await driver.fetchrow(text, *values)
                    return None if found is None else tuple(found)
                case Gives.KEY:
                    return await driver.fetchval(text, *values)
                case Gives.ROWS:
                    return await driver.fetch(text, *values)
            await driver.execute(text, *values)
            return None
        except self._errors as error:
            failure = self._as_sqlalchemys(error)
        raise failure

    def _as_sqlalchemys(self, error: Any) -> DBAPIError:
        state: str = getattr(error, "sqlstate", None) or ""
        kind = IntegrityError if state.startswith("23") else OperationalError
        # What a client notices by itself has no state: the connection is no more, or in disorder.
        lost = self._driver.is_closed() or not state
        return kind("", {}, error, hide_parameters=True, connection_invalidated=lost)

    @property
    def is_open(self) -> bool:
        """Whether it may be lent again, as far as is known."""
        return True

    def drop(self) -> None:
        """It is of no more use."""
        self._driver.terminate()

    async def call_off(self) -> None:
        """It is of no more use, and the server may still be at it: else it waits for a lock, and
        then does what was given up, unknown to anybody.
        """
        with suppress(Exception):
            await self._driver.close(timeout=_CALLING_OFF_SECONDS)

    async def close(self) -> None:
        await self._driver.close()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        try:
            await self._perform(Text(BEGIN))
            yield
            await self._perform(Text("COMMIT"))
        except BaseException:
            with suppress(DBAPIError, OSError):
                await self._perform(Text("ROLLBACK"))
            raise


class AiosqliteNative:
    """A connection of aiosqlite's: plain code in its thread, one trip there for an operation."""

    def __init__(self, driver: Any, dialect: Dialect) -> None:
        self._driver = driver
        self._straight = Straight(driver._conn, dialect)

    async def run_method(
        self,
        steps: Steps,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        isolated: bool = False,
    ) -> Any:
        """See ``operating.run_method``."""
        return await self._there(
            lambda: run_method(steps, method, args, kwargs, self._straight, isolated)
        )

    async def run_together(
        self, steps: Steps, calls: Sequence[Call], begun: Callable[[], None]
    ) -> list[Any]:
        """See ``operating.run_together``."""
        return await self._there(lambda: run_together(steps, calls, self._straight, begun))

    @property
    def is_open(self) -> bool:
        """Whether it may be lent again: over a fork it was closed."""
        return is_open(self._straight.raw)

    def drop(self) -> None:
        """It is of no more use."""
        self._driver.stop()

    async def call_off(self) -> None:
        """No server goes on with it."""
        self.drop()

    async def close(self) -> None:
        await self._driver.close()

    def _there(self, work: Callable[[], T]) -> Coroutine[Any, Any, T]:
        there: Coroutine[Any, Any, T] = self._driver._execute(work)
        return there
