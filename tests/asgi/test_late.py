"""Changes after the response has begun: an error, unless they are saved and need no cookie."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from sessionware import ResponseAlreadyStarted, Session, SessionGone, session_of
from tests.asgi.site import Act, Handler, Site, Visitor, in_turn, row, rows, statements
from tests.byhand import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stored(browser: Visitor) -> Visitor:
    await browser.visit(lambda session: session.update(a=1, b=[2]))
    return browser


def streaming(act: Callable[[Session], Any], first: Act | None = None) -> Handler:
    """A handler that does ``act`` between two chunks of its response, ``first`` before them."""

    async def chunks(session: Session) -> AsyncIterator[str]:
        yield "before "
        result = act(session)
        if result is not None and hasattr(result, "__await__"):
            await result
        yield "after"

    def handler(request: Request) -> Response:
        session = session_of(request)
        if first is not None:
            first(session)
        return StreamingResponse(chunks(session))

    return handler


def in_background(act: Callable[[Session], Any]) -> Handler:
    """A handler that does ``act`` when its response has been sent."""

    def handler(request: Request) -> Response:
        return JSONResponse("", background=BackgroundTask(act, session_of(request)))

    return handler


PLACES = pytest.mark.parametrize("place", [streaming, in_background])

CHANGES: dict[str, Act] = {
    "write": lambda s: s.update(late=1),
    "nested": lambda s: s["b"].append("late"),
    "delete": lambda s: s.__delitem__("a"),
    "clear": Session.clear,
    "login": lambda s: s.update(user_id="late"),
    "rotate": Session.rotate,
    "invalidate": Session.invalidate,
    "set_expiry": lambda s: s.set_expiry(60),
}


@PLACES
@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
async def test_a_late_change_is_lost_and_raises_at_the_end_of_the_request(
    site: Site,
    stored: Visitor,
    place: Callable[[Act], Handler],
    act: Act,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = row()
    with pytest.raises(ResponseAlreadyStarted, match=r"await session\.asave\(\)"):
        await stored.serve(place(act))
    assert row() == before
    assert site.events == ["created", "late_change"]
    levels = [record.levelno for record in caplog.records if "late_change" in record.message]
    assert levels == [logging.WARNING]


async def test_the_response_of_a_late_change_goes_out_whole(stored: Visitor) -> None:
    answer = await stored.serve(streaming(lambda s: s.update(late=1)), may_fail=True)
    assert (answer.status, answer.body, answer.complete) == (200, b"before after", True)


@PLACES
async def test_a_late_change_of_a_session_that_was_never_stored_raises_too(
    browser: Visitor, place: Callable[[Act], Handler]
) -> None:
    with pytest.raises(ResponseAlreadyStarted):
        await browser.serve(place(lambda s: s.update(late=1)))
    assert rows() == []


@PLACES
@pytest.mark.parametrize(
    "act",
    [
        dict,
        lambda s: s.update(a=1),
        in_turn(lambda s: s.update(c=1), lambda s: s.pop("c")),
        Session.mark_modified,
    ],
    ids=["read", "same value", "there and back", "mark_modified"],
)
async def test_what_changes_nothing_late_is_no_error(
    stored: Visitor, place: Callable[[Act], Handler], act: Act
) -> None:
    before = row()
    answer = await stored.serve(place(lambda s: act(s) and None))
    assert (answer.status, row()) == (200, before)


@pytest.mark.parametrize("since", [date(2026, 1, 1), UUID(int=1)], ids=repr)
@PLACES
async def test_late_reads_and_changes_are_told_apart_whatever_is_stored(
    stored: Visitor, place: Callable[[Act], Handler], since: Any
) -> None:
    await stored.visit(lambda session: session.update(since=since))
    await stored.serve(place(lambda session: session["b"] and None))
    with pytest.raises(ResponseAlreadyStarted):
        await stored.serve(place(lambda session: session["b"].append(3)))


async def test_changes_before_and_after_the_start_are_told_apart(stored: Visitor) -> None:
    handler = streaming(lambda s: s.update(late=1), first=lambda s: s.update(early=1))
    with pytest.raises(ResponseAlreadyStarted):
        await stored.serve(handler)
    assert await stored.content() == {"a": 1, "b": [2], "early": 1}


async def saved(session: Session, act: Act) -> None:
    act(session)
    await session.asave()


@PLACES
@pytest.mark.parametrize(
    ("act", "content"),
    [
        (lambda s: s.update(late=1), {"a": 1, "b": [2], "late": 1}),
        (lambda s: s["b"].append("late"), {"a": 1, "b": [2, "late"]}),
        (lambda s: s.pop("a"), {"b": [2]}),
        (in_turn(Session.clear, lambda s: s.update(late=1)), {"late": 1}),
    ],
    ids=["write", "nested", "delete", "replace"],
)
async def test_asave_saves_late_where_the_cookie_is_already_there(
    stored: Visitor, place: Callable[[Any], Handler], act: Act, content: dict[str, Any]
) -> None:
    async def late(session: Session) -> None:
        await saved(session, act)

    answer = await stored.serve(place(late))
    assert (answer.status, answer.set_cookies) == (200, [])
    assert await stored.content() == content


@PLACES
@pytest.mark.parametrize("act", [Session.clear, Session.invalidate], ids=["clear", "invalidate"])
async def test_asave_can_end_a_session_late(
    stored: Visitor, place: Callable[[Any], Handler], act: Act
) -> None:
    async def late(session: Session) -> None:
        await saved(session, act)

    answer = await stored.serve(place(late))
    assert (answer.status, rows()) == (200, [])
    assert await stored.content() == {}


@pytest.mark.parametrize(
    "act",
    [
        Session.rotate,
        lambda s: s.update(user_id="late"),
        in_turn(Session.invalidate, lambda s: s.update(late=1)),
    ],
    ids=["rotate", "login", "new session"],
)
async def test_asave_refuses_late_what_needs_a_cookie(stored: Visitor, act: Act) -> None:
    refused: list[bool] = []

    async def late(session: Session) -> None:
        with pytest.raises(ResponseAlreadyStarted, match="Set-Cookie"):
            await saved(session, act)
        refused.append(True)

    before = row()
    with pytest.raises(ResponseAlreadyStarted):
        await stored.serve(streaming(late))
    assert refused == [True]
    assert row() == before


async def test_asave_refuses_to_create_a_session_late(browser: Visitor) -> None:
    async def late(session: Session) -> None:
        with pytest.raises(ResponseAlreadyStarted, match="Set-Cookie"):
            await saved(session, lambda s: s.update(late=1))
        session.clear()

    answer = await browser.serve(streaming(late))
    assert (answer.set_cookies, rows()) == ([], [])


async def test_asave_saves_late_what_a_new_session_changed_after_its_cookie_went_out(
    browser: Visitor,
) -> None:
    async def late(session: Session) -> None:
        await saved(session, lambda s: s.update(late=1))

    answer = await browser.serve(streaming(late, first=lambda s: s.update(early=1)))
    assert len(answer.set_cookies) == 1
    assert await browser.content() == {"early": 1, "late": 1}


async def test_each_late_asave_writes_and_a_change_after_the_last_one_raises(
    stored: Visitor,
) -> None:
    async def late(session: Session) -> None:
        for number in range(3):
            session["n"] = number
            await session.asave()
        session["n"] = "lost"

    with statements() as executed, pytest.raises(ResponseAlreadyStarted):
        await stored.serve(streaming(late))
    assert executed.count("UPDATE") == 3
    assert (await stored.content())["n"] == 2


async def test_take_and_incr_work_late(stored: Visitor) -> None:
    async def late(session: Session) -> None:
        assert await session.atake("a") == 1
        assert await session.aincr("n", 5) == 5

    answer = await stored.serve(streaming(late))
    assert answer.status == 200
    assert await stored.content() == {"b": [2], "n": 5}


async def test_a_late_save_of_a_session_that_ended_meanwhile_says_so(
    site: Site, stored: Visitor
) -> None:
    other = site.browser(stored.token)

    async def late(session: Session) -> None:
        await other.visit(Session.invalidate)
        with pytest.raises(SessionGone):
            await saved(session, lambda s: s.update(late=1))
        session.pop("late")

    answer = await stored.serve(streaming(late), may_fail=True)
    assert (answer.status, rows()) == (200, [])


async def test_a_late_save_shows_what_others_stored_meanwhile(site: Site, stored: Visitor) -> None:
    other = site.browser(stored.token)
    seen: list[Any] = []

    async def late(session: Session) -> None:
        await other.visit(lambda s: s.update(theirs=1))
        await saved(session, lambda s: s.update(mine=1))
        seen.append(dict(session))

    await stored.serve(streaming(late))
    assert seen == [{"a": 1, "b": [2], "theirs": 1, "mine": 1}] == [await stored.content()]


async def test_a_late_save_does_not_undo_what_others_stored_before_the_response_began(
    site: Site, stored: Visitor
) -> None:
    other = site.browser(stored.token)
    seen: list[Any] = []

    async def late(session: Session) -> None:
        seen.append(dict(session))
        await saved(session, lambda s: s.update(late=1))

    async def handler(request: Request) -> Any:
        session_of(request)["mine"] = 1
        await other.visit(lambda s: s.update(theirs=1))
        return streaming(late)(request)

    await stored.serve(handler)
    both = {"a": 1, "b": [2], "mine": 1, "theirs": 1}
    assert seen == [both]
    assert await stored.content() == {**both, "late": 1}


async def test_a_merge_as_the_response_begins_is_no_late_change(
    site: Site, stored: Visitor
) -> None:
    other = site.browser(stored.token)

    async def handler(request: Request) -> Response:
        session_of(request)["mine"] = 1
        await other.visit(lambda s: s.update(theirs=1))
        return JSONResponse("")

    assert (await stored.serve(handler)).status == 200
    assert await stored.content() == {"a": 1, "b": [2], "mine": 1, "theirs": 1}


async def test_a_plain_background_function_can_save_in_its_thread(stored: Visitor) -> None:
    def late(session: Session) -> None:
        session["late"] = 1
        session.save()

    await stored.serve(in_background(late))
    assert (await stored.content())["late"] == 1


async def test_a_late_save_renews_no_lifetime_since_the_cookie_has_gone(
    clock: Clock, browser: Visitor
) -> None:
    await browser.visit(lambda s: s.update(a=1))
    end = row().expires_at

    async def late(session: Session) -> None:
        clock.tick(timedelta(days=7).total_seconds())
        await saved(session, lambda s: s.update(late=1))

    await browser.serve(streaming(late))
    assert row().expires_at == end


async def test_an_exception_after_the_start_is_not_hidden_by_the_late_change(
    stored: Visitor,
) -> None:
    def late(session: Session) -> None:
        session["late"] = 1
        raise ValueError("the app's own")

    before = row()
    with pytest.raises(ValueError, match="the app's own"):
        await stored.serve(streaming(late))
    assert row() == before
