"""Login, logout and rotation: the ID changes when the user does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from starlette.requests import Request

from sessionware import ReauthenticationRequired, Session, session_of
from tests.asgi.site import Act, Site, Visitor, in_turn, row, rows, statements
from tests.byhand import Clock

pytestmark = pytest.mark.anyio


def login(user: object, key: str = "user_id") -> Act:
    return lambda session: session.update({key: user})


def logout(session: Session) -> None:
    del session["user_id"]


@pytest.fixture
async def alice(browser: Visitor) -> Visitor:
    """Logged in, with a cart from before the login and a note from after it."""
    await browser.visit(lambda session: session.update(cart=[1]))
    await browser.visit(login("alice"))
    await browser.visit(lambda session: session.update(note="mine"))
    return browser


async def test_a_login_gives_the_same_row_a_new_id_and_keeps_the_data(
    make_site: Callable[..., Site],
) -> None:
    browser = make_site(coherence="validate").browser()
    await browser.visit(lambda session: session.update(cart=[1]))
    before, old = row(), browser.cookie
    with statements() as executed:
        answer = await browser.visit(login("alice"))
    assert executed == ["SELECT", "UPDATE", "INSERT"]
    assert len(answer.set_cookies) == 1
    assert browser.cookie != old
    after = row()
    assert (after.id, after.user_id, after.epoch) == (before.id, "alice", before.epoch + 1)
    assert (after.sid_hash != before.sid_hash, after.created_at) == (True, before.created_at)
    assert await browser.content() == {"cart": [1], "user_id": "alice"}


async def test_a_session_that_begins_with_a_login_belongs_to_the_user(browser: Visitor) -> None:
    await browser.visit(login("alice"))
    assert row().user_id == "alice"
    assert row().authenticated_at is not None


async def test_the_old_id_is_dead_and_what_comes_with_it_is_not_saved_nor_answered_with_a_cookie(
    site: Site, browser: Visitor
) -> None:
    await browser.visit(lambda session: session.update(cart=[1]))
    old = browser.cookie
    await browser.visit(login("alice"))
    before = row()
    acts: list[Act | None] = [
        None, dict, lambda s: s.update(a=1), Session.clear, Session.invalidate, Session.rotate,
        login("mallory"), lambda s: s.set_expiry(60),
    ]  # fmt: skip
    for act in acts:
        answer = await browser.visit(act, cookie=old)
        assert (answer.status, answer.set_cookies) == (200, [])
    assert await browser.content(cookie=old) == {}
    assert rows() == [before]
    assert site.events.count("retired_id_used") == len(acts) + 1


@pytest.mark.parametrize("act", [login("alice"), Session.rotate], ids=["login", "rotate"])
async def test_the_id_that_an_attacker_planted_is_worth_nothing_after_the_victims_login(
    site: Site, act: Act
) -> None:
    attacker = site.browser()
    await attacker.visit(lambda session: session.update(planted=1))
    victim = site.browser(attacker.token)
    await victim.visit(act)
    assert await attacker.content() == {}
    await attacker.visit(lambda session: session.update(planted=2))
    assert (await victim.content())["planted"] == 1


async def test_a_request_under_way_during_a_login_saves_nothing_and_sends_no_cookie(
    site: Site, browser: Visitor
) -> None:
    await browser.visit(lambda session: session.update(cart=[1]))
    other = site.browser(browser.token)

    async def slow(request: Request) -> None:
        request.session["late"] = 1
        await other.visit(login("alice"))

    answer = await browser.serve(slow)
    assert (answer.status, answer.set_cookies) == (200, [])
    assert await other.content() == {"cart": [1], "user_id": "alice"}


async def test_of_two_logins_at_once_in_one_session_only_the_first_is_kept(
    site: Site, browser: Visitor
) -> None:
    await browser.visit(lambda session: session.update(cart=[1]))
    first = site.browser(browser.token)

    async def second(request: Request) -> None:
        request.session["user_id"] = "bob"
        await first.visit(login("alice"))

    answer = await browser.serve(second)
    assert answer.set_cookies == []
    assert row().user_id == "alice"
    assert await first.content() == {"cart": [1], "user_id": "alice"}


async def test_naming_the_same_user_again_is_no_login(alice: Visitor) -> None:
    before = row()
    answer = await alice.visit(login("alice"))
    assert (answer.set_cookies, row()) == ([], before)


async def test_other_changes_of_a_logged_in_session_leave_its_id(alice: Visitor) -> None:
    before = row()
    answer = await alice.visit(lambda session: session.update(note="other"))
    assert answer.set_cookies == []
    assert (row().sid_hash, row().epoch) == (before.sid_hash, before.epoch)
    assert (row().user_id, row().authenticated_at) == ("alice", before.authenticated_at)


@pytest.mark.parametrize(
    "act",
    [logout, login(None), lambda session: session.pop("user_id")],
    ids=["del", "None", "pop"],
)
async def test_a_removed_user_is_a_logout_that_rotates(alice: Visitor, act: Act) -> None:
    old = alice.cookie
    answer = await alice.visit(act)
    assert len(answer.set_cookies) == 1
    assert await alice.content(cookie=old) == {}
    assert (row().user_id, row().authenticated_at) == (None, None)


async def test_from_one_user_to_another_only_what_this_request_wrote_stays(
    alice: Visitor,
) -> None:
    old = alice.cookie
    await alice.visit(lambda session: session.update(user_id="bob", lang="en"))
    assert await alice.content() == {"user_id": "bob", "lang": "en"}
    assert row().user_id == "bob"
    assert await alice.content(cookie=old) == {}


async def test_what_this_request_has_saved_as_one_user_does_not_go_along_to_the_next(
    alice: Visitor,
) -> None:
    async def act(session: Session) -> None:
        session["lang"] = "en"
        await session.asave()
        session.update(user_id="bob", theme="dark")

    await alice.visit(act)
    assert await alice.content() == {"user_id": "bob", "theme": "dark"}


async def test_a_key_written_again_with_the_same_value_is_written(alice: Visitor) -> None:
    await alice.visit(lambda session: session.update(user_id="bob", note="mine"))
    assert await alice.content() == {"user_id": "bob", "note": "mine"}


async def test_a_nested_change_is_not_enough_to_take_a_key_along_to_another_user(
    alice: Visitor,
) -> None:
    await alice.visit(in_turn(lambda session: session["cart"].append(2), login("bob")))
    assert await alice.content() == {"user_id": "bob"}


async def test_who_is_logged_in_by_a_change_inside_a_value_stays_logged_in(
    make_site: Callable[..., Site],
) -> None:
    browser = make_site(user_key=("who", "user")).browser()
    await browser.visit(lambda session: session.update(user={"id": 1}, note="first's"))
    await browser.visit(lambda session: session["user"].update(id=2))
    assert await browser.content() == {"user": {"id": 2}}
    assert row().user_id is not None


async def test_what_a_save_found_unchanged_does_not_go_along_to_the_next_user(
    alice: Visitor,
) -> None:
    async def act(session: Session) -> None:
        session["note"] = "mine"
        await session.asave()
        session.update(user_id="bob")

    await alice.visit(act)
    assert await alice.content() == {"user_id": "bob"}


async def test_what_came_meanwhile_does_not_pass_to_the_next_user(
    site: Site, alice: Visitor
) -> None:
    other = site.browser(alice.token)

    async def switch(request: Request) -> None:
        request.session["user_id"] = "bob"
        await other.visit(lambda session: session.update(late="alice's"))

    await alice.serve(switch)
    assert await alice.content() in ({"user_id": "bob"}, {})
    assert all(b"alice's" not in stored.data for stored in rows() if stored.user_id == "bob")


async def test_nothing_passes_from_one_user_to_the_next_over_a_logout(alice: Visitor) -> None:
    await alice.visit(logout)
    assert await alice.content() == {"cart": [1], "note": "mine"}
    await alice.visit(lambda session: session.update(lang="en"))
    await alice.visit(login("bob"))
    assert await alice.content() == {"user_id": "bob"}


async def test_the_same_user_finds_the_data_again_after_a_logout(alice: Visitor) -> None:
    await alice.visit(logout)
    await alice.visit(login("alice"))
    assert await alice.content() == {"cart": [1], "note": "mine", "user_id": "alice"}


async def test_logout_and_login_of_another_in_one_request_is_a_switch(alice: Visitor) -> None:
    await alice.visit(in_turn(logout, login("bob")))
    assert await alice.content() == {"user_id": "bob"}


async def test_clear_and_login_keeps_only_what_came_after_the_clear(alice: Visitor) -> None:
    old = alice.cookie
    await alice.visit(in_turn(Session.clear, lambda session: session.update(user_id="bob", x=1)))
    assert await alice.content() == {"user_id": "bob", "x": 1}
    assert await alice.content(cookie=old) == {}


async def test_invalidate_and_login_is_a_new_session(alice: Visitor) -> None:
    old, handle = alice.cookie, (await alice.visit(lambda session: session.handle)).json()
    await alice.visit(in_turn(Session.invalidate, lambda session: session.update(user_id="bob")))
    assert await alice.content() == {"user_id": "bob"}
    assert (await alice.visit(lambda session: session.handle)).json() != handle
    assert await alice.content(cookie=old) == {}


async def test_rotate_gives_a_new_id_and_changes_nothing_else(alice: Visitor) -> None:
    before, old = row(), alice.cookie
    public = (await alice.visit(lambda session: session.handle)).json()
    answer = await alice.visit(Session.rotate)
    assert len(answer.set_cookies) == 1
    after = row()
    for column in ("id", "user_id", "created_at", "authenticated_at"):
        assert getattr(after, column) == getattr(before, column)
    assert (after.sid_hash == before.sid_hash, after.epoch) == (False, before.epoch + 1)
    assert await alice.content() == {"cart": [1], "user_id": "alice", "note": "mine"}
    assert (await alice.visit(lambda session: session.handle)).json() == public
    assert await alice.content(cookie=old) == {}


async def test_rotate_saves_what_the_request_changed(browser: Visitor) -> None:
    await browser.visit(lambda session: session.update(cart=[1]))
    await browser.visit(in_turn(lambda session: session["cart"].append(2), Session.rotate))
    assert await browser.content() == {"cart": [1, 2]}


async def test_a_recent_login_is_required_and_only_a_login_renews_it(
    browser: Visitor, clock: Clock
) -> None:
    async def recent(seconds: float = 300) -> bool:
        def act(session: Session) -> bool:
            try:
                session.require_recent(seconds)
            except ReauthenticationRequired:
                return False
            return True

        answer: bool = (await browser.visit(act)).json()
        return answer

    assert not await recent()
    await browser.visit(lambda session: session.update(cart=[1]))
    assert not await recent()
    await browser.visit(login("alice"))
    assert await recent()
    clock.tick(300)
    assert await recent()
    clock.tick(0.001)
    assert not await recent()
    await browser.visit(Session.rotate)
    await browser.visit(lambda session: session.update(cart=[2]))
    assert not await recent()
    await browser.visit(lambda session: session.rotate(authenticated=True))
    assert await recent()
    await browser.visit(logout)
    assert not await recent()


async def test_the_login_and_creation_times_are_aware_and_none_before(
    browser: Visitor, clock: Clock
) -> None:
    def times(session: Session) -> list[str | None]:
        known = (session.created_at, session.authenticated_at)
        return [None if moment is None else moment.isoformat() for moment in known]

    assert (await browser.visit(times)).json() == [None, None]
    await browser.visit(lambda session: session.update(a=1))
    assert (await browser.visit(times)).json() == ["2023-11-14T22:13:20+00:00", None]
    clock.tick(60)
    await browser.visit(login("alice"))
    assert (await browser.visit(times)).json() == [
        "2023-11-14T22:13:20+00:00",
        "2023-11-14T22:14:20+00:00",
    ]


@pytest.mark.parametrize("key", ["user_id", "_user_id", "_auth_user_id"])
async def test_by_default_any_of_three_keys_names_the_user(browser: Visitor, key: str) -> None:
    await browser.visit(lambda session: session.update(cart=[1]))
    old = browser.cookie
    await browser.visit(login("alice", key))
    assert (row().user_id, browser.cookie != old) == ("alice", True)


@pytest.mark.parametrize(
    ("user_key", "content", "user"),
    [
        ("uid", {"uid": "a", "user_id": "b"}, "a"),
        ("uid", {"user_id": "b"}, None),
        (("first", "second"), {"second": "b", "first": "a"}, "a"),
        (("first", "second"), {"second": "b", "first": None}, "b"),
        (["second"], {"second": "b", "first": "a"}, "b"),
        ((), {"user_id": "a"}, None),
        (None, {"user_id": "a"}, None),
    ],
)
async def test_user_key_names_the_keys_and_the_first_present_wins(
    make_site: Callable[..., Site], user_key: Any, content: dict[str, Any], user: str | None
) -> None:
    browser = make_site(user_key=user_key).browser()
    await browser.visit(lambda session: session.update(content))
    assert row().user_id == user
    assert (row().authenticated_at is None) == (user is None)


async def test_without_user_key_a_login_neither_rotates_nor_drops(
    make_site: Callable[..., Site],
) -> None:
    browser = make_site(user_key=None).browser()
    await browser.visit(lambda session: session.update(cart=[1], user_id="alice"))
    answer = await browser.visit(login("bob"))
    assert answer.set_cookies == []
    assert await browser.content() == {"cart": [1], "user_id": "bob"}


async def test_without_user_key_rotate_authenticated_still_counts_as_a_login(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(user_key=None)
    acts: list[Act] = [
        lambda session: session.update(user_id="alice"),
        lambda session: session.rotate(authenticated=True),
    ]
    at_once, later = site.browser(), site.browser()
    await at_once.visit(in_turn(*acts))
    for act in acts:
        await later.visit(act)
    for browser in (at_once, later):
        answer = await browser.visit(lambda session: session.require_recent(60))
        assert answer.status == 200


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (42, "42"),
        (0, "0"),
        (UUID("12345678123456781234567812345678"), "12345678-1234-5678-1234-567812345678"),
        ("zoë", "zoë"),
        (["a", 1], None),
        ({"id": 7}, None),
    ],
)
async def test_a_user_of_any_type_has_a_column_and_is_known_again(
    browser: Visitor, value: Any, stored: str | None
) -> None:
    await browser.visit(login(value))
    before = row()
    assert before.user_id is not None
    assert stored in (None, before.user_id)
    answer = await browser.visit(login(value))
    assert (answer.set_cookies, row()) == ([], before)


async def test_a_user_id_too_long_for_the_column_is_stored_as_its_hash(browser: Visitor) -> None:
    await browser.visit(login("x" * 300))
    assert str(row().user_id).startswith("sha256:")
    assert await browser.content() == {"user_id": "x" * 300}


async def test_a_user_id_changed_inside_a_nested_value_is_a_login(browser: Visitor) -> None:
    await browser.visit(lambda session: session.update(user_id={"id": 1}, note="first's"))
    old = browser.cookie
    await browser.visit(lambda session: session["user_id"].update(id=2))
    assert browser.cookie != old
    assert "note" not in await browser.content()


async def test_two_logins_are_two_sessions_and_ending_one_leaves_the_other(site: Site) -> None:
    phone, laptop = site.browser(), site.browser()
    for browser in (phone, laptop):
        await browser.visit(login("alice"))
    await phone.visit(Session.invalidate)
    assert await laptop.content() == {"user_id": "alice"}
    assert len(rows()) == 1


async def test_a_login_that_fails_afterwards_leaves_the_session_and_its_id(
    browser: Visitor,
) -> None:
    def fail(request: Request) -> None:
        session_of(request)["user_id"] = "alice"
        raise ValueError

    await browser.visit(lambda session: session.update(cart=[1]))
    before = row()
    answer = await browser.serve(fail, may_fail=True)
    assert (answer.set_cookies, row()) == ([], before)
    assert await browser.content() == {"cart": [1]}
