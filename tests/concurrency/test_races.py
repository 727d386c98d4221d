"""Each known race of two requests, its interleaving written out: R is slow, S comes between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sessionware import Session
from sessionware.errors import SessionGone
from tests.apps import attributes
from tests.byhand import Clock, deleting, in_turn, login, storing
from tests.concurrency.scene import Scene
from tests.interleaving import (
    Act,
    Client,
    Gate,
    Group,
    Step,
    held_after,
    held_before,
    paused,
    preceded_by,
    start,
    together,
)

pytestmark = pytest.mark.anyio


def logout(session: Session) -> None:
    session.invalidate()


def rotate(session: Session) -> None:
    session.rotate()


def clear(session: Session) -> None:
    session.clear()


def expect_nothing(session: Session) -> None:
    assert not session


async def overtaken(client: Client, slow: Act, *between: Act) -> Any:
    """R loads its session; the other requests come and go; then R acts. R's answer."""
    gate = Gate()
    async with Group() as group:
        request = start(group, client.twin().visit(paused(gate, slow)))
        await gate.reached()
        for act in between:
            assert (await client.visit(act)).status == 200
        gate.open()
    answer = await request.answer()
    assert answer.status == 200
    return answer


async def test_a_parallel_writer_keeps_its_keys_and_leaves_the_others_alone(scene: Scene) -> None:
    client = await scene.session(storing(old=0, same=0))
    answer = await overtaken(client, storing(r=1, same="r"), storing(s=2, same="s"))
    assert await client.content() == {"old": 0, "same": "r", "r": 1, "s": 2}
    assert answer.set_cookies == []
    assert scene.kinds().count("conflict") == 1


async def test_a_key_deleted_in_one_request_stays_deleted_when_another_writes(
    scene: Scene,
) -> None:
    client = await scene.session(storing(a=1, b=2))
    await overtaken(client, deleting("a"), storing(c=3))
    await overtaken(client, storing(d=4), deleting("b"))
    assert await client.content() == {"c": 3, "d": 4}


async def test_a_nested_change_is_merged_by_its_key(scene: Scene) -> None:
    client = await scene.session(storing(cart=["tea"], seen=1))
    await overtaken(client, lambda session: session["cart"].append("milk"), storing(seen=2))
    assert await client.content() == {"cart": ["tea", "milk"], "seen": 2}


async def test_a_writer_that_loses_three_times_wins_under_the_row_lock(scene: Scene) -> None:
    client = await scene.session(storing(start=0))
    rival = scene.elsewhere(client)
    for turn in range(3):
        write = storing(**{f"rival{turn}": turn})
        scene.store.script("replace", preceded_by(lambda write=write: rival.visit(write)))  # type: ignore[misc]
    before = scene.store.calls["replace"]
    assert (await client.visit(storing(mine=1))).status == 200
    assert scene.store.calls["replace"] - before == 3
    assert scene.store.calls["alter"] == 1
    assert await client.content() == {"start": 0, "mine": 1, "rival0": 0, "rival1": 1, "rival2": 2}


async def test_a_writer_that_loses_to_a_logout_under_the_row_lock_is_dropped(scene: Scene) -> None:
    client = await scene.session(storing(start=0))
    rival = scene.elsewhere(client)
    for turn in range(3):
        write = storing(rival=turn)
        scene.store.script("replace", preceded_by(lambda write=write: rival.visit(write)))  # type: ignore[misc]
    scene.store.script("alter", preceded_by(lambda: rival.visit(logout)))
    answer = await client.visit(storing(mine=1))
    assert (answer.status, answer.set_cookies, scene.rows()) == (200, [], 0)
    assert scene.kinds()[-1] == "stale_save_dropped"


@pytest.mark.parametrize("end", [logout, clear, deleting("a")], ids=["logout", "clear", "deleted"])
async def test_a_save_after_the_end_brings_nothing_back(scene: Scene, end: Act) -> None:
    client = await scene.session(storing(a=1))
    old = client.token
    answer = await overtaken(client, storing(late=1), end)
    assert (answer.set_cookies, scene.rows(), client.token) == ([], 0, None)
    assert scene.kinds()[-1] == "stale_save_dropped"
    client.token = old
    assert await client.content() == {}


