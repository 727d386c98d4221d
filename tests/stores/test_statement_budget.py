"""What each kind of request costs the database, counted on the real app."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import Engine, event
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sessionware import SessionManager, clock
from tests.apps import Browser, Managers, app_of
from tests.byhand import Clock
from tests.databases import drivers, until_alive, url_of

pytestmark = pytest.mark.anyio

READ = {"SELECT": 1}
ROTATION = {"UPDATE": 1, "INSERT": 1}
# What a browser with a session asks for, and what that takes beside reading the session.
REQUESTS: dict[str, dict[str, int]] = {
    "/read": {},
    "/noop": {},
    "/write?a=1": {},  # as it is stored already
    "/boom?a=2": {},
    "/status/500?a=2": {},
    "/write?a=2": {"UPDATE": 1},
    "/status/404?a=3": {"UPDATE": 1},
    "/rotate": ROTATION,
    "/login?user=alice": ROTATION,
    "/logout": {"DELETE": 1},
    "/clear": {"DELETE": 1},
}
all_drivers = drivers("sqlite", "psycopg", "asyncpg", "pymysql", "asyncmy")


class Statements:
    """Every statement that SQLAlchemy sends, on whichever engine."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, connection: Any, cursor: Any, text: str, *_: Any) -> None:
        self.texts.append(text)

    def spent(self) -> dict[str, int]:
        """How many of each kind since the last time; the bounds of transactions are not counted."""
        verbs = Counter(text.split()[0].upper() for text in self.texts)
        self.texts.clear()
        return {verb: n for verb, n in verbs.items() if verb not in ("BEGIN", "COMMIT", "ROLLBACK")}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def statements() -> Iterator[Statements]:
    counted = Statements()
    event.listen(Engine, "before_cursor_execute", counted.note)
    yield counted
    event.remove(Engine, "before_cursor_execute", counted.note)


class Site:
    """An app on a database whose tables are there."""

    def __init__(self, manager: SessionManager, statements: Statements) -> None:
        self.manager = manager
        self.statements = statements
        self.app = app_of(
            manager, Route("/conflict", self.conflict), Route("/static/x", self.plain)
        )

    async def conflict(self, request: Request) -> Response:
        """While this request runs, another one of the same session stores something."""
        request.session["mine"] = "1"
        other = Browser(self.app, request.cookies["session"])
        assert (await other.get("/write?theirs=1")).status == 200
        self.statements.texts.clear()
        return PlainTextResponse()

    async def plain(self, request: Request) -> Response:
        return PlainTextResponse()

    async def visitor(self) -> Browser:
        """A browser with a session that this process has in its cache."""
        browser = Browser(self.app)
        await browser.get("/write?a=1")
        assert browser.token is not None
        self.statements.texts.clear()
        return browser

    async def cost(self, browser: Browser, path: str, **how: Any) -> dict[str, int]:
        self.statements.texts.clear()
        await browser.get(path, **how)
        return self.statements.spent()


@pytest.fixture
async def managers() -> Any:
    async with aclosing(Managers()) as made:
        yield made


@pytest.fixture
async def make_site(
    driver: str,
    table_name: str,
    statements: Statements,
    managers: Managers,
    request: pytest.FixtureRequest,
) -> Any:
    """Makes a site on the driver's database."""

    async def make(**settings: Any) -> Site:
        url = url_of(driver, request)
        site = Site(managers(store=url, table_name=table_name, **settings), statements)
        await site.manager.store.aprepare()
        return site

    return make


@all_drivers
async def test_each_request_costs_what_the_budget_says(make_site: Any) -> None:
    """`validate` asks once a request whether the cached row still stands, `bounded` doesn't."""
    for coherence, reading in (("validate", READ), ("bounded", {})):
        site = await make_site(coherence=coherence)

        spent = {
            path: await site.cost(await site.visitor(), path, may_fail=True) for path in REQUESTS
        }

        assert spent == {path: {**reading, **writing} for path, writing in REQUESTS.items()}


@drivers("sqlite")
async def test_under_stamps_reading_costs_nothing_and_writing_what_it_always_does(
    make_site: Any,
) -> None:
    site = await make_site(coherence="stamps")

    spent = {path: await site.cost(await site.visitor(), path, may_fail=True) for path in REQUESTS}

    assert spent == REQUESTS


