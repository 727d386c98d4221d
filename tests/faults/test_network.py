"""The network between us and the database fails: cut, black hole, delay, and the server gone."""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import pytest

from sessionware import Session, SessionManager
from tests.apps import Answer, Managers
from tests.byhand import login, storing
from tests.databases import drivers, url_of
from tests.faults.proxy import Proxy, When
from tests.faults.watch import GRACE, TIMEOUT, recovered, refused, timed, unharmed
from tests.interleaving import PATIENCE, Act, Client, Group, perform, together

pytestmark = pytest.mark.anyio

each_driver = drivers("psycopg", "asyncpg", "pymysql", "asyncmy")
BROWSERS = 12
WHEN: tuple[When, ...] = ("before", "after")
PATIENT = 20
# Where it doesn't matter how long a change takes, a busy machine must not fail it.
patiently = pytest.mark.parametrize("store_timeout", [PATIENT], ids=["patient"])


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


@pytest.fixture
def store_timeout() -> float:
    return TIMEOUT


@pytest.fixture
async def manager(
    driver: str,
    request: pytest.FixtureRequest,
    managers: Managers,
    proxied_url: str,
    table_name: str,
    store_timeout: float,
    anyio_backend: str,
) -> SessionManager:
    """A manager behind the proxy, with its tables made and a connection open; each of its requests
    goes over the network.
    """
    patient = managers(store=url_of(driver, request), table_name=table_name, store_timeout=PATIENT)
    await patient.store.aprepare()
    manager = managers(
        store=proxied_url, table_name=table_name, store_timeout=store_timeout, coherence="validate"
    )
    await recovered(Client(manager), storing(warm="up"))
    return manager


async def session(manager: SessionManager) -> Client:
    client = Client(manager)
    await recovered(client, storing(n=0))
    return client


async def browsers(manager: SessionManager) -> list[Client]:
    """Browsers with a session each, over several connections."""
    clients = [Client(manager) for _ in range(BROWSERS)]
    async with Group() as group:
        for client in clients:
            group.start_soon(recovered, client, storing(n=0))
    return clients


