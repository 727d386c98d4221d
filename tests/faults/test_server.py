"""The database server gets in the way: it ends connections, goes read-only, has none to give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessionware import SessionManager
from sessionware.errors import Contention, OutcomeUnknown, StoreUnavailable
from sessionware.flows import Call, Flow
from sessionware.stores.executing import Through, run_script
from sessionware.stores.faults import repeats, translate
from sessionware.stores.scripts import Scripts
from sessionware.stores.statements import Gives, Script, Text
from tests.apps import Managers
from tests.byhand import login, storing
from tests.databases import drivers, url_of
from tests.faults.watch import TIMEOUT, recovered, refused, timed, unharmed
from tests.interleaving import Act, Client, Group, together

pytestmark = pytest.mark.anyio

postgres_drivers = drivers("psycopg", "asyncpg")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


@pytest.fixture
def admin(postgres_url: str) -> Iterator[Callable[..., Any]]:
    """Runs a statement as somebody else, outside of every transaction."""
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")

    def run(statement: str, **parameters: Any) -> Any:
        with engine.connect() as connection:
            return connection.execute(text(statement), parameters).all()

    yield run
    engine.dispose()


class Server:
    """An engine on PostgreSQL whose sessions the test finds again by the application's name."""

    def __init__(self, url: str, name: str, admin: Callable[..., Any]) -> None:
        self.name = name
        self._admin = admin
        self.read_only = False
        self.engine: Any = (
            create_async_engine(url, connect_args={"server_settings": {"application_name": name}})
            if "asyncpg" in url
            else create_engine(url, connect_args={"application_name": name})
        )
        target = self.engine.sync_engine if isinstance(self.engine, AsyncEngine) else self.engine
        event.listen(target, "connect", self._on_connect)

    def _on_connect(self, connection: Any, record: object) -> None:
        if self.read_only:
            cursor = connection.cursor()
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            cursor.close()
            connection.commit()

    async def end_connections(self) -> int:
        """Have the server end every connection of the engine; how many there were."""
        ended = await anyio.to_thread.run_sync(
            lambda: self._admin(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = :name",
                name=self.name,
            )
        )
        return len(ended)


@pytest.fixture
async def server(
    driver: str,
    request: pytest.FixtureRequest,
    admin: Callable[..., Any],
    table_name: str,
    anyio_backend: str,
) -> AsyncIterator[Server]:
    made = Server(url_of(driver, request), f"app_{table_name}", admin)
    yield made
    if isinstance(made.engine, AsyncEngine):
        await made.engine.dispose()
    else:
        made.engine.dispose()


@pytest.fixture
def manager(server: Server, managers: Managers, table_name: str) -> SessionManager:
    """Each of its requests asks the server."""
    return managers(
        store=server.engine, table_name=table_name, store_timeout=20, coherence="validate"
    )


@postgres_drivers
async def test_connections_that_the_server_ended_are_replaced_without_a_failed_request(
    manager: SessionManager, server: Server
) -> None:
    client = Client(manager)
    await client.visit(storing(a=1))
    acts: list[Act] = [dict, storing(b=2), login("alice"), storing(c=3)]
    for act in acts:
        assert await server.end_connections() >= 1
        assert (await client.visit(act)).status == 200
    assert await client.content() == {"a": 1, "b": 2, "user_id": "alice", "c": 3}


@postgres_drivers
async def test_a_write_that_is_the_first_to_meet_an_ended_connection_is_made_once(
    server: Server, managers: Managers, table_name: str
) -> None:
    manager = managers(
        store=server.engine, table_name=table_name, store_timeout=20, coherence="bounded"
    )
    client = Client(manager)
    await client.visit(storing(n=0))

    async def incr(session: Any) -> Any:
        return await session.aincr("n")

    for act in (storing(a=1), login("alice"), storing(b=2)):
        assert await server.end_connections() >= 1
        assert (await client.visit(act)).status == 200
    assert await server.end_connections() >= 1
    assert (await client.visit(incr)).json() == 1
    assert await client.content() == {"n": 1, "a": 1, "user_id": "alice", "b": 2}


@postgres_drivers
async def test_a_server_that_turns_read_only_refuses_writes_until_connections_lead_to_another(
    manager: SessionManager, server: Server
) -> None:
    client = Client(manager)
    await client.visit(storing(a=1))
    server.read_only = True
    await server.end_connections()
    assert (await client.visit(storing(b=2))).status == 503
    assert await client.content() == {"a": 1}
    server.read_only = False
    assert (await client.visit(storing(c=3))).status in (200, 503)
    assert (await recovered(client, storing(d=4))).status == 200
    assert (await client.content()).items() >= {"a": 1, "d": 4}.items()


