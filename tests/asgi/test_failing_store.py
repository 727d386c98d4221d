"""The store is down: 503 for who needs the session, nothing for who doesn't, and no data lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from sessionware import (
    Session,
    SessionManager,
    SessionMiddleware,
    StoreUnavailable,
    session_of,
)
from tests.apps import COOKIE, Answer
from tests.asgi.failing import FailingStore
from tests.asgi.site import Act, Site, Visitor
from tests.byhand import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def site(make_site: Callable[..., Site], store: FailingStore) -> Site:
    return make_site(store=store, cache_ttl=0)


@pytest.fixture
async def stored(site: Site) -> Visitor:
    browser = site.browser()
    await browser.visit(lambda session: session.update(a=1))
    return browser


def is_unavailable(answer: Answer) -> bool:
    """A complete 503 that says when to come again, and nothing of the cause or of a session."""
    assert answer.status == 503
    assert answer.complete
    assert answer.all("retry-after") == ["2"]
    assert answer.all("cache-control") == ["no-store"]
    assert answer.set_cookies == []
    assert answer.body == b"Service Unavailable"
    assert answer.all("content-length") == [str(len(answer.body))]
    return True


USES: dict[str, Act] = {
    "dict": dict,
    "in": lambda s: "a" in s,
    "[]": lambda s: s["a"],
    "len": len,
    "get": lambda s: s.get("a"),
    "pop": lambda s: s.pop("a", None),
    "popitem": Session.popitem,
    "setdefault": lambda s: s.setdefault("a", 2),
    "update": lambda s: s.update(b=2),
    "|=": lambda s: s.__ior__({"b": 2}),
    "clear": Session.clear,
    "rotate": Session.rotate,
    "invalidate": Session.invalidate,
    "set_expiry": lambda s: s.set_expiry(60),
    "handle": lambda s: s.handle,
    "is_new": lambda s: s.is_new,
    "asave": Session.asave,
    "aincr": lambda s: s.aincr("a"),
    "atake": lambda s: s.atake("a", None),
}


@pytest.mark.parametrize("act", USES.values(), ids=USES)
async def test_whoever_needs_a_session_that_could_not_be_read_gets_503(
    stored: Visitor, store: FailingStore, act: Act
) -> None:
    async def handler(request: Request) -> Any:
        result = act(request.scope["session"])
        return await result if hasattr(result, "__await__") else "used"

    store.down = {"*"}
    assert is_unavailable(await stored.serve(handler))
    store.down.clear()
    assert await stored.content() == {"a": 1}


@pytest.mark.parametrize(
    "reach",
    [lambda request: request.session, session_of],
    ids=["request.session", "session_of"],
)
async def test_to_reach_for_the_session_is_to_need_it(
    stored: Visitor, store: FailingStore, reach: Callable[[Request], object]
) -> None:
    store.down = {"*"}
    assert is_unavailable(await stored.serve(lambda request: reach(request) and None))


async def test_who_does_not_touch_the_session_is_served(
    stored: Visitor, store: FailingStore
) -> None:
    store.down = {"*"}
    answer = await stored.visit(None)
    assert (answer.status, answer.set_cookies, answer.all("vary")) == (200, [], [])


@pytest.mark.parametrize("cookie", [None, f"{COOKIE}=junk"])
async def test_who_brings_no_valid_cookie_is_served_until_something_is_to_be_stored(
    site: Site, store: FailingStore, cookie: str | None
) -> None:
    store.down = {"*"}
    browser = site.browser()
    for act in (None, dict, Session.clear, Session.invalidate):
        assert (await browser.visit(act, cookie=cookie)).status == 200
    assert store.calls == []
    assert is_unavailable(await browser.visit(lambda s: s.update(a=1), cookie=cookie))
    store.down.clear()
    assert store.rows.count(0) == 0


FAILING_SAVES: dict[str, tuple[str, Act]] = {
    "save": ("replace", lambda s: s.update(a=2)),
    "rotate": ("rotate", Session.rotate),
    "login": ("rotate", lambda s: s.update(user_id="alice")),
    "clear": ("remove", Session.clear),
    "invalidate": ("remove", Session.invalidate),
    "empty": ("remove", lambda s: s.pop("a")),
}


@pytest.mark.parametrize(("method", "act"), FAILING_SAVES.values(), ids=FAILING_SAVES)
@pytest.mark.parametrize("status", [200, 404])
async def test_a_response_whose_save_failed_is_replaced_by_503(
    stored: Visitor, store: FailingStore, method: str, act: Act, status: int
) -> None:
    def handler(request: Request) -> Response:
        act(session_of(request))
        return PlainTextResponse("done", status)

    store.down = {method}
    assert is_unavailable(await stored.serve(handler))
    assert store.calls[-1] == method
    store.down.clear()
    assert await stored.content() == {"a": 1}


async def test_a_stream_whose_save_failed_never_begins(
    stored: Visitor, store: FailingStore
) -> None:
    def handler(request: Request) -> Response:
        request.session["a"] = 2
        return StreamingResponse(iter(["chunk"]))

    store.down = {"replace"}
    assert is_unavailable(await stored.serve(handler))


async def test_the_same_browser_goes_on_where_it_was_when_the_store_is_back(
    stored: Visitor, store: FailingStore
) -> None:
    for _ in range(3):
        store.down = {"*"}
        assert is_unavailable(await stored.visit(lambda s: s.update(lost=1)))
        store.down.clear()
        assert await stored.content() == {"a": 1}
    await stored.visit(lambda s: s.update(b=2))
    assert await stored.content() == {"a": 1, "b": 2}


async def test_a_lost_touch_fails_no_request(
    clock: Clock, make_site: Callable[..., Site], store: FailingStore
) -> None:
    site = make_site(store=store, rolling=True)
    browser = site.browser()
    await browser.visit(lambda session: session.update(a=1))
    clock.tick(10 * 24 * 3600)
    store.down = {"touch"}
    answer = await browser.visit(dict)
    assert (answer.status, answer.json(), answer.set_cookies) == (200, {"a": 1}, [])
    assert site.events[-1] == "store_error"


@pytest.mark.parametrize(
    "act", [lambda session: session.update(a=1), Session.mark_modified], ids=["write", "mark"]
)
async def test_a_lost_renewal_by_a_write_that_changes_nothing_fails_none_either(
    clock: Clock, make_site: Callable[..., Site], store: FailingStore, act: Act
) -> None:
    site = make_site(store=store)
    browser = site.browser()
    await browser.visit(lambda session: session.update(a=1))
    clock.tick(10 * 24 * 3600)
    store.down = {"replace"}
    answer = await browser.visit(act)
    assert (answer.status, answer.set_cookies) == (200, [])
    assert site.events[-1] == "store_error"
    assert is_unavailable(await browser.visit(lambda session: session.update(a=2)))
    store.down.clear()
    assert len((await browser.visit(act)).set_cookies) == 1


async def test_each_failure_is_an_event(site: Site, stored: Visitor, store: FailingStore) -> None:
    store.down = {"*"}
    await stored.visit(dict)
    store.down = {"replace"}
    await stored.visit(lambda s: s.update(a=2))
    assert site.events == ["created", "store_error", "store_error"]


async def test_an_explicit_save_that_fails_raises_in_the_handler(
    stored: Visitor, store: FailingStore
) -> None:
    async def handler(request: Request) -> Any:
        session = session_of(request)
        session["a"] = 2
        store.down = {"*"}
        with pytest.raises(StoreUnavailable):
            await session.asave()
        store.down.clear()
        await session.asave()
        return "saved after all"

    assert (await stored.serve(handler)).json() == "saved after all"
    assert await stored.content() == {"a": 2}


async def test_an_app_that_discards_its_changes_answers_itself(
    stored: Visitor, store: FailingStore
) -> None:
    def handler(request: Request) -> Response:
        request.session["a"] = 2
        raise HTTPException(500, "the app's own")

    store.down = {"replace"}
    assert (await stored.serve(handler)).body == b"the app's own"


async def test_a_defect_of_the_store_is_not_taken_for_a_failing_database(
    stored: Visitor, store: FailingStore
) -> None:
    store.error = TypeError("a defect")
    store.down = {"load"}
    with pytest.raises(TypeError, match="a defect"):
        await stored.visit(dict)


@pytest.fixture
def block() -> Iterator[threading.Event]:
    """Set, it lets go of whatever waits in the store."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_store_that_does_not_answer_in_time_is_a_store_that_is_down(
    make_site: Callable[..., Site], store: FailingStore, block: threading.Event
) -> None:
    site = make_site(store=store, store_timeout=0.05, cache_ttl=0)
    browser = site.browser()
    await browser.visit(lambda session: session.update(a=1))
    store.block = block
    answer = await browser.visit(dict)
    assert (answer.status, answer.all("retry-after")) == (503, ["1"])
    assert (await browser.visit(None)).status == 200


