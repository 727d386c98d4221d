"""The known races of a cache, in each mode of coherence, with the interleaving written out.

Worker ``there`` is a real store and does its steps at once; worker ``here`` is held at the gates.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from sessionware import Session, SessionManager
from sessionware.coherence import Validate
from sessionware.stores import CachedStore
from sessionware.stores.sql import SQLStore
from tests.apps import SECRET
from tests.byhand import storing
from tests.coherence.helping import PATIENCE
from tests.interleaving import (
    Act,
    Client,
    Gate,
    Group,
    Scripted,
    held_after,
    held_before,
    paused,
    start,
)

pytestmark = pytest.mark.anyio
MODES = [
    pytest.param("stamps"),
    pytest.param("notify", marks=pytest.mark.postgres),
    pytest.param("validate"),
]


@pytest.fixture
def anyio_backend() -> str:
    """The runner of threads is the same on trio; tests/concurrency plays races on both."""
    return "asyncio"


class OnDatabase(Scripted):
    """A scripted store that shows its channel what it is."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        return super().__getattr__(name) if callable(value) else value


class Stage:
    """Two workers on one database; ``here`` goes through a script."""

    def __init__(self, mode: str, url: str, table_name: str) -> None:
        self.script = OnDatabase(SQLStore(url, table_name=table_name))
        self.here = self._manager(self.script, mode)
        self.there = self._manager(SQLStore(url, table_name=table_name), mode)

    def _manager(self, store: Any, mode: str) -> SessionManager:
        return SessionManager(
            secret_key=SECRET,
            purge_interval=None,
            store=CachedStore(store, coherence=mode, store_timeout=PATIENCE),
            store_timeout=PATIENCE,
        )

    async def session(self, **content: Any) -> Client:
        """A browser with a session, at worker ``there``; worker ``here`` has not seen it."""
        client = Client(self.there)
        assert (await client.visit(storing(**content))).status == 200
        # The channels are up before the play begins.
        for manager in (self.here, self.there):
            with anyio.fail_after(PATIENCE):
                while not (
                    manager.store.channel.alive or isinstance(manager.store.channel, Validate)
                ):
                    await Client(manager, client.token).visit()
                    await anyio.sleep(0.005)
        self.here.store.cache.clear()
        return client

    def at(self, manager: SessionManager, client: Client) -> Client:
        return Client(manager, client.token)

    async def close(self) -> None:
        for manager in (self.here, self.there):
            await manager.ashutdown()


@pytest.fixture(params=MODES)
async def stage(request: pytest.FixtureRequest, anyio_backend: Any) -> AsyncIterator[Stage]:
    url = request.getfixturevalue("postgres_url" if request.param == "notify" else "sqlite_url")
    made = Stage(request.param, url, request.getfixturevalue("table_name"))
    yield made
    await made.close()


async def soon(client: Client, wanted: Any) -> None:
    """With messages in between, it takes milliseconds."""
    with anyio.fail_after(1):
        while await client.content() != wanted:
            await anyio.sleep(0.002)


async def stays(client: Client, wanted: Any) -> None:
    await soon(client, wanted)
    for _ in range(5):
        assert await client.content() == wanted


def logout(session: Session) -> None:
    session.invalidate()


def rotate(session: Session) -> None:
    session.rotate()