@drivers("psycopg", "pymysql")
async def test_an_exhausted_pool_refuses_in_time_and_is_got_over(
    driver: str, request: pytest.FixtureRequest, managers: Managers, table_name: str
) -> None:
    engine = create_engine(
        url_of(driver, request), pool_size=1, max_overflow=0, pool_timeout=TIMEOUT / 2
    )
    manager = managers(store=engine, table_name=table_name, store_timeout=TIMEOUT)
    client = Client(manager)
    await recovered(client, storing(a=1))
    taken: Connection = await anyio.to_thread.run_sync(engine.connect)
    async with Group() as group:
        for _ in range(10):
            group.start_soon(refused, client.twin(), storing(b=2))
        group.start_soon(unharmed, client.twin())
    await anyio.to_thread.run_sync(taken.close)
    await recovered(client, storing(c=3))
    assert (await client.content()).items() >= {"a": 1, "c": 3}.items()
    engine.dispose()


@drivers("psycopg", "asyncpg", "pymysql", "asyncmy")
async def test_no_request_needs_two_connections_at_once(
    driver: str, request: pytest.FixtureRequest, managers: Managers, table_name: str
) -> None:
    url = url_of(driver, request)
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 10}
    is_async = driver in ("asyncpg", "asyncmy")
    engine: Any = create_async_engine(url, **options) if is_async else create_engine(url, **options)
    manager = managers(store=engine, table_name=table_name, store_timeout=10)
    clients = [Client(manager) for _ in range(20)]
    for act in (storing(a=1), login("alice"), storing(b=2)):
        answers = await together(*(client.visit(act) for client in clients))
        assert {answer.status for answer in answers} == {200}
    await manager.ashutdown()
    await engine.dispose() if is_async else engine.dispose()


@drivers("psycopg", "pymysql")
async def test_a_row_that_another_transaction_has_locked_is_waited_for_no_longer_than_allowed(
    driver: str, request: pytest.FixtureRequest, managers: Managers, table_name: str
) -> None:
    url = url_of(driver, request)
    manager = managers(
        store=url, table_name=table_name, store_timeout=TIMEOUT, coherence="validate"
    )
    client = Client(manager)
    await recovered(client, storing(a=1))
    engine = create_engine(url)
    holder = await anyio.to_thread.run_sync(engine.connect)
    lock = text(f"SELECT id FROM {table_name} FOR UPDATE")
    await anyio.to_thread.run_sync(holder.execute, lock)
    async with Group() as group:
        group.start_soon(refused, client.twin(), storing(b=2))
        answer, seconds = await timed(client.twin())
        assert (answer.json(), seconds < TIMEOUT) == ({"a": 1}, True)
    await anyio.to_thread.run_sync(holder.close)
    await recovered(client, storing(c=3))
    assert (await client.content()).items() >= {"a": 1, "c": 3}.items()
    await anyio.to_thread.run_sync(engine.dispose)


