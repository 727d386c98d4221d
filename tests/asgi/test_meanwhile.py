"""What happens to a request's changes when other requests of the session were there first."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from sessionware import Session, SessionGone, session_of
from tests.asgi.site import Act, Site, Visitor, from_handler, in_turn, rows

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stored(browser: Visitor) -> Visitor:
    """A browser whose session holds ``a`` and ``b``."""
    await browser.visit(lambda session: session.update(a=1, b=[2]))
    return browser


async def test_parallel_requests_each_keep_the_keys_they_wrote(stored: Visitor) -> None:
    async def slow(request: Request) -> None:
        request.session["slow"] = 1
        del request.session["a"]
        await stored.visit(lambda session: session.update(fast=1, b=[3]))

    await stored.serve(slow)
    assert await stored.content() == {"b": [3], "slow": 1, "fast": 1}


ENDINGS: dict[str, Act] = {
    "invalidate": Session.invalidate,
    "clear": Session.clear,
    "rotate": Session.rotate,
    "login": lambda session: session.update(user_id="alice"),
    "replaced": in_turn(Session.clear, lambda session: session.update(new=1)),
}


@pytest.mark.parametrize("meanwhile", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.update(late=1),
        Session.rotate,
        lambda session: session.update(user_id="bob"),
        Session.clear,
    ],
    ids=["write", "rotate", "login", "clear"],
)
async def test_what_ended_or_changed_its_identity_meanwhile_is_not_touched_by_a_late_request(
    site: Site, stored: Visitor, meanwhile: Act, change: Act
) -> None:
    other = site.browser(stored.token)

    async def slow(request: Request) -> None:
        change(session_of(request))
        await other.visit(meanwhile)
        after.extend(rows_now := await from_handler(rows))
        assert len(rows_now) <= 1

    after: list[Any] = []
    answer = await stored.serve(slow)
    assert (answer.status, answer.set_cookies) == (200, [])
    assert rows() == after
    assert "stale_save_dropped" in site.events


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.update(late="mine"),
        lambda session: session.pop("a"),
        Session.rotate,
        lambda session: session.update(user_id="bob"),
        in_turn(Session.clear, lambda session: session.update(late="mine")),
        Session.clear,
        Session.invalidate,
        lambda session: session.set_expiry(60),
    ],
    ids=["write", "delete", "rotate", "login", "replace", "clear", "invalidate", "set_expiry"],
)
async def test_a_late_request_of_an_ended_session_never_hits_the_session_stored_after_it(
    site: Site, stored: Visitor, change: Act
) -> None:
    somebody = site.browser()

    async def slow(request: Request) -> None:
        change(session_of(request))
        await site.browser(stored.token).visit(Session.invalidate)
        await somebody.visit(lambda session: session.update(user_id="somebody", secret="theirs"))

    answer = await stored.serve(slow)
    assert (answer.status, answer.set_cookies) == (200, [])
    assert await somebody.content() == {"user_id": "somebody", "secret": "theirs"}
    assert len(rows()) == 1


async def test_take_and_incr_of_an_ended_session_never_reach_the_session_stored_after_it(
    site: Site, stored: Visitor
) -> None:
    somebody = site.browser()

    async def slow(request: Request) -> Any:
        session = session_of(request)
        await site.browser(stored.token).visit(Session.invalidate)
        await somebody.visit(lambda session: session.update(flash="theirs", n=7))
        with pytest.raises(SessionGone):
            await session.aincr("n")
        return await session.atake("flash", "nothing")

    assert (await stored.serve(slow)).json() == "nothing"
    assert await somebody.content() == {"flash": "theirs", "n": 7}


async def test_invalidate_ends_the_session_even_if_it_was_rotated_meanwhile(
    site: Site, stored: Visitor
) -> None:
    other = site.browser(stored.token)

    async def slow(request: Request) -> None:
        session_of(request).invalidate()
        await other.visit(Session.rotate)

    await stored.serve(slow)
    assert rows() == []
    assert await other.content() == {}


async def test_an_explicit_save_says_that_the_session_is_gone(stored: Visitor) -> None:
    async def slow(request: Request) -> None:
        session = session_of(request)
        session["late"] = 1
        await stored.visit(Session.invalidate)
        await session.asave()

    with pytest.raises(SessionGone):
        await stored.serve(slow)
    assert rows() == []


@pytest.mark.parametrize("left", ["clear", "keys"])
async def test_keys_deleted_by_hand_spare_what_came_meanwhile_and_clear_does_not(
    stored: Visitor, left: str
) -> None:
    async def slow(request: Request) -> None:
        session = session_of(request)
        await stored.visit(lambda session: session.update(fast=1))
        if left == "clear":
            session.clear()
        else:
            for key in list(session):
                del session[key]

    answer = await stored.serve(slow)
    assert await stored.content(cookie=stored.cookie) == ({} if left == "clear" else {"fast": 1})
    assert len(answer.set_cookies) == (1 if left == "clear" else 0)
