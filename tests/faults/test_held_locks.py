"""MariaDB: a row is locked for longer than requests wait."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from tests.apps import Managers
from tests.byhand import login, storing
from tests.databases import drivers, url_of
from tests.faults.watch import TIMEOUT, recovered
from tests.interleaving import PATIENCE, Act, Client

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


@pytest.fixture
def admin(mysql_url: str) -> Iterator[Engine]:
    engine = create_engine(mysql_url, isolation_level="READ COMMITTED")
    yield engine
    engine.dispose()


def waiting(connection: Connection, table_name: str) -> int:
    """How many statements wait for the lock."""
    found = connection.execute(
        text(
            "SELECT count(*) FROM information_schema.processlist"
            " WHERE id <> connection_id() AND command = 'Query' AND info LIKE :table"
        ),
        {"table": f"%{table_name}%"},
    )
    return int(found.scalar_one())


CHANGES: dict[str, Act] = {
    "save": storing(a=1),
    "login": login("alice"),
    "logout": lambda session: session.invalidate(),
}


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
@drivers("pymysql", "asyncmy")
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
            while await anyio.to_thread.run_sync(waiting, watch, table_name):
                await anyio.sleep(0.05)
        await anyio.to_thread.run_sync(lock.rollback)
    await anyio.sleep(0.2)
    manager.store.cache.clear()
    assert await client.content() == {"n": 0}