class Postgres(Exception):
    """As psycopg and asyncpg raise it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__("a message with 4711 in it")
        self.sqlstate = sqlstate


class Outdated(Postgres):
    """As asyncpg raises it for a plan that gives other columns now."""


Outdated.__name__ = "InvalidCachedStatementError"


def mysql(number: int) -> Exception:
    return Exception(number, "a message with 4711 in it")


def raised(kind: type[DBAPIError], origin: Exception, *, lost: bool = False) -> DBAPIError:
    return kind("UPDATE sessions", {}, origin, connection_invalidated=lost)


MEANINGS: dict[str, tuple[Exception, type[Exception]]] = {
    "deadlock": (raised(OperationalError, Postgres("40P01")), Contention),
    "serialization failure": (raised(OperationalError, Postgres("40001")), Contention),
    "lock not available": (raised(OperationalError, Postgres("55P03")), Contention),
    "MySQL deadlock": (raised(OperationalError, mysql(1213)), Contention),
    "MySQL lock wait timeout": (raised(OperationalError, mysql(1205)), Contention),
    "read-only": (raised(InternalError, Postgres("25006")), StoreUnavailable),
    "MySQL read-only": (raised(OperationalError, mysql(1290)), StoreUnavailable),
    "shutdown, connection lost": (
        raised(OperationalError, Postgres("57P01"), lost=True),
        OutcomeUnknown,
    ),
    "deadlock, connection lost": (
        raised(OperationalError, Postgres("40P01"), lost=True),
        OutcomeUnknown,
    ),
    "disk full": (raised(OperationalError, Postgres("53100")), StoreUnavailable),
    "not connected": (OperationalError(None, None, Exception("no route")), StoreUnavailable),
    "interface": (raised(InterfaceError, Exception("odd")), StoreUnavailable),
    "pool": (PoolTimeout(), StoreUnavailable),
    "reset": (ConnectionResetError(), OutcomeUnknown),
    "time-out": (TimeoutError(), OutcomeUnknown),
}


@pytest.mark.parametrize(("error", "meaning"), MEANINGS.values(), ids=MEANINGS)
def test_what_a_driver_raises_means_something_to_us_and_tells_nothing_of_the_data(
    error: Exception, meaning: type[Exception]
) -> None:
    translated = translate(error)
    assert type(translated) is meaning
    assert "4711" not in str(translated)


HINTS: dict[str, tuple[str | None, str]] = {
    'database "4711" does not exist': (None, "no such database or user"),
    'relation "4711" does not exist': ("SELECT", "no such database or user"),
    "permission denied for table 4711": ("SELECT", "the database user lacks a privilege"),
    "INSERT command denied to user '4711'": ("INSERT", "the database user lacks a privilege"),
    "FATAL: sorry, too many clients already": (None, "too many connections"),
    "Too many connections": (None, "too many connections"),
}


@pytest.mark.parametrize(("words", "statement", "hint"), [(w, *h) for w, h in HINTS.items()])
def test_what_is_known_of_a_failure_is_said_and_nothing_that_it_is_not(
    words: str, statement: str | None, hint: str
) -> None:
    said = str(translate(OperationalError(statement, None, Exception(words))))
    assert (hint in said) is ("relation" not in words)
    assert "4711" not in said


def test_a_defect_is_not_taken_for_a_failing_database() -> None:
    defect = ZeroDivisionError()
    assert translate(defect) is defect


REPEATS: dict[str, tuple[Exception, bool, bool, int]] = {
    "a read that the server undid": (raised(OperationalError, Postgres("40001")), True, True, 1),
    "a write that the server undid": (raised(OperationalError, Postgres("40001")), False, True, 1),
    "one of several writes that the server undid": (
        raised(OperationalError, Postgres("40001")),
        False,
        False,
        0,
    ),
    "a read behind a lock": (raised(OperationalError, Postgres("55P03")), True, True, 0),
    "a read, connection lost": (
        raised(OperationalError, Postgres("57P01"), lost=True),
        True,
        True,
        1,
    ),
    "a write, connection lost": (
        raised(OperationalError, Postgres("57P01"), lost=True),
        False,
        True,
        0,
    ),
    "a read, reset": (ConnectionResetError(), True, True, 1),
    "a write, reset": (ConnectionResetError(), False, True, 0),
    "a write, outdated plan": (raised(InternalError, Outdated("0A000")), False, True, 16),
    "one of several writes, outdated plan": (
        raised(InternalError, Outdated("0A000")),
        False,
        False,
        0,
    ),
    "something that the server can't do": (
        raised(InternalError, Postgres("0A000")),
        True,
        True,
        0,
    ),
    "a defect": (ZeroDivisionError(), True, True, 0),
}


@pytest.mark.parametrize(("error", "reading", "whole", "tries"), REPEATS.values(), ids=REPEATS)
def test_only_what_did_nothing_is_tried_again_and_not_for_ever(
    error: Exception, reading: bool, whole: bool, tries: int
) -> None:
    assert repeats(error, reading, whole, (OSError,)) == tries


SERIALIZABLE = Text("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE")
SHOW = Text("SHOW transaction_isolation", gives=Gives.ROW)


@pytest.fixture(params=["url", "engine"])
def plain_store(
    driver: str, request: pytest.FixtureRequest, server: Server, managers: Managers, table_name: str
) -> Any:
    """A manager's store, straight to the driver or through SQLAlchemy."""
    database = url_of(driver, request) if request.param == "url" else server.engine
    return managers(store=database, table_name=table_name).store


@pytest.mark.parametrize("method", ["reload", "count", "insert"])
@postgres_drivers
async def test_what_the_server_undid_is_made_again_in_a_transaction_that_it_never_undoes(
    plain_store: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[str] = []

    def step(argument: object) -> Script[None]:
        if not levels:
            yield SERIALIZABLE
        found = yield SHOW
        levels.append(found[0])
        if len(levels) == 1:
            raise raised(OperationalError, Postgres("40001"))

    def count(scripts: object, connection: Connection, now: int) -> None:
        run_script(step(0), Through(connection))

    def asking() -> Flow[None]:
        yield Call(method, (0,))

    for name in ("reload", "insert"):
        monkeypatch.setattr(plain_store.store.steps, name, step)
    monkeypatch.setattr(Scripts, "count", count)
    await plain_store.runner.arun(asking())
    assert levels == ["serializable", "read committed"]
