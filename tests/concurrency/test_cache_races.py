"""Readers, writers, a cache between: nothing older than an acknowledged change is served."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sessionware import Session
from sessionware.errors import StoreUnavailable
from tests.byhand import storing
from tests.concurrency.scene import Scene
from tests.interleaving import (
    Act,
    Client,
    Gate,
    Group,
    held_after,
    held_before,
    paused,
    start,
    together,
)

pytestmark = pytest.mark.anyio

MODES = ["validate", "bounded"]
READERS = 500


@pytest.fixture(params=MODES)
def modal(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """The scene in each mode of coherence."""
    scene.settings["coherence"] = request.param
    return scene


async def cold(scene: Scene, **content: Any) -> Client:
    """A browser whose session is in the store, and not in the cache of worker ``here``."""
    writer = Client(scene.there)
    await writer.visit(storing(**content))
    return Client(scene.here, writer.token)


def logout(session: Session) -> None:
    session.invalidate()


async def read_meanwhile(scene: Scene, client: Client, act: Act, late: int = 0) -> list[Any]:
    """A reader has its row from the store; a change is acknowledged; then the reader goes on.

    What the reader saw, and those who came after the acknowledgement while the reader was held.
    """
    read, slow = Gate(), Gate()
    async with Group() as group:
        writer = start(group, client.twin().visit(paused(slow, act)))
        await slow.reached()
        scene.here.store.cache.clear()
        scene.store.script("load", held_after(read))
        readers = [start(group, client.twin().visit())]
        await read.reached()
        slow.open()
        assert (await writer.answer()).status == 200
        readers += [start(group, client.twin().visit()) for _ in range(late)]
        await anyio.wait_all_tasks_blocked()
        read.open()
    return [(await reader.answer()).json() for reader in readers]


CHANGES: dict[str, tuple[Act, dict[str, Any]]] = {
    "change": (storing(a="new"), {"a": "new"}),
    "logout": (logout, {}),
}


@pytest.mark.parametrize(("act", "left"), CHANGES.values(), ids=CHANGES)
async def test_a_row_read_before_a_change_does_not_get_into_the_cache_after_it(
    modal: Scene, act: Act, left: dict[str, Any]
) -> None:
    client = await cold(modal, a="old")
    assert await read_meanwhile(modal, client, act) == [{"a": "old"}]
    assert await client.content() == left


@pytest.mark.parametrize(("act", "left"), CHANGES.values(), ids=CHANGES)
async def test_who_comes_after_a_change_is_acknowledged_does_not_share_a_read_begun_before(
    modal: Scene, act: Act, left: dict[str, Any]
) -> None:
    client = await cold(modal, a="old")
    assert await read_meanwhile(modal, client, act, late=3) == [{"a": "old"}, left, left, left]


async def test_a_write_whose_answer_comes_late_does_not_hide_the_one_after_it(
    modal: Scene,
) -> None:
    client = await modal.session(storing(a=0))
    gate = Gate()
    modal.store.script("replace", held_after(gate))
    async with Group() as group:
        first = start(group, client.twin().visit(storing(a="first")))
        await gate.reached()
        assert (await client.visit(storing(a="second"))).status == 200
        gate.open()
        await first.answer()
    assert await client.content() == {"a": "second"}


async def test_a_rotation_whose_answer_comes_late_does_not_bring_back_what_a_logout_ended(
    modal: Scene,
) -> None:
    client = await modal.session(storing(a=0))
    gate, slow = Gate(), Gate()
    rotating = client.twin()
    modal.store.script("rotate", held_after(gate))
    async with Group() as group:
        leaver = start(group, client.visit(paused(slow, logout)))
        await slow.reached()
        start(group, rotating.visit(lambda session: session.rotate()))
        await gate.reached()
        slow.open()
        await leaver.answer()
        gate.open()
    assert modal.rows() == 0
    if modal.settings["coherence"] == "validate":
        assert await rotating.content() == {}


async def test_a_change_in_one_worker_is_seen_at_once_in_another_that_has_it_cached(
    scene: Scene,
) -> None:
    client = await scene.session(storing(a="old"))
    assert await client.content() == {"a": "old"}
    scene.elsewhere(client).visit(storing(a="new"))
    assert await client.content() == {"a": "new"}
    scene.elsewhere(client).visit(logout)
    assert await client.content() == {}


async def test_a_writer_with_a_stale_cache_merges_with_what_the_other_worker_wrote(
    scene: Scene,
) -> None:
    scene.settings["coherence"] = "bounded"
    client = await scene.session(storing(a=0))
    scene.elsewhere(client).visit(storing(there=1))
    answer = await client.visit(storing(here=1))
    assert answer.status == 200
    assert await client.content() == {"a": 0, "there": 1, "here": 1}


# Trio has no tasks outside of a request in which a read that is shared could run as a coroutine.
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@on_asyncio
async def test_cold_readers_of_one_session_share_their_reads(modal: Scene) -> None:
    client = await cold(modal, a=1)
    gate = Gate()
    modal.store.script("load", held_before(gate))
    async with Group() as group:
        first = start(group, client.twin().visit())
        await gate.reached()
        others = [start(group, client.twin().visit()) for _ in range(READERS - 1)]
        await anyio.wait_all_tasks_blocked()
        gate.open()
    answers = [await one.answer() for one in (first, *others)]
    assert [answer.json() for answer in answers] == [{"a": 1}] * READERS
    assert modal.store.calls["load"] == 1
    # With validation the late ones ask, and share that too, whether the row still stands.
    assert modal.store.calls["stamp"] <= READERS // 10


@on_asyncio
async def test_cold_readers_that_come_at_once_make_very_few_reads(modal: Scene) -> None:
    client = await cold(modal, a=1)
    answers = await together(*(client.twin().visit() for _ in range(READERS)))
    assert [answer.json() for answer in answers] == [{"a": 1}] * READERS
    assert modal.store.calls["load"] <= 2
    assert modal.store.calls["stamp"] <= READERS // 10


async def test_a_cancelled_reader_harms_none_who_waits_for_the_same_read(modal: Scene) -> None:
    client = await cold(modal, a=1)
    gate = Gate()
    modal.store.script("load", held_before(gate))
    doomed = anyio.CancelScope()

    async def first() -> None:
        with doomed:
            await client.twin().visit()

    async with Group() as group:
        group.start_soon(first)
        await gate.reached()
        others = [start(group, client.twin().visit()) for _ in range(5)]
        await anyio.wait_all_tasks_blocked()
        doomed.cancel()
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert [(await one.answer()).json() for one in others] == [{"a": 1}] * 5
    assert await client.content() == {"a": 1}


async def test_a_read_that_fails_fails_for_those_who_shared_it_and_for_no_one_after(
    modal: Scene,
) -> None:
    client = await cold(modal, a=1)
    gate = Gate()

    def failing(do: Any) -> Any:
        gate.hold()
        raise ConnectionError("a defect in the store")

    modal.store.script("load", failing)
    async with Group() as group:
        first = start(group, client.twin().visit(may_fail=True))
        await gate.reached()
        other = start(group, client.twin().visit(may_fail=True))
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert (await first.answer()).status == 500
    assert (await other.answer()).json() == {"a": 1}
    assert await client.content() == {"a": 1}


async def test_what_one_request_does_to_its_copy_is_not_seen_by_another(modal: Scene) -> None:
    client = await modal.session(storing(cart=["tea"]))
    gate = Gate()

    def spoil(session: Session) -> None:
        session["cart"].append("poison")
        raise RuntimeError("this change is discarded")

    async with Group() as group:
        slow = start(group, client.twin().visit(paused(gate, dict)))
        await gate.reached()
        await client.twin().visit(spoil, may_fail=True)
        fresh = await client.twin().visit()
        gate.open()
    assert (await slow.answer()).json() == fresh.json() == {"cart": ["tea"]}
    assert await client.content() == {"cart": ["tea"]}


async def test_a_saved_object_that_the_handler_keeps_and_changes_is_not_seen_by_another(
    modal: Scene,
) -> None:
    kept = ["tea"]
    client = await modal.session(storing(cart=kept))
    kept.append("poison")
    assert await client.content() == {"cart": ["tea"]}


@on_asyncio
async def test_who_waits_for_the_read_of_another_does_not_wait_twice(scene: Scene) -> None:
    """The shared read fails late in the time-out; the reader's own attempt gets the rest of it."""
    scene.settings["store_timeout"] = 1
    client = await cold(scene, a=1)
    first, second = Gate(), Gate()

    def failing(do: Any) -> Any:
        first.hold()
        raise StoreUnavailable("at last")

    scene.store.script("load", failing, held_before(second))
    async with Group() as group:
        start(group, client.twin().visit())
        await first.reached()
        began = anyio.current_time()
        late = start(group, client.twin().visit())
        await anyio.sleep(0.8)
        first.open()
        assert (await late.answer()).status == 503
        waited = anyio.current_time() - began
        second.open()
    assert waited < 1.5
