"""The connection breaks in the commit: the effect comes once, or not at all, never twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sessionware import Session, SessionManager
from sessionware.errors import OutcomeUnknown
from tests.apps import Answer, attributes
from tests.byhand import Clock, login, storing
from tests.concurrency.scene import Scene
from tests.interleaving import (
    Act,
    Client,
    Do,
    Step,
    contended,
    followed_by,
    lost_after,
    lost_before,
    preceded_by,
)

pytestmark = pytest.mark.anyio

FAULTS: dict[str, Step] = {
    "before it is done": lost_before,
    "after it is done": lost_after,
    "by a deadlock": contended,
}


async def incr(session: Session) -> Any:
    return await session.aincr("n")


async def take(session: Session) -> Any:
    return await session.atake("once", "nothing")


def logout(session: Session) -> None:
    session.invalidate()


def clear(session: Session) -> None:
    session.clear()


def rotate(session: Session) -> None:
    session.rotate()


def empty(session: Session) -> None:
    for key in list(session):
        del session[key]


# What is asked for, the store's method that does it, and what is left.
CHANGES: dict[str, tuple[Act, str, dict[str, Any]]] = {
    "save": (storing(b=2), "replace", {"n": 1, "once": "otp", "b": 2}),
    "incr": (incr, "replace", {"n": 2, "once": "otp"}),
    "take": (take, "replace", {"n": 1}),
    "rotate": (rotate, "rotate", {"n": 1, "once": "otp"}),
    "login": (login("alice"), "rotate", {"n": 1, "once": "otp", "user_id": "alice"}),
    "logout": (logout, "remove", {}),
    "clear": (clear, "remove", {}),
    "empty": (empty, "remove", {}),
}

ANSWERS: dict[Act, Any] = {incr: 2, take: "otp"}


async def session(scene: Scene) -> Client:
    return await scene.session(storing(n=1, once="otp"))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize(("act", "method", "left"), CHANGES.values(), ids=CHANGES)
async def test_a_change_whose_commit_broke_once_is_made_once(
    scene: Scene, act: Act, method: str, left: dict[str, Any], fault: Step
) -> None:
    client = await session(scene)
    scene.store.script(method, fault)
    answer = await client.visit(act)
    assert scene.store.finished
    assert answer.status == 200
    assert answer.json() == ANSWERS.get(act)
    assert await client.content() == left
    assert (scene.rows(), client.token is None) == (bool(left), not left)


@pytest.mark.parametrize(("act", "method"), [each[:2] for each in CHANGES.values()], ids=CHANGES)
async def test_a_change_that_is_found_done_is_announced_again(
    scene: Scene, act: Act, method: str
) -> None:
    """It may have been done after the first announcement, and others have read in between."""
    client = await session(scene)
    steps: list[str] = []
    scene.here.store.listeners.append(lambda hashes: steps.append("announced"))
    found = preceded_by(lambda: steps.append("found done"))
    scene.store.script(method, preceded_by(lambda: scene.store.script("reload", found), lost_after))
    assert (await client.visit(act)).status == 200
    assert scene.store.finished
    assert steps == ["announced", "found done", "announced"]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_session_whose_insert_broke_once_is_one_session(scene: Scene, fault: Step) -> None:
    client = Client(scene.here)
    scene.store.script("insert", fault)
    assert (await client.visit(storing(a=1))).status == 200
    assert await client.content() == {"a": 1}
    assert scene.rows() == 1


@pytest.mark.parametrize("then", [None, contended], ids=["at once", "after a deadlock"])
async def test_an_insert_that_is_done_later_than_its_answer_was_lost_is_one_session(
    scene: Scene, then: Step | None
) -> None:
    """The server goes on with a statement when the connection is cut, and the next one waits."""
    left: list[Do] = []

    def lost_meanwhile(do: Do) -> Any:
        left.append(do)
        raise OutcomeUnknown("lost while it was done")

    client = Client(scene.here)
    scene.store.script("insert", lost_meanwhile, preceded_by(lambda: left[0](), then))

    assert (await client.visit(login("alice"))).status == 200

    assert scene.store.finished
    assert (await client.content())["user_id"] == "alice"
    assert scene.rows() == 1


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("name", ["save", "incr", "take"])
async def test_a_change_whose_commit_broke_under_the_row_lock_is_made_once_or_not_at_all(
    scene: Scene, name: str, fault: Step
) -> None:
    act, _, left = CHANGES[name]
    client = await session(scene)
    rival = scene.elsewhere(client)
    lose = preceded_by(lambda: rival.visit(lambda s: s.update(rival=s.get("rival", 0) + 1)))
    scene.store.script("replace", lose, lose, lose)
    scene.store.script("alter", fault)
    answer = await client.visit(act)
    assert scene.store.finished
    content = await client.content()
    assert content.pop("rival") == 3
    if answer.status == 503 and fault is not lost_after:
        assert content == {"n": 1, "once": "otp"}
    else:
        assert (answer.status, content) == (200, left)
        assert answer.json() == ANSWERS.get(act)


@pytest.mark.parametrize("tries", [0, 1, 2])
@pytest.mark.parametrize("times", [1, 2])
async def test_an_increment_is_not_repeated_when_it_can_not_be_told_whether_it_was_made(
    scene: Scene, tries: int, times: int
) -> None:
    client = await session(scene)
    rival = scene.elsewhere(client)

    def interfere() -> None:
        for _ in range(times):
            rival.visit(lambda s: s.update(rival=s.get("rival", 0) + 1))

    scene.store.script(
        "replace", *[preceded_by(interfere)] * tries, followed_by(interfere, lost_after)
    )
    answer = await client.visit(incr)
    assert scene.store.finished
    assert answer.status == 503
    assert (await client.content())["n"] == 2


async def test_a_save_that_can_not_be_told_from_others_is_made_again(scene: Scene) -> None:
    client = await session(scene)
    rival = scene.elsewhere(client)
    scene.store.script("replace", followed_by(lambda: rival.visit(storing(s=1)), lost_after))
    assert (await client.visit(storing(b=2))).status == 200
    assert await client.content() == {"n": 1, "once": "otp", "b": 2, "s": 1}


async def test_a_lost_touch_does_not_fail_the_request(scene: Scene, clock: Clock) -> None:
    scene.settings = {"idle_timeout": 1800}
    client = await session(scene)
    clock.tick(900)
    scene.store.script("touch", lost_before)
    assert (await client.visit()).status == 200
    clock.tick(600)
    scene.store.script("touch", lost_after)
    assert (await client.visit()).status == 200
    assert scene.store.finished


async def test_the_cookie_of_a_rotation_whose_answer_was_lost_is_the_new_one(scene: Scene) -> None:
    client = await session(scene)
    old = client.twin()
    scene.store.script("rotate", lost_after)
    await client.visit(rotate)
    assert client.token != old.token
    assert await old.content() == {}


async def test_the_cache_forgets_a_row_whose_change_is_not_certain(scene: Scene) -> None:
    scene.settings = {"coherence": "bounded"}
    client = await session(scene)
    scene.store.script("replace", *[lost_after] * 3)
    scene.store.script("reload", *[contended] * 3)
    answer: Answer = await client.visit(storing(b=2))
    assert answer.status == 503
    assert await client.content() == {"n": 1, "once": "otp", "b": 2}


async def test_a_logout_that_is_not_certain_is_not_answered_as_done(scene: Scene) -> None:
    client = await session(scene)
    scene.store.script("remove", *[lost_before] * 4)
    answer = await client.visit(logout)
    assert (answer.status, answer.set_cookies, scene.rows()) == (503, [], 1)
    answer = await client.visit(logout)
    assert "expires" in attributes(answer.set_cookie)
    assert scene.rows() == 0


async def revoke(manager: SessionManager) -> object:
    (info,) = await manager.alist_sessions("alice")
    return await manager.arevoke(info.handle, user_id="alice")


# What an operator or an application asks for, and the store's method that does it.
ENDINGS: dict[str, tuple[Callable[[SessionManager], Awaitable[object]], str]] = {
    "revoke": (revoke, "remove"),
    "revoke_user": (lambda manager: manager.arevoke_user("alice"), "remove_user"),
    "revoke_all": (lambda manager: manager.arevoke_all(), "remove_all"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize(("end", "method"), ENDINGS.values(), ids=ENDINGS)
async def test_sessions_are_ended_though_the_first_try_failed(
    scene: Scene,
    end: Callable[[SessionManager], Awaitable[object]],
    method: str,
    fault: Step,
) -> None:
    client = await scene.session(login("alice"))
    scene.store.script(method, fault)
    await end(scene.here)
    assert scene.store.finished
    assert await client.content() == {}
    assert scene.rows() == 0


async def test_a_value_is_deleted_though_other_writers_were_in_the_way(scene: Scene) -> None:
    await scene.here.store.aput("key", {"a": 1})
    scene.store.script("remove", contended, contended)
    assert await scene.here.store.adelete("key")
