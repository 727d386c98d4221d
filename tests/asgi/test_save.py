"""Create, save, empty, end: what a request leaves in the store."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import anyio
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from sessionware import (
    SerializationError,
    Session,
    SessionMiddleware,
    SessionTooLarge,
    session_of,
)
from tests.apps import COOKIE, SECRET, Browser
from tests.asgi.site import (
    NOTHING_STORED,
    Act,
    Site,
    Visitor,
    from_handler,
    in_turn,
    row,
    rows,
    statements,
)
from tests.services import AS_STARLETTE_DOES

pytestmark = pytest.mark.anyio


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """Each request reads the session with one SELECT, so that its statements can be named."""
    return make_site(coherence="validate")


@pytest.fixture
async def stored(browser: Visitor) -> Visitor:
    """A browser whose session holds ``a`` and ``b``."""
    await browser.visit(lambda session: session.update(a=1, b=[2]))
    return browser


@pytest.mark.parametrize("cookie", [None, f"{COOKIE}=junk"], ids=["no cookie", "bad cookie"])
@pytest.mark.parametrize("act", NOTHING_STORED.values(), ids=NOTHING_STORED)
async def test_who_stores_nothing_has_no_row_and_no_cookie(
    browser: Visitor, act: Act | None, cookie: str | None
) -> None:
    with statements() as executed:
        answer = await browser.visit(act, cookie=cookie)
    assert (answer.status, answer.set_cookies, executed, rows()) == (200, [], [], [])


@pytest.mark.parametrize("act", NOTHING_STORED.values(), ids=NOTHING_STORED)
async def test_who_stores_nothing_under_a_dead_cookie_has_no_row_and_no_cookie(
    stored: Visitor, act: Act | None
) -> None:
    cookie = stored.cookie
    await stored.visit(Session.invalidate)
    answer = await stored.visit(act, cookie=cookie)
    assert (answer.status, answer.set_cookies, rows()) == (200, [], [])


async def test_a_session_is_created_by_what_is_stored(browser: Visitor) -> None:
    with statements() as executed:
        answer = await browser.visit(lambda session: session.setdefault("a", 1))
    assert (len(answer.set_cookies), executed, len(rows())) == (1, ["INSERT"], 1)
    assert await browser.content() == {"a": 1}


@pytest.mark.parametrize(
    ("change", "content"),
    [
        pytest.param(lambda s: s["b"].append(3), {"a": 1, "b": [2, 3]}, id="nested list"),
        pytest.param(lambda s: s.update(a=2), {"a": 2, "b": [2]}, id="update"),
        pytest.param(lambda s: s.pop("a"), {"b": [2]}, id="pop"),
        pytest.param(lambda s: s.setdefault("c", {}), {"a": 1, "b": [2], "c": {}}, id="new key"),
        pytest.param(lambda s: s.__ior__({"a": 3}) and None, {"a": 3, "b": [2]}, id="union"),
    ],
)
async def test_a_change_is_saved_with_one_update_and_no_cookie(
    stored: Visitor, change: Act, content: dict[str, Any]
) -> None:
    with statements() as executed:
        answer = await stored.visit(change)
    assert executed == ["SELECT", "UPDATE"]
    assert answer.set_cookies == []
    assert await stored.content() == content


@pytest.mark.parametrize("since", [1, (1,), date(2026, 1, 1), UUID(int=1), Decimal(1)], ids=repr)
async def test_a_nested_change_is_saved_right_after_a_save_whatever_else_is_stored(
    browser: Visitor, since: Any
) -> None:
    def append(session: Session) -> None:
        session.setdefault("since", since)
        session.setdefault("b", []).append(1)

    for _ in range(4):
        await browser.visit(append)
    assert len((await browser.visit(lambda s: s["b"])).json()) == 4


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda s: s.update(a=1), id="same value"),
        pytest.param(Session.mark_modified, id="mark_modified"),
        pytest.param(lambda s: s["b"].append(3) or s["b"].pop(), id="there and back"),
    ],
)
async def test_what_is_the_same_bytes_as_before_is_not_written(stored: Visitor, act: Act) -> None:
    before = row()
    with statements() as executed:
        await stored.visit(act)
    assert executed == ["SELECT"]
    assert row() == before


async def test_the_save_is_committed_before_the_first_byte_leaves(site: Site) -> None:
    at_start: list[Any] = []
    number = site.expect(lambda request: request.session.update(a=1))

    async def observing(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                at_start.append(len(await from_handler(rows)))
                token = dict(message["headers"])[b"set-cookie"].partition(b";")[0]
                at_start.append(await site.browser().content(cookie=token))
            await send(message)

        await site.app(scope, receive, watch)

    await Browser(observing).get("/", headers=[("x-handler", number)])
    assert at_start == [1, {"a": 1}]


async def test_a_streaming_response_is_saved_before_its_first_chunk(site: Site) -> None:
    browser = site.browser()

    async def chunks() -> AsyncIterator[str]:
        yield str(len(await from_handler(rows)))

    def handler(request: Request) -> Response:
        request.session["a"] = 1
        return StreamingResponse(chunks())

    answer = await browser.serve(handler)
    assert (answer.body, len(answer.set_cookies)) == (b"1", 1)


EMPTYING: dict[str, Act] = {
    "clear": Session.clear,
    "last keys deleted": lambda session: [operator.delitem(session, key) for key in list(session)],
    "last keys popped": lambda session: [session.pop(key) for key in list(session)],
    "popitem": lambda session: [session.popitem() for _ in range(len(session))],
    "invalidate": Session.invalidate,
}


@pytest.mark.parametrize("act", EMPTYING.values(), ids=EMPTYING)
async def test_an_emptied_session_loses_its_row_and_its_cookie(stored: Visitor, act: Act) -> None:
    cookie = stored.cookie
    with statements() as executed:
        answer = await stored.visit(act)
    assert executed == ["SELECT", "DELETE"]
    assert answer.set_cookie.startswith(f"{COOKIE}=null; path=/; expires=Thu, 01 Jan 1970")
    assert rows() == []
    assert await stored.content(cookie=cookie) == {}


async def test_clear_and_then_a_write_keeps_the_session_with_only_what_was_written(
    stored: Visitor,
) -> None:
    before = row()
    answer = await stored.visit(in_turn(Session.clear, lambda session: session.update(c=3)))
    assert answer.set_cookies == []
    assert (row().id, row().sid_hash, row().epoch) == (before.id, before.sid_hash, before.epoch + 1)
    assert await stored.content() == {"c": 3}


async def test_invalidate_empties_the_session_at_once_and_a_later_write_starts_a_new_one(
    stored: Visitor,
) -> None:
    old, cookie = row(), stored.cookie

    def act(session: Session) -> Any:
        session.invalidate()
        left = dict(session)
        session["c"] = 3
        return left

    answer = await stored.visit(act)
    assert answer.json() == {}
    assert len(answer.set_cookies) == 1
    assert row().sid_hash != old.sid_hash
    assert await stored.content() == {"c": 3}
    assert await stored.content(cookie=cookie) == {}


async def test_a_new_session_after_invalidate_has_a_new_public_name(stored: Visitor) -> None:
    before = (await stored.visit(lambda session: session.handle)).json()
    await stored.visit(in_turn(Session.invalidate, lambda session: session.update(c=3)))
    assert (await stored.visit(lambda session: session.handle)).json() != before


def change_all(session: Session) -> None:
    session["a"] = "changed"
    session.setdefault("b", []).append("changed")
    session["user_id"] = "mallory"


async def test_an_unhandled_exception_discards_the_changes(stored: Visitor) -> None:
    def boom(session: Session) -> None:
        change_all(session)
        raise ValueError("the app's own")

    before = row()
    for cookie in ("", None):
        answer = await stored.visit(boom, cookie=cookie, may_fail=True)
        assert (answer.status, answer.set_cookies, row()) == (500, [], before)
        with pytest.raises(ValueError, match="the app's own"):
            await stored.visit(boom, cookie=cookie)


def answering(status: int) -> Callable[[Request], Response]:
    def handler(request: Request) -> Response:
        change_all(session_of(request))
        return JSONResponse("", status)

    return handler


def raising(status: int) -> Callable[[Request], Response]:
    def handler(request: Request) -> Response:
        change_all(session_of(request))
        raise HTTPException(status)

    return handler


@AS_STARLETTE_DOES
@pytest.mark.parametrize("answers", [answering, raising])
@pytest.mark.parametrize("status", [500, 599])
async def test_a_response_of_5xx_discards_the_changes(
    stored: Visitor, answers: Callable[[int], Callable[[Request], Response]], status: int
) -> None:
    before = row()
    answer = await stored.serve(answers(status))
    assert (answer.status, answer.set_cookies, row()) == (status, [], before)
    assert await stored.content() == {"a": 1, "b": [2]}


@AS_STARLETTE_DOES
@pytest.mark.parametrize("answers", [answering, raising])
@pytest.mark.parametrize("status", [201, 303, 499])
async def test_a_response_of_any_other_status_saves(
    stored: Visitor, answers: Callable[[int], Callable[[Request], Response]], status: int
) -> None:
    answer = await stored.serve(answers(status))
    assert (answer.status, len(answer.set_cookies)) == (status, 1)
    assert await stored.content() == {"a": "changed", "b": [2, "changed"], "user_id": "mallory"}


async def test_a_redirect_carries_the_new_cookie(browser: Visitor) -> None:
    def handler(request: Request) -> Response:
        request.session["flash"] = "saved"
        return RedirectResponse("/elsewhere", 303)

    answer = await browser.serve(handler)
    assert (answer.status, len(answer.set_cookies)) == (303, 1)
    assert await browser.content() == {"flash": "saved"}


async def test_invalidate_holds_though_the_request_fails_afterwards(stored: Visitor) -> None:
    def fail(session: Session) -> None:
        session.invalidate()
        session["c"] = 3
        raise ValueError

    cookie = stored.cookie
    answer = await stored.visit(fail, may_fail=True)
    assert (answer.status, rows()) == (500, [])
    assert await stored.content(cookie=cookie) == {}


async def test_invalidate_holds_and_expires_the_cookie_with_a_response_of_5xx(
    stored: Visitor,
) -> None:
    def handler(request: Request) -> Response:
        session = session_of(request)
        session.invalidate()
        session["c"] = 3
        return Response(status_code=500)

    answer = await stored.serve(handler)
    assert (answer.status, rows()) == (500, [])
    assert answer.set_cookie.startswith(f"{COOKIE}=null;")


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param({"deep": [object()]}, SerializationError, id="not serializable"),
        pytest.param("x" * 70_000, SessionTooLarge, id="too large"),
    ],
)
async def test_what_cannot_be_stored_fails_the_request_and_leaves_the_row(
    stored: Visitor, value: object, error: type[Exception]
) -> None:
    before = row()
    for cookie in ("", None):
        answer = await stored.visit(
            lambda s: s.update(a=2, bad=value), cookie=cookie, may_fail=True
        )
        assert (answer.status, answer.set_cookies, rows()) == (500, [], [before])
    with pytest.raises(error, match="bad"):
        await stored.visit(lambda s: s.update(a=2, bad=value))


async def test_asave_commits_at_once_and_the_response_has_the_cookie(
    site: Site, browser: Visitor
) -> None:
    async def handler(request: Request) -> Any:
        session = session_of(request)
        session["a"] = 1
        new = session.is_new
        await session.asave()
        first = await from_handler(rows)
        session["b"] = 2
        await session.asave()
        return [new, session.is_new, len(first)]

    answer = await browser.serve(handler)
    assert (answer.json(), len(answer.set_cookies)) == ([True, False, 1], 1)
    assert await browser.content() == {"a": 1, "b": 2}


async def test_tasks_that_save_a_new_session_at_once_make_one_of_it(browser: Visitor) -> None:
    async def save(session: Session, key: str) -> None:
        session[key] = 1
        await session.asave()

    async def handler(request: Request) -> Response:
        session = session_of(request)
        async with anyio.create_task_group() as tasks:
            for key in ("a", "user_id", "b", "c"):
                tasks.start_soon(save, session, key)
        return JSONResponse(dict(session))

    answer = await browser.serve(handler)
    assert answer.json() == {"a": 1, "user_id": 1, "b": 1, "c": 1}
    assert len(answer.set_cookies) == 1
    assert await browser.content() == answer.json()
    assert row().user_id == "1"


async def test_what_asave_committed_stays_though_the_request_fails_afterwards(
    stored: Visitor,
) -> None:
    async def handler(request: Request) -> Any:
        session = session_of(request)
        session["a"] = "committed"
        await session.asave()
        session["a"] = "discarded"
        raise ValueError

    await stored.serve(handler, may_fail=True)
    assert await stored.content() == {"a": "committed", "b": [2]}


async def test_a_save_in_the_event_loop_refuses_to_block_it(stored: Visitor) -> None:
    def act(session: Session) -> None:
        session["a"] = 2
        session.save()

    with pytest.raises(RuntimeError, match="asave"):
        await stored.visit(act)


class Unsent:
    """A bare ASGI app that changes its session and answers in the way the test says."""

    def __init__(self, messages: Callable[[], Iterator[Message]]) -> None:
        self.messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        for message in self.messages():
            await send(message)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([], id="none"),
        pytest.param([{"type": "http.response.debug", "info": {}}], id="no start"),
    ],
)
async def test_an_app_that_never_answers_saves_nothing(messages: list[Message]) -> None:
    app = SessionMiddleware(Unsent(lambda: iter(messages)), SECRET, purge_interval=None)
    answer = await Browser(app).get("/")
    await app.manager.ashutdown()
    assert (answer.status, rows()) == (0, [])