async def test_an_explicit_save_after_the_end_says_so(scene: Scene) -> None:
    async def save(session: Session) -> None:
        session["late"] = 1
        with pytest.raises(SessionGone):
            await session.asave()

    client = await scene.session(storing(a=1))
    await overtaken(client, save, logout)
    assert scene.rows() == 0


async def test_a_logout_after_a_rotation_ends_the_session_all_the_same(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    answer = await overtaken(client, logout, rotate)
    assert scene.rows() == 0
    assert "expires" in attributes(answer.set_cookie)
    assert await client.content() == {}


async def test_a_second_logout_of_the_same_session_sends_no_cookie(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    answer = await overtaken(client, logout, logout)
    assert answer.set_cookies == []


async def test_writing_after_the_end_of_a_session_that_is_gone_makes_no_new_one(
    scene: Scene,
) -> None:
    client = await scene.session(storing(a=1))
    answer = await overtaken(client, in_turn(logout, storing(b=2)), logout)
    assert (answer.set_cookies, scene.rows()) == ([], 0)


async def test_a_rotation_drops_what_a_request_under_way_writes(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    answer = await overtaken(client, storing(late=1), rotate)
    assert answer.set_cookies == []
    assert await client.content() == {"a": 1}
    assert scene.kinds()[-1] == "stale_save_dropped"


@pytest.mark.parametrize("act", [storing(x=1), login("mallory"), rotate, clear, logout])
async def test_an_id_that_was_just_rotated_away_saves_nothing_and_gets_no_cookie(
    scene: Scene, act: Act
) -> None:
    client = await scene.session(storing(a=1))
    late = client.twin()
    await client.visit(rotate)
    answer = await late.visit(in_turn(expect_nothing, act))
    assert (answer.status, answer.set_cookies, scene.rows()) == (200, [], 1)
    assert await client.content() == {"a": 1}
    assert "retired_id_used" in scene.kinds()


async def test_the_other_worker_refuses_an_id_that_was_just_rotated_away(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    late = scene.elsewhere(client)
    assert late.content() == {"a": 1}
    await client.visit(rotate)
    assert "Set-Cookie" not in late.visit(storing(x=1))
    assert (late.content(), scene.rows()) == ({}, 1)


@pytest.mark.parametrize(
    "between", [rotate, logout, clear, login("bob")], ids=["rotate", "logout", "clear", "login"]
)
async def test_a_late_response_never_sets_or_erases_a_cookie(
    scene: Scene, clock: Clock, between: Act
) -> None:
    scene.settings = {"rolling": True, "max_age": 3600}
    client = await scene.session(storing(a=1))
    clock.tick(1800)
    answer = await overtaken(client, dict, between)
    assert answer.set_cookies == []


async def test_a_late_touch_does_not_bring_an_ended_session_back(
    scene: Scene, clock: Clock
) -> None:
    scene.settings = {"idle_timeout": 1800, "coherence": "bounded"}
    client = await scene.session(storing(a=1))
    late = client.twin()
    clock.tick(900)
    gate = Gate()
    scene.store.script("touch", held_before(gate))
    async with Group() as group:
        request = start(group, late.visit())
        await gate.reached()
        token = client.token
        await client.visit(logout)
        gate.open()
    assert (await request.answer()).set_cookies == []
    client.token = token
    assert (await client.content(), scene.rows()) == ({}, 0)


SWITCHES: dict[str, tuple[Act, ...]] = {
    "at once": (login("bob"),),
    "through a logout that keeps the session": (deleting("user_id"), login("bob")),
    "through clear": (in_turn(clear, login("bob")),),
    "through invalidate": (logout, login("bob")),
}


@pytest.mark.parametrize("between", SWITCHES.values(), ids=SWITCHES)
async def test_nothing_of_one_user_gets_into_the_session_of_the_next(
    scene: Scene, between: tuple[Act, ...]
) -> None:
    client = await scene.session(in_turn(login("alice"), storing(hers=1)))
    answer = await overtaken(client, storing(role="alice's", cart=["alice's"]), *between)
    assert answer.set_cookies == []
    assert await client.content() == {"user_id": "bob"}


async def test_the_late_login_of_one_user_does_not_end_up_in_the_session_of_another(
    scene: Scene,
) -> None:
    client = await scene.session(storing(cart=[1]))
    answer = await overtaken(client, login("alice"), login("bob"))
    assert answer.set_cookies == []
    assert await client.content() == {"cart": [1], "user_id": "bob"}


async def test_clear_takes_what_a_parallel_request_wrote_before(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    await overtaken(client, in_turn(clear, storing(new=1)), storing(s=2))
    assert await client.content() == {"new": 1}


async def test_clear_drops_what_a_parallel_request_writes_afterwards(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    await overtaken(client, storing(r=2), in_turn(clear, storing(new=1)))
    assert await client.content() == {"new": 1}


async def test_clear_that_leaves_nothing_ends_what_a_parallel_request_wrote(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    answer = await overtaken(client, clear, storing(s=2))
    assert scene.rows() == 0
    assert "expires" in attributes(answer.set_cookie)


async def test_deleting_the_last_key_spares_what_a_parallel_request_adds(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    answer = await overtaken(client, deleting("a"), storing(b=2))
    assert answer.set_cookies == []
    assert await client.content() == {"b": 2}


async def test_parallel_first_visits_get_a_session_each(scene: Scene) -> None:
    gate = Gate()
    scene.store.script("insert", held_before(gate))
    clients = [Client(scene.here) for _ in range(10)]
    async with Group() as group:
        first = start(group, clients[0].visit(storing(who=0)))
        await gate.reached()
        await together(
            *(client.visit(storing(who=who)) for who, client in enumerate(clients) if who)
        )
        gate.open()
    assert (await first.answer()).status == 200
    assert [await client.content() for client in clients] == [{"who": who} for who in range(10)]
    assert scene.rows() == 10


ONE_WINNER: list[tuple[Act, dict[str, object]]] = [
    (rotate, {"a": 1}),
    (login("alice"), {"a": 1, "user_id": "alice"}),
]


@pytest.mark.parametrize("hold", [held_before, held_after])
@pytest.mark.parametrize(("act", "content"), ONE_WINNER, ids=["rotate", "login"])
async def test_of_two_parallel_rotations_one_wins_and_the_browser_has_its_cookie(
    scene: Scene, act: Act, content: dict[str, object], hold: Callable[[Gate], Step]
) -> None:
    client = await scene.session(storing(a=1))
    other = client.twin()
    gate, other_gate = Gate(), Gate()
    scene.store.script("rotate", hold(gate))
    async with Group() as group:
        second = start(group, other.visit(paused(other_gate, act)))
        await other_gate.reached()
        first = start(group, client.visit(act))
        await gate.reached()
        other_gate.open()
        await second.answer()
        gate.open()
    answers = [await first.answer(), await second.answer()]
    winner = hold is held_before
    assert [len(answer.set_cookies) for answer in answers] == [not winner, winner]
    assert await (client, other)[winner].content() == content
    assert scene.rows() == 1


async def test_sessions_of_one_user_on_two_devices_are_two(scene: Scene) -> None:
    one, two = Client(scene.here), Client(scene.here)
    await together(one.visit(login("alice")), two.visit(login("alice")))
    assert (one.token != two.token, scene.rows()) == (True, 2)
    await one.visit(logout)
    assert await two.content() == {"user_id": "alice"}


async def test_a_save_overtaken_by_a_touch_does_not_cut_the_lifetime_short(
    scene: Scene, clock: Clock
) -> None:
    scene.settings = {"rolling": True, "max_age": 3600}
    client = await scene.session(storing(a=1))
    clock.tick(300)
    gate = Gate()
    scene.store.script("replace", held_before(gate))
    async with Group() as group:
        save = start(group, client.twin().visit(storing(b=2)))
        await gate.reached()
        clock.tick(100)
        touching = await client.visit()
        gate.open()
    assert touching.set_cookies
    assert (await save.answer()).status == 200
    row = scene.memory.reload(1)
    assert row is not None
    assert row.expires_at == clock.now + 3600 * 1000
    assert await client.content() == {"a": 1, "b": 2}


async def test_clear_that_leaves_nothing_spares_the_login_that_came_between(scene: Scene) -> None:
    client = await scene.session(storing(a=1))
    answer = await overtaken(client, clear, login("bob"))
    assert answer.set_cookies == []
    assert await client.content() == {"a": 1, "user_id": "bob"}