CHANGES: dict[str, tuple[Act, Callable[[], Any]]] = {
    "change": (storing(n=2), lambda: {"n": 2}),
    "logout": (logout, dict),
    "rotation": (rotate, dict),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_late_fill(stage: Stage, name: str) -> None:
    """here: reads the row | there: changes it, acknowledged | here: fills its cache."""
    act, wanted = CHANGES[name]
    client = await stage.session(n=1)
    late = stage.at(stage.here, client)
    gate = Gate()
    stage.script.script("load", held_after(gate))
    async with Group() as group:
        reader = start(group, late.twin().visit())
        await gate.reached()
        assert (await stage.at(stage.there, client).visit(act)).status == 200
        gate.open()
        assert (await reader.answer()).json() == {"n": 1}
    await stays(late, wanted())


@pytest.mark.parametrize("name", CHANGES)
async def test_late_validation(stage: Stage, name: str) -> None:
    """here: asks whether its cached row stands: yes | there: changes it | here: trusts it again."""
    act, wanted = CHANGES[name]
    client = await stage.session(n=1)
    late = stage.at(stage.here, client)
    await late.visit()
    # Make the slot move, as the change of another row in it would.
    await stage.at(stage.there, client).visit(storing(n=1, other=1))
    await stage.at(stage.there, client).visit(lambda session: session.pop("other"))
    stage.here.store.cache.clear()
    await late.visit()
    gate = Gate()
    stage.script.script("stamp", held_after(gate))
    channel: Any = stage.here.store.channel
    trusts = channel.trusts
    channel.trusts = lambda *_: False
    async with Group() as group:
        reader = start(group, late.twin().visit())
        await gate.reached()
        channel.trusts = trusts
        assert (await stage.at(stage.there, client).visit(act)).status == 200
        gate.open()
        await reader.answer()
    await stays(late, wanted())


async def test_save_after_delete(stage: Stage) -> None:
    """here: loads, works | there: logs out, acknowledged | here: saves."""
    client = await stage.session(n=1)
    gate = Gate()
    async with Group() as group:
        writer = start(group, stage.at(stage.here, client).visit(paused(gate, storing(n=2))))
        await gate.reached()
        assert (await stage.at(stage.there, client).visit(logout)).status == 200
        gate.open()
        answer = await writer.answer()
    assert answer.set_cookies == []
    for manager in (stage.here, stage.there):
        await stays(stage.at(manager, client), {})


async def test_rotation_under_a_request_in_flight(stage: Stage) -> None:
    """here: loads, works | there: rotates | here: saves under the old ID."""
    client = await stage.session(n=1)
    other = stage.at(stage.there, client)
    gate = Gate()
    async with Group() as group:
        writer = start(group, stage.at(stage.here, client).visit(paused(gate, storing(n=2))))
        await gate.reached()
        await other.visit(rotate)
        gate.open()
        answer = await writer.answer()
    assert answer.set_cookies == [], "it would bring the old ID back"
    for manager in (stage.here, stage.there):
        await stays(stage.at(manager, other), {"n": 1})
        await stays(stage.at(manager, client), {})


async def test_a_just_rotated_id_that_arrives_late(stage: Stage) -> None:
    """there: rotates | here, which has the old ID cached: a request with it, which writes."""
    client = await stage.session(n=1)
    late, other = stage.at(stage.here, client), stage.at(stage.there, client)
    await late.visit()
    await other.visit(rotate)
    await stays(late, {})
    answer = await late.visit(storing(n=9))
    assert answer.set_cookies == []
    for manager in (stage.here, stage.there):
        assert await stage.at(manager, other).content() == {"n": 1}


async def test_a_late_response_does_not_carry_an_old_cookie(stage: Stage) -> None:
    """here: a slow reader | there: logs in, which rotates | here: answers, without a cookie."""
    client = await stage.session(n=1)
    other = stage.at(stage.there, client)
    gate = Gate()
    async with Group() as group:
        reader = start(group, stage.at(stage.here, client).visit(paused(gate, dict)))
        await gate.reached()
        await other.visit(storing(user_id="alice"))
        gate.open()
        answer = await reader.answer()
    assert answer.set_cookies == []
    assert await stage.at(stage.here, other).content() == {"n": 1, "user_id": "alice"}


async def test_parallel_first_visits(stage: Stage) -> None:
    """Both come without a cookie and store something: two sessions, neither mixed nor cached as the
    other.
    """
    await stage.session(n=0)
    gate = Gate()
    stage.script.script("insert", held_before(gate))
    one, two = Client(stage.here), Client(stage.there)
    async with Group() as group:
        first = start(group, one.visit(storing(n=1)))
        await gate.reached()
        await two.visit(storing(n=2))
        gate.open()
        await first.answer()
    assert one.token != two.token
    for manager in (stage.here, stage.there):
        assert await stage.at(manager, one).content() == {"n": 1}
        assert await stage.at(manager, two).content() == {"n": 2}


async def test_a_write_whose_answer_comes_late_does_not_hide_the_one_after_it(
    stage: Stage,
) -> None:
    """here: commits, its answer is held | there: commits after it | here: caches what it wrote."""
    client = await stage.session(n=1)
    late = stage.at(stage.here, client)
    gate = Gate()
    method = "stamped" if stage.here.store.channel.ticket() is not None else "replace"
    stage.script.script(method, held_after(gate))
    async with Group() as group:
        writer = start(group, late.twin().visit(storing(n=2)))
        await gate.reached()
        assert (await stage.at(stage.there, client).visit(storing(n=3))).status == 200
        gate.open()
        await writer.answer()
    await stays(late, {"n": 3})
