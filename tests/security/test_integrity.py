"""What is stored is what was meant, whole or not at all (R43, R46, R47, R49, R51, R54)."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, namedtuple
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from sessionware import (
    ResponseAlreadyStarted,
    SerializationError,
    SessionEvent,
    SessionManager,
    SessionTooLarge,
    session_of,
)
from tests.apps import Browser, Managers, app_of
from tests.security.conftest import Database

pytestmark = pytest.mark.anyio

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


def cycle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "bools and numbers": lambda: [True, 1, 1.0, -0.0, 0, 2**53 + 1, 2**64, -(2**70), 1e308],
    "NaN": lambda: math.nan,
    "infinity": lambda: [math.inf],
    "a number of 5,000 digits": lambda: 10**5000,
    "text": lambda: "\0 é \u2028 \U0001f600",
    "a lone surrogate": lambda: "\ud800",
    "a tuple": lambda: (1, (2, [3])),
    "bytes": lambda: b"\0\xff",
    "a bytearray": lambda: bytearray(b"x"),
    "sets": lambda: [{1, "1"}, frozenset({(1, 2)})],
    "keys that are not strings": lambda: {1: "a", "1": "b", None: "c", (1, 2): "d", 1.5: "e"},
    "times": lambda: [datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2), date(2026, 1, 2)],
    "a span": lambda: timedelta(microseconds=-1),
    "decimals": lambda: [Decimal("1.10"), Decimal("1E+5")],
    "a decimal that is no number": lambda: Decimal("NaN"),
    "a UUID": lambda: UUID(int=1),
    "a cycle": cycle,
    "100 levels": lambda: nested(100),
    "an object": object,
    "a function": lambda: cycle,
    "a generator": lambda: (each for each in "ab"),
    "a named tuple": lambda: Point(1, 2),
    "an enum": lambda: Colour.RED,
    "a str of another class": lambda: Name("x"),
    "an ordered dict": lambda: OrderedDict(a=1),
    "a complex number": lambda: 1j,
    "an exception": lambda: ValueError("x"),
}


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        pairs = zip(left.items(), right.items(), strict=False)
        return len(left) == len(right) and all(same(a, b) for a, b in pairs)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, set | frozenset):
        return {(type(each), each) for each in left} == {(type(each), each) for each in right}
    return bool(left == right) and repr(left) == repr(right)


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
async def test_a_value_comes_back_equal_and_of_its_type_or_is_refused_and_nothing_is_stored(
    make_manager: Managers, database: Database, make: Callable[[], Any]
) -> None:
    seen: list[Any] = []

    async def put(request: Request) -> Response:
        session_of(request)["path"] = {"to": [make()]}
        return PlainTextResponse("put")

    async def get(request: Request) -> Response:
        seen.append(session_of(request)["path"]["to"][0])
        return PlainTextResponse("got")

    manager = make_manager(store=database.engine)
    browser = Browser(app_of(manager, Route("/put", put), Route("/get", get)))
    await browser.get("/write?k=v")
    before = database.rows()
    refused: SerializationError | None = None
    try:
        await browser.get("/put")
    except SerializationError as error:
        refused = error
    if refused is None:
        await browser.get("/get")
        assert same(seen[0], make())
    else:
        assert refused.path[:2] == ("path", "to")
        assert database.rows() == before
        assert (await browser.get("/read")).json() == {"k": "v"}


async def test_what_can_not_be_faithful_is_refused_and_not_all_is(
    make_manager: Managers, database: Database
) -> None:
    verdicts = {}
    for label, make in VALUES.items():
        session = await make_manager(store=database.engine).aopen(None)
        session["k"] = make()
        try:
            await session.asave()
        except SerializationError:
            verdicts[label] = "refused"
    assert verdicts.keys() >= {"NaN", "infinity", "a cycle", "an object", "100 levels"}
    assert not verdicts.keys() & {"None", "text", "a tuple", "bytes", "sets", "times", "a UUID"}


@pytest.mark.parametrize(
    ("path", "refusal"),
    [("/big", SessionTooLarge), ("/deep", SerializationError)],
)
async def test_too_large_or_too_deep_names_the_key_and_leaves_row_and_cookie_alone(
    make_manager: Managers, database: Database, path: str, refusal: type[Exception]
) -> None:
    async def big(request: Request) -> Response:
        session_of(request)["culprit"] = "x" * (65 * 1024)
        return PlainTextResponse("too late")

    async def deep(request: Request) -> Response:
        session_of(request)["culprit"] = nested(33)
        return PlainTextResponse("too late")

    manager = make_manager(store=database.engine)
    browser = Browser(app_of(manager, Route("/big", big), Route("/deep", deep)))
    await browser.get("/write?k=v")
    before = database.rows()
    with pytest.raises(refusal, match="culprit"):
        await browser.get(path)
    answer = await browser.get(path, may_fail=True)
    assert (answer.status, answer.set_cookies) == (500, [])
    assert database.rows() == before
    anonymous = await Browser(browser.app).get(path, may_fail=True)
    assert (anonymous.status, anonymous.set_cookies) == (500, [])
    assert database.count() == 1


async def test_a_change_deep_inside_is_saved(manager: SessionManager) -> None:
    async def fill(request: Request) -> Response:
        request.session["cart"] = []
        return PlainTextResponse("filled")

    browser = Browser(app_of(manager, Route("/fill", fill)))
    await browser.get("/fill")
    for item in ("tea", "milk"):
        await browser.get(f"/append?item={item}")
    assert (await browser.get("/read")).json() == {"cart": ["tea", "milk"]}


@pytest.mark.parametrize("coherence", ["validate", "bounded", "stamps"])
async def test_what_a_failed_request_did_to_its_session_is_seen_by_no_other(
    make_manager: Managers, sqlite_url: str, coherence: str
) -> None:
    ready, failed = anyio.Event(), anyio.Event()
    seen: list[Any] = []

    async def fill(request: Request) -> Response:
        request.session["cart"] = {"items": ["tea"]}
        return PlainTextResponse("filled")

    async def vandal(request: Request) -> Response:
        request.session["cart"]["items"].append("bomb")
        request.session["cart"]["owner"] = "mallory"
        raise RuntimeError("after the damage")

    async def slow(request: Request) -> Response:
        """Loaded before the damage, read after it."""
        cart = request.session["cart"]
        ready.set()
        await failed.wait()
        seen.append(cart)
        return PlainTextResponse("seen")

    manager = make_manager(store=sqlite_url, coherence=coherence)
    routes = [Route(f"/{each.__name__}", each) for each in (fill, vandal, slow)]
    browser = Browser(app_of(manager, *routes))
    await browser.get("/fill")
    clean = {"cart": {"items": ["tea"]}}
    for _ in range(200):
        ready, failed = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(browser.get, "/slow")
            await ready.wait()
            assert (await browser.get("/vandal", may_fail=True)).status == 500
            failed.set()
        assert (await browser.get("/read")).json() == clean
    assert seen == [clean["cart"]] * 200


@pytest.mark.parametrize("coherence", ["validate", "bounded", "stamps"])
async def test_no_session_ever_reads_anothers_tag(
    make_manager: Managers, sqlite_url: str, coherence: str
) -> None:
    # Room for about ten entries: they push one another out all the time.
    manager = make_manager(store=sqlite_url, coherence=coherence, cache_max_bytes=8_000)
    app = app_of(manager)
    wrong: list[object] = []

    async def live(tag: int) -> None:
        browser = Browser(app)
        await browser.get(f"/login?user={tag}")
        for step in range(10):
            answer = (await browser.get(f"/write?step={step}")).json()
            again = (await browser.get("/read")).json()
            expected = {"user_id": str(tag), "step": str(step)}
            wrong.extend(each for each in (answer, again) if each != expected)
            if step % 3 == 0:
                await browser.get("/rotate")

    async with anyio.create_task_group() as group:
        for tag in range(30):
            group.start_soon(live, tag)
    assert wrong == []
    assert 0 < manager.stats()["cache_bytes"] <= 8_000


@pytest.mark.parametrize("path", ["/boom?k=changed", "/status/500?k=changed", "/status/503?k=w"])
async def test_a_failed_request_changes_neither_row_nor_cookie(
    make_manager: Managers, database: Database, path: str
) -> None:
    browser = Browser(app_of(make_manager(store=database.engine)))
    await browser.get("/write?k=v")
    before = database.rows()
    for visitor in (browser, Browser(browser.app)):
        answer = await visitor.get(path, may_fail=True)
        assert answer.status >= 500
        assert answer.set_cookies == []
    assert database.rows() == before


async def test_a_request_that_the_client_got_wrong_is_saved(browser: Browser) -> None:
    answer = await browser.get("/status/404?k=v")
    assert answer.status == 404
    assert (await browser.get("/read")).json() == {"k": "v"}


@pytest.mark.parametrize("stored", [True, False], ids=["a stored session", "a new session"])
async def test_a_change_after_the_response_has_begun_is_an_error_and_no_silent_loss(
    make_manager: Managers,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    stored: bool,
) -> None:
    events: list[SessionEvent] = []

    async def late(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            request.session["late"] = 1

        return StreamingResponse(body())

    manager = make_manager(store=database.engine, on_event=events.append)
    browser = Browser(app_of(manager, Route("/late", late)))
    if stored:
        await browser.get("/write?k=v")
    before = database.count()
    with pytest.raises(ResponseAlreadyStarted, match="asave"):
        await browser.get("/late")
    assert [event.kind for event in events][-1] == "late_change"
    assert any("late_change" in message for message in caplog.messages)
    assert database.count() == before
    assert (await browser.get("/read")).json() == ({"k": "v"} if stored else {})


async def test_a_late_change_can_be_saved_by_hand_where_the_cookie_is_there(
    manager: SessionManager,
) -> None:
    async def late(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            session_of(request)["late"] = 1
            await session_of(request).asave()

        return StreamingResponse(body())

    async def keys(request: Request) -> Response:
        return JSONResponse(sorted(request.session))

    browser = Browser(app_of(manager, Route("/late", late), Route("/keys", keys)))
    await browser.get("/write?k=v")
    await browser.get("/late")
    assert (await browser.get("/keys")).json() == ["k", "late"]
