"""Saves that arrive while a commit is under way share the next one: each answered by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from sqlalchemy import create_engine, text

from sessionware import Session, SessionManager, loop_runner, thread_runner
from sessionware.flows import Call
from tests.apps import Answer, Managers
from tests.byhand import Visitor, storing
from tests.databases import drivers, url_of
from tests.interleaving import PATIENCE, Act, Client, Gate, Group, start, together

pytestmark = pytest.mark.anyio

VISITORS = 64
GROUPING = ("sqlite", "psycopg", "asyncpg")


@pytest.fixture
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


class Watched:
    """Counts a store's commits, and holds the first one up where a test wants it."""

    def __init__(self, store: Any) -> None:
        self.single = 0
        self.groups: list[int] = []
        self._gate: Gate | None = None
        if hasattr(store, "agroup"):
            self._watch_async(store)
        else:
            self._watch(store)

    def hold_next(self) -> Gate:
        self._gate = Gate()
        return self._gate

    def _noted(self, calls: list[Call] | None) -> Gate | None:
        if calls is None:
            self.single += 1
        else:
            self.groups.append(len(calls))
        gate, self._gate = self._gate, None
        return gate

    def _watch(self, store: Any) -> None:
        once, group = store._once, store.group

        def watched_once(method: Any, reading: bool, *args: Any, **more: Any) -> Any:
            gate = None if reading else self._noted(None)
            if gate is not None:
                gate.hold()
            return once(method, reading, *args, **more)

        def watched_group(calls: list[Call]) -> Any:
            gate = self._noted(calls)
            if gate is not None:
                gate.hold()
            return group(calls)

        store._once, store.group = watched_once, watched_group

    def _watch_async(self, store: Any) -> None:
        once, group = store._once, store.agroup

        async def watched_once(method: Any, reading: bool, *args: Any, **more: Any) -> Any:
            gate = None if reading else self._noted(None)
            if gate is not None:
                await gate.ahold()
            return await once(method, reading, *args, **more)

        async def watched_group(calls: list[Call]) -> Any:
            gate = self._noted(calls)
            if gate is not None:
                await gate.ahold()
            return await group(calls)

        store._once, store.agroup = watched_once, watched_group


class Site:
    def __init__(self, manager: SessionManager) -> None:
        self.manager = manager
        self.clients: list[Client] = []

    async def open(self, count: int = VISITORS) -> Watched:
        """That many sessions; then their store is watched."""
        for number in range(count):
            client = Client(self.manager)
            assert (await client.visit(storing(number=number))).status == 200
            self.clients.append(client)
        return Watched(self.manager.store.store)

    async def contents(self) -> list[dict[str, Any]]:
        self.manager.store.cache.clear()
        return [await client.content() for client in self.clients]


@pytest.fixture
def make_site(
    driver: str, request: pytest.FixtureRequest, managers: Managers, table_name: str
) -> Callable[..., Site]:
    def make(**settings: Any) -> Site:
        url = url_of(driver, request)
        return Site(managers(store=url, table_name=table_name, **settings))

    return make


