"""A request that is cancelled in the middle leaves the state before or after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from sessionware import Session
from tests.byhand import login, storing
from tests.concurrency.scene import Scene
from tests.interleaving import (
    PATIENCE,
    Act,
    Do,
    Gate,
    Group,
    Step,
    held_after,
    held_before,
    paused,
)

pytestmark = pytest.mark.anyio


def logout(session: Session) -> None:
    session.invalidate()


async def incr(session: Session) -> None:
    await session.aincr("n")


async def take(session: Session) -> None:
    await session.atake("n", None)


CHANGES: dict[str, tuple[Act, str, dict[str, Any]]] = {
    "save": (storing(b=2), "replace", {"n": 1, "b": 2}),
    "incr": (incr, "replace", {"n": 2}),
    "login": (login("alice"), "rotate", {"n": 1, "user_id": "alice"}),
    "logout": (logout, "remove", {}),
    "take": (take, "remove", {}),
}


@pytest.mark.parametrize("hold", [held_before, held_after])
@pytest.mark.parametrize(("act", "method", "after"), CHANGES.values(), ids=CHANGES)
async def test_a_request_cancelled_in_its_commit_has_committed_in_the_end(
    scene: Scene, act: Act, method: str, after: dict[str, Any], hold: Callable[[Gate], Step]
) -> None:
    client = await scene.session(storing(n=1))
    gate = Gate()
    scene.store.script(method, hold(gate))
    scope = anyio.CancelScope()

    async def doomed() -> None:
        with scope:
            await client.twin().visit(act)

    async with Group() as group:
        group.start_soon(doomed)
        await gate.reached()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        gate.open()
    with anyio.fail_after(PATIENCE):
        while scene.memory.reload(1) is not None and scene.content(1) != after:
            await anyio.sleep(0.001)
    assert scene.rows() == bool(after)
    assert await client.content() == ({} if method == "rotate" else after)


async def test_a_request_cancelled_in_its_handler_changes_nothing(scene: Scene) -> None:
    client = await scene.session(storing(n=1))
    gate = Gate()
    scope = anyio.CancelScope()

    async def doomed() -> None:
        with scope:
            await client.twin().visit(paused(gate, storing(b=2)))

    async with Group() as group:
        group.start_soon(doomed)
        await gate.reached()
        scope.cancel()
    assert await client.content() == {"n": 1}


async def test_a_shutdown_lets_a_commit_whose_request_is_gone_come_to_its_end(
    scene: Scene,
) -> None:
    client = await scene.session(storing(n=1))
    gate = Gate()
    order: list[str] = []

    def replace(do: Do) -> Any:
        answer = held_before(gate)(do)
        order.append("committed")
        return answer

    scene.store.script("replace", replace)
    scene.store.script("close", lambda do: order.append("closed"))
    scope = anyio.CancelScope()

    async def doomed() -> None:
        with scope:
            await client.visit(storing(b=2))

    async with Group() as group:
        group.start_soon(doomed)
        await gate.reached()
        scope.cancel()
        group.start_soon(scene.here.ashutdown)
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert order == ["committed", "closed"]
    assert scene.content(1) == {"n": 1, "b": 2}