class Load:
    """Browsers that write one key after the other, and remember which writes were acknowledged."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = clients
        self.acknowledged: dict[Client, dict[str, int]] = {client: {"n": 0} for client in clients}
        self.statuses: set[int] = set()
        self.count = 0
        self._stopping = False

    async def run(self) -> None:
        async with Group() as group:
            for client in self.clients:
                group.start_soon(self._write, client)

    async def _write(self, client: Client) -> None:
        number = 0
        while not self._stopping:
            number += 1
            answer, seconds = await timed(client, storing(**{f"k{number}": number}))
            # Its load and its save wait for the store, each for the time-out at the most.
            assert seconds <= 2 * TIMEOUT + GRACE
            self.statuses.add(answer.status)
            if answer.status == 200:
                self.acknowledged[client][f"k{number}"] = number
                self.count += 1
            else:
                await anyio.sleep(0.02)

    async def until(self, count: int) -> None:
        """Wait until so many more writes were acknowledged."""
        target = self.count + count
        with anyio.fail_after(PATIENCE):
            while self.count < target:
                await anyio.sleep(0.005)

    def stop(self) -> None:
        self._stopping = True

    async def check(self) -> None:
        """Everything that was acknowledged is there."""
        assert self.statuses <= {200, 503}
        for client, written in self.acknowledged.items():
            assert written.items() <= (await client.content()).items()


@each_driver
async def test_a_server_that_goes_away_under_load_costs_no_acknowledged_write(
    manager: SessionManager, proxy: Proxy
) -> None:
    load = Load(await browsers(manager))
    async with Group() as group:
        group.start_soon(load.run)
        await load.until(30)
        proxy.stop()
        await anyio.sleep(TIMEOUT)
        await refused(load.clients[0].twin())
        await refused(load.clients[0].twin(), storing(x=1))
        await unharmed(load.clients[0].twin())
        await unharmed(Client(manager))
        proxy.start()
        await recovered(load.clients[0].twin())
        await load.until(30)
        load.stop()
    assert load.statuses == {200, 503}
    await load.check()


@each_driver
async def test_a_new_session_is_refused_while_the_server_is_away(
    manager: SessionManager, proxy: Proxy
) -> None:
    proxy.stop()
    client = Client(manager)
    await refused(client, storing(a=1))
    await unharmed(client)
    proxy.start()
    await recovered(client, storing(a=1))
    assert await client.content() == {"a": 1}


async def in_a_black_hole(manager: SessionManager, proxy: Proxy) -> list[Client]:
    """Browsers whose requests, and with them every connection, got stuck; all were answered."""
    clients = await browsers(manager)
    proxy.freeze()
    async with Group() as group:
        for client in clients:
            group.start_soon(refused, client.twin(), storing(late=1))
            group.start_soon(unharmed, client.twin())
    return clients


async def check_recovery(clients: list[Client]) -> None:
    for client in clients:
        await recovered(client, storing(again=1))
        # What was answered with 503 may have been done, early or late, but nothing else.
        content = await client.content()
        assert content.pop("late", 1) == 1
        assert content == {"n": 0, "again": 1}


@drivers("psycopg", "asyncpg")
async def test_after_a_black_hole_that_delivers_what_it_kept_requests_work_again(
    manager: SessionManager, proxy: Proxy
) -> None:
    clients = await in_a_black_hole(manager, proxy)
    proxy.thaw()
    await check_recovery(clients)


@each_driver
async def test_after_a_black_hole_in_which_the_connections_were_lost_requests_work_again(
    manager: SessionManager, proxy: Proxy
) -> None:
    clients = await in_a_black_hole(manager, proxy)
    proxy.lose()
    proxy.thaw()
    await check_recovery(clients)


@drivers("psycopg", "asyncmy")
async def test_a_slow_server_is_waited_for_until_the_time_out_and_no_longer(
    manager: SessionManager, proxy: Proxy
) -> None:
    (client, *_) = await browsers(manager)
    proxy.delay = 0.02
    assert (await client.visit(storing(a=1))).status == 200
    proxy.delay = 3 * TIMEOUT
    async with Group() as group:
        group.start_soon(refused, client.twin())
        group.start_soon(refused, Client(manager), storing(b=2))
        group.start_soon(unharmed, client.twin())
    proxy.delay = 0.0
    await recovered(client)
    assert await client.content() == {"n": 0, "a": 1}


def logout(session: Session) -> None:
    session.invalidate()


async def incr(session: Session) -> Any:
    return await session.aincr("n")


async def take(session: Session) -> Any:
    return await session.atake("otp")


# What is asked for, what it answers and what it leaves behind.
BEFORE: dict[str, Any] = {"n": 0, "otp": "4711"}
CHANGES: dict[str, tuple[Act, Any, dict[str, Any]]] = {
    "save": (storing(a=1), None, {**BEFORE, "a": 1}),
    "incr": (incr, 1, {**BEFORE, "n": 1}),
    "take": (take, "4711", {"n": 0}),
    "login": (login("alice"), None, {**BEFORE, "user_id": "alice"}),
    "logout": (logout, None, {}),
}


def cutting(proxy: Proxy, number: int, when: When, act: Act) -> Act:
    """Cut the connection after the session was loaded, where the change is carried out."""

    async def cut(session: Session) -> Any:
        proxy.cut_at(number, when)
        return await perform(act, session)

    return cut


async def one_cut(client: Client, proxy: Proxy, number: int, when: When, act: Act) -> Answer | None:
    """The answer to this change with its connection cut at this message; None if it had fewer."""
    answer = await client.visit(cutting(proxy, number, when, act))
    assert answer.status == 200, f"cut {when} message {number}"
    missed = proxy.disarm()
    assert number > 1 or not missed, "no message reached the proxy"
    return None if missed else answer


@each_driver
@patiently
@pytest.mark.parametrize(("act", "says", "left"), CHANGES.values(), ids=CHANGES)
async def test_wherever_its_connection_is_cut_a_change_is_made_once(
    manager: SessionManager, proxy: Proxy, act: Act, says: Any, left: dict[str, Any]
) -> None:
    for when in WHEN:
        for number in itertools.count(1):
            client = Client(manager)
            await recovered(client, storing(**BEFORE))
            old = client.twin()
            answer = await one_cut(client, proxy, number, when, act)
            if answer is None:
                break
            assert answer.json() == says, f"cut {when} message {number}"
            assert await client.content() == left
            if client.token != old.token:
                assert await old.content() == {}


@each_driver
@patiently
async def test_wherever_its_connection_is_cut_a_new_session_is_one(
    manager: SessionManager, proxy: Proxy
) -> None:
    for when in WHEN:
        for number in itertools.count(1):
            client, user = Client(manager), f"{when} {number}"
            if await one_cut(client, proxy, number, when, login(user)) is None:
                break
            assert await client.content() == {"user_id": user}
            assert len(await manager.alist_sessions(user)) == 1


@each_driver
async def test_every_pooled_connection_may_be_dead_when_the_next_request_comes(
    manager: SessionManager, proxy: Proxy
) -> None:
    clients = await browsers(manager)
    proxy.reset()
    answers = await together(*(client.visit(storing(a=1)) for client in clients))
    assert {answer.status for answer in answers} <= {200, 503}
    for client in clients:
        await recovered(client, storing(b=2))
        assert (await client.content()).items() >= {"n": 0, "b": 2}.items()