@drivers(*GROUPING)
async def test_saves_that_come_while_one_is_committed_share_the_next_commit(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine, nobody takes it for a commit that hangs.
    for runner in (thread_runner, loop_runner):
        monkeypatch.setattr(runner, "PATIENCE", PATIENCE)
    site = make_site()
    watched = await site.open()
    gate = watched.hold_next()
    stored: list[int] = []

    def storing_and_telling(number: int) -> Act:
        def act(session: Session) -> None:
            session["a"] = number
            stored.append(number)

        return act

    async with Group() as group:
        first = start(group, site.clients[0].visit(storing(a=0)))
        await gate.reached()
        others = [
            start(group, client.visit(storing_and_telling(number)))
            for number, client in enumerate(site.clients[1:], 1)
        ]
        with anyio.fail_after(PATIENCE):
            # Some may have to read first, in threads: then their tasks look blocked too.
            while len(stored) < len(others):
                await anyio.sleep(0.001)
        await anyio.wait_all_tasks_blocked()
        gate.open()
        answers = [await one.answer() for one in (first, *others)]

    assert {answer.status for answer in answers} == {200}
    assert (watched.single, sum(watched.groups)) == (1, VISITORS - 1)
    assert len(watched.groups) <= 4
    assert await site.contents() == [{"number": n, "a": n} for n in range(VISITORS)]


@drivers(*GROUPING)
async def test_a_response_waits_for_the_commit_of_its_own_save(
    make_site: Callable[..., Site], driver: str, table_name: str, request: pytest.FixtureRequest
) -> None:
    site = make_site()
    await site.open()
    fixture = "sqlite_url" if driver == "sqlite" else "postgres_url"
    engine = create_engine(request.getfixturevalue(fixture))
    seen: list[int] = []

    def versions() -> int:
        with engine.connect() as connection:
            query = text(f"SELECT count(*) FROM {table_name} WHERE version > 1")
            return int(connection.execute(query).scalar_one())

    async def visit(client: Client) -> Answer:
        answer = await client.visit(storing(a=1))
        answered.append(client)
        # Before the thread looks: others are answered while it does.
        count = len(answered)
        if count in (1, VISITORS // 2, VISITORS):
            seen.append(await anyio.to_thread.run_sync(versions) - count)
        return answer

    answered: list[Client] = []
    await together(*(visit(client) for client in site.clients))
    assert min(seen) >= 0
    engine.dispose()


@drivers(*GROUPING)
async def test_of_a_shared_commit_a_cancelled_request_harms_no_other(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    watched = await site.open(20)
    gate = watched.hold_next()
    scopes = [anyio.CancelScope() for _ in site.clients]

    async def visit(number: int) -> Answer | None:
        with scopes[number]:
            return await site.clients[number].visit(storing(a=number))
        return None

    answers: dict[int, Answer | None] = {}

    async def note(number: int) -> None:
        answers[number] = await visit(number)

    with anyio.fail_after(PATIENCE):
        async with Group() as group:
            for number in range(20):
                group.start_soon(note, number)
            await gate.reached()
            await anyio.sleep(0.01)
            for scope in scopes[::3]:
                scope.cancel()
            await anyio.sleep(0.01)
            gate.open()

    alive = [number for number in range(20) if number % 3]
    assert {each.status for number in alive if (each := answers[number])} == {200}
    assert all(answers[number] for number in alive)
    await anyio.sleep(0.1)
    contents = await site.contents()
    assert [contents[number]["a"] for number in alive] == alive
    # Those that were cancelled are as before or as wanted, and can be used.
    assert all(content["number"] == number for number, content in enumerate(contents))
    assert {(await client.visit(storing(b=1))).status for client in site.clients} == {200}


@drivers("psycopg", "asyncpg")
async def test_who_shares_a_commit_with_a_locked_row_is_not_held_up(
    make_site: Callable[..., Site], table_name: str, postgres_url: str
) -> None:
    site = make_site(store_timeout=5.0)
    await site.open(12)
    engine = create_engine(postgres_url)
    lock = f"SELECT id FROM {table_name} ORDER BY id LIMIT 1 FOR UPDATE"
    with engine.connect() as connection:
        await anyio.to_thread.run_sync(lambda: connection.execute(text(lock)).all())
        async with Group() as group:
            locked = start(group, site.clients[0].visit(storing(a=0)))
            others = [start(group, client.visit(storing(a=1))) for client in site.clients[1:]]
            with anyio.fail_after(2):
                answers = [await other.answer() for other in others]
            assert {answer.status for answer in answers} == {200}
            await anyio.to_thread.run_sync(connection.rollback)
            assert (await locked.answer()).status == 200
    engine.dispose()
    assert (await site.contents())[0] == {"number": 0, "a": 0}


@drivers(*GROUPING)
async def test_who_waits_behind_a_commit_that_hangs_is_served_all_the_same(
    make_site: Callable[..., Site], driver: str
) -> None:
    """But on SQLite, where only one can write."""
    site = make_site(store_timeout=5.0)
    watched = await site.open(3)
    gate = watched.hold_next()
    async with Group() as group:
        stuck = start(group, site.clients[0].visit(storing(a=0)))
        await gate.reached()
        if driver != "sqlite":
            with anyio.fail_after(2):
                answers = await together(*(c.visit(storing(a=1)) for c in site.clients[1:]))
            assert {answer.status for answer in answers} == {200}
        gate.open()
        assert (await stuck.answer()).status == 200


@drivers(*GROUPING)
async def test_a_lone_save_is_one_statement_and_no_transaction_around_it(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    watched = await site.open(3)
    for client in site.clients:
        assert (await client.visit(storing(a=1))).status == 200
    assert (watched.single, watched.groups) == (3, [])


@drivers("sqlite", "psycopg")
def test_threads_share_commits_too(
    driver: str, request: pytest.FixtureRequest, table_name: str
) -> None:
    manager = SessionManager(
        secret_key="x" * 40,
        store=url_of(driver, request),
        table_name=table_name,
        purge_interval=None,
        store_timeout=10,
    )
    visitors = [Visitor(manager) for _ in range(32)]
    for visitor in visitors:
        visitor.visit(storing(n=0))
    watched = Watched(manager.store.store)
    barrier = threading.Barrier(len(visitors))

    def work(visitor: Visitor) -> None:
        for number in range(1, 11):
            session = visitor.open()
            session["n"] = number
            barrier.wait(PATIENCE)
            visitor.close(session)

    with ThreadPoolExecutor(len(visitors)) as pool:
        list(pool.map(work, visitors))

    manager.store.cache.clear()
    assert [visitor.content() for visitor in visitors] == [{"n": 10}] * len(visitors)
    assert watched.single + sum(watched.groups) == 320
    assert max(watched.groups) > 1
    assert watched.single + len(watched.groups) < 320
    manager.shutdown()
