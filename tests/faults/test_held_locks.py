"""A row is locked for longer than requests wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from sessionware.errors import OutcomeUnknown, StoreUnavailable
from sessionware.stores import executing
from sessionware.stores.protocol import Row
from sessionware.stores.sql import SQLStore
from sessionware.testing.support import MINUTE, NOW, following, put
from tests.apps import Managers
from tests.byhand import login, storing
from tests.databases import drivers, url_of
from tests.faults.watch import TIMEOUT, recovered
from tests.interleaving import PATIENCE, Act, Client


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


SYNC = {"asyncpg": "psycopg", "pymysql": "pymysql", "asyncmy": "pymysql"}
WAITING = {
    "psycopg": "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND query LIKE :table",
    "pymysql": "SELECT count(*) FROM information_schema.processlist"
    " WHERE id <> connection_id() AND command = 'Query' AND info LIKE :table",
}


@pytest.fixture
def admin(driver: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    url = url_of(SYNC[driver], request)
    engine = create_engine(url, isolation_level="READ COMMITTED")
    yield engine
    engine.dispose()


def waiting(connection: Connection, table_name: str) -> int:
    """How many statements wait for the lock."""
    found = connection.execute(
        text(WAITING[connection.dialect.driver]), {"table": f"%{table_name}%"}
    )
    number = int(found.scalar_one())
    connection.rollback()
    return number


@pytest.fixture(params=["url", "engine"])
def database(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[str | Engine]:
    """Straight to the driver, and through SQLAlchemy with an engine of the application's."""
    engine = create_engine(postgres_url)
    yield postgres_url if request.param == "url" else engine
    engine.dispose()


def test_who_stands_still_in_a_transaction_keeps_its_lock_for_seconds_only(
    database: str | Engine, postgres_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a machine does that has lost its network, or is frozen."""
    for name in ("BEGIN", "SHORT"):
        shorter = getattr(executing, name).replace("5s", "300ms")
        monkeypatch.setattr(executing, name, shorter)
    store, other = (SQLStore(each, table_name=table_name) for each in (database, postgres_url))
    store.prepare()
    row = put(store)
    locked, freed = threading.Event(), threading.Event()
    outcome: list[Exception | None] = []

    def decide(current: Row | None) -> tuple[Row, None]:
        locked.set()
        freed.wait(PATIENCE)
        return following(row), None

    def alter() -> None:
        try:
            outcome.append(store.alter(row, decide, NOW, NOW + MINUTE))
        except StoreUnavailable as error:
            outcome.append(error)

    frozen = threading.Thread(target=alter)
    frozen.start()
    assert locked.wait(PATIENCE)
    assert other.replace(row, following(row), NOW)
    freed.set()
    frozen.join()
    assert isinstance(outcome[0], OutcomeUnknown)
    assert store.replace(following(row), following(following(row)), NOW)
    for each in (store, other):
        each.close()


CHANGES: dict[str, Act] = {
    "save": storing(a=1),
    "login": login("alice"),
    "logout": lambda session: session.invalidate(),
}


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
@drivers("asyncpg", "pymysql", "asyncmy")
@pytest.mark.anyio
async def test_a_change_that_was_given_up_is_not_made_when_the_lock_is_gone(
    driver: str,
    request: pytest.FixtureRequest,
    managers: Managers,
    admin: Engine,
    table_name: str,
    act: Act,
) -> None:
    """Nobody would hear of it then."""
    manager = managers(store=url_of(driver, request), table_name=table_name, store_timeout=TIMEOUT)
    client = Client(manager)
    await recovered(client, storing(n=0))

    def hold(lock: Connection) -> None:
        lock.execute(text(f"SELECT 1 FROM {table_name} FOR UPDATE"))

    with admin.connect() as lock, admin.connect() as watch:
        await anyio.to_thread.run_sync(hold, lock)
        assert (await client.twin().visit(act)).status == 503
        with anyio.fail_after(PATIENCE):
            quiet = 0
            # Between two tries there is a moment in which none waits.
            while quiet < 10:
                await anyio.sleep(0.05)
                busy = await anyio.to_thread.run_sync(waiting, watch, table_name)
                quiet = 0 if busy else quiet + 1
        await anyio.to_thread.run_sync(lock.rollback)
    await anyio.sleep(0.2)
    manager.store.cache.clear()
    assert await client.content() == {"n": 0}