def app_that_handles(manager: SessionManager, act: Act) -> Starlette:
    def endpoint(request: Request) -> Response:
        act(session_of(request))
        return PlainTextResponse("done")

    def handle(_: Request, error: Exception) -> Response:
        assert isinstance(error, StoreUnavailable)
        return JSONResponse("our own page", 503, {"retry-after": "77"})

    return Starlette(
        routes=[Route("/", endpoint)],
        middleware=[Middleware(SessionMiddleware, manager=manager)],
        exception_handlers={StoreUnavailable: handle},
    )


async def test_the_apps_exception_handler_answers_when_the_session_could_not_be_read(
    site: Site, stored: Visitor, store: FailingStore
) -> None:
    stored.app = app_that_handles(site.manager, dict)
    store.down = {"*"}
    answer = await stored.get("/")
    assert (answer.status, answer.json(), answer.all("retry-after")) == (
        503,
        "our own page",
        ["77"],
    )
    assert answer.set_cookies == []


async def test_a_failing_save_is_503_though_the_app_has_a_handler_that_comes_too_late(
    site: Site, stored: Visitor, store: FailingStore
) -> None:
    stored.app = app_that_handles(site.manager, lambda session: session.update(a=2))
    store.down = {"replace"}
    assert is_unavailable(await stored.get("/"))


async def test_a_bounded_cache_serves_what_it_knows_while_the_store_is_down(
    make_site: Callable[..., Site], store: FailingStore
) -> None:
    browser = make_site(store=store, coherence="bounded").browser()
    await browser.visit(lambda session: session.update(a=1))
    store.down = {"*"}
    assert await browser.content() == {"a": 1}


async def test_a_validated_cache_serves_nothing_while_the_store_is_down(
    make_site: Callable[..., Site], store: FailingStore
) -> None:
    browser = make_site(store=store).browser()
    await browser.visit(lambda session: session.update(a=1))
    store.down = {"*"}
    assert is_unavailable(await browser.visit(dict))


async def test_a_logout_that_could_not_be_stored_is_not_acknowledged(
    stored: Visitor, store: FailingStore
) -> None:
    """Not even when the request itself fails: then its error is what the client sees."""

    def fail(session: Session) -> None:
        session.invalidate()
        raise ValueError("the app's own")

    store.down = {"remove"}
    answer = await stored.visit(fail, may_fail=True)
    assert (answer.status in (500, 503), answer.set_cookies) == (True, [])
    store.down.clear()
    assert await stored.content() == {"a": 1}