@drivers("psycopg", "asyncpg")
async def test_under_notify_reading_costs_nothing_and_nobody_is_told_over_the_stores_connections(
    make_site: Any,
) -> None:
    site = await make_site(coherence="notify")
    await site.visitor()
    await until_alive(site.manager)

    spent = {path: await site.cost(await site.visitor(), path, may_fail=True) for path in REQUESTS}

    assert spent == REQUESTS


@drivers("psycopg", "asyncpg")
async def test_while_nobody_can_listen_each_hit_asks_and_each_change_is_told_by_the_store(
    make_site: Any,
) -> None:
    site = await make_site(coherence="notify", listen_url="postgresql://127.0.0.1:1/nowhere")
    browser = await site.visitor()

    assert await site.cost(browser, "/read") == READ
    # Its own validation, and the NOTIFY for those who do hear.
    assert await site.cost(browser, "/write?a=2") == {"SELECT": 2, "UPDATE": 1}
    assert not site.manager.store.channel.alive


@all_drivers
@pytest.mark.parametrize("coherence", ["auto", "validate", "bounded"])
async def test_a_session_not_in_the_cache_is_read_with_one_select(
    make_site: Any, coherence: str
) -> None:
    site = await make_site(coherence=coherence)
    browser = await site.visitor()
    site.manager.store.cache.clear()

    assert await site.cost(browser, "/read") == READ


@drivers("sqlite")
async def test_a_validation_reads_the_stamp_and_not_the_data(
    make_site: Any, statements: Statements
) -> None:
    site = await make_site(coherence="validate")
    browser = await site.visitor()

    await browser.get("/read")

    (statement,) = statements.texts
    assert "version" in statement
    assert "data" not in statement


@all_drivers
async def test_a_new_session_costs_one_insert(make_site: Any) -> None:
    site = await make_site()

    assert await site.cost(Browser(site.app), "/write?a=1") == {"INSERT": 1}
    assert await site.cost(Browser(site.app), "/login?user=alice") == {"INSERT": 1}


@all_drivers
async def test_a_conflict_costs_one_select_and_one_update_more(make_site: Any) -> None:
    site = await make_site()
    browser = await site.visitor()

    # Counting begins at the handler's end, after its own validation.
    assert await site.cost(browser, "/conflict") == {"UPDATE": 2, "SELECT": 1}

    assert (await browser.get("/read")).json() == {"a": "1", "theirs": "1", "mine": "1"}


@all_drivers
@pytest.mark.parametrize("lifetime", [{"idle_timeout": 1800}, {"max_age": 1800, "rolling": True}])
async def test_a_touch_that_is_due_costs_one_update(
    make_site: Any, lifetime: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Clock()
    monkeypatch.setattr(clock, "now", now)
    site = await make_site(coherence="bounded", **lifetime)
    browser = await site.visitor()

    now.tick(179)
    assert await site.cost(browser, "/noop") == {}
    now.tick(2)
    assert await site.cost(browser, "/noop") == {"UPDATE": 1}
    assert await site.cost(browser, "/noop") == {}
    # A save renews what a touch would have.
    now.tick(181)
    assert await site.cost(browser, "/write?a=2") == {"UPDATE": 1}
    assert await site.cost(browser, "/noop") == {}


@all_drivers
async def test_a_visitor_without_a_session_costs_nothing(make_site: Any) -> None:
    site = await make_site()
    paths = ["/read", "/noop", "/logout", "/clear", "/rotate", "/boom?a=1", "/status/500?a=1"]

    spent = {path: await site.cost(Browser(site.app), path, may_fail=True) for path in paths}

    assert spent == {path: {} for path in paths}


@drivers("sqlite")
async def test_a_cookie_that_does_not_verify_costs_nothing(make_site: Any) -> None:
    site = await make_site()
    browser, second = await site.visitor(), await site.visitor()
    site.manager.store.cache.clear()
    token = browser.token
    cookies = [
        "session=",
        "session=forged",
        f"session={token[:-1]}",
        f"session={token}x",
        f"session={token.swapcase()}",
        f"session={'a' * len(token)}",
        f"other={token}",
        f"session={token}; session={second.token}",
    ]

    spent = {cookie: await site.cost(browser, "/read", cookie=cookie) for cookie in cookies}

    assert spent == {cookie: {} for cookie in cookies}
    assert await site.cost(browser, "/read") == READ


@drivers("sqlite")
async def test_an_excluded_path_costs_nothing(make_site: Any) -> None:
    site = await make_site(exclude=["/static"])
    browser = await site.visitor()
    site.manager.store.cache.clear()

    assert await site.cost(browser, "/static/x") == {}
    assert await site.cost(browser, "/noop") == READ
