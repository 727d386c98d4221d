"""How sessions end: rotation, logout, time, and from elsewhere (R25, R27, R32 to R38, R40)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sessionware import ReauthenticationRequired, manager_of, session_of
from tests.apps import COOKIE, Browser, Managers, app_of
from tests.security.conftest import Clock, Database

pytestmark = pytest.mark.anyio

COHERENCE = pytest.mark.parametrize("coherence", ["validate", "bounded", "stamps"])


@pytest.fixture
def workers(make_manager: Managers, sqlite_url: str) -> list[Any]:
    """Three workers of one app: each has its own cache, and has it filled."""
    return [app_of(make_manager(store=sqlite_url)) for _ in range(3)]


async def warmed(workers: list[Any], token: str | None) -> list[Browser]:
    """The same session on every worker, in its cache."""
    browsers = [Browser(worker, token) for worker in workers]
    for browser in browsers:
        assert (await browser.get("/read")).json() != {}
    return browsers


@pytest.mark.parametrize("path", ["/login?user=alice", "/rotate"])
async def test_the_old_id_is_dead_on_every_worker_as_soon_as_the_new_one_is_answered(
    workers: list[Any], path: str
) -> None:
    first = Browser(workers[0])
    await first.get("/write?k=v")
    olds = await warmed(workers, first.token)
    new = (await first.get(path)).token
    for old in olds:
        answer = await old.get("/read")
        assert (answer.json(), answer.set_cookies) == ({}, [])
    for browser in await warmed(workers, new):
        assert (await browser.get("/read")).json()["k"] == "v"


async def test_after_a_logout_the_cookie_opens_nothing_a_hundred_times_on_every_worker(
    workers: list[Any],
) -> None:
    first = Browser(workers[0])
    await first.get("/login?user=alice")
    browsers = await warmed(workers, first.token)
    await first.get("/logout")
    replies = [(await browser.get("/read")).json() for browser in browsers for _ in range(100)]
    assert replies == [{}] * 300


async def test_ending_one_of_two_logins_leaves_the_other(workers: list[Any]) -> None:
    laptop, phone = Browser(workers[0]), Browser(workers[1])
    await laptop.get("/login?user=alice")
    await phone.get("/login?user=alice")
    assert laptop.token != phone.token
    await laptop.get("/logout")
    assert (await phone.get("/read")).json() == {"user_id": "alice"}


class TestTime:
    """Decided on read by the row's own times, wherever the row comes from."""

    @COHERENCE
    @pytest.mark.parametrize("setting", ["idle_timeout", "absolute_timeout", "max_age"])
    async def test_the_last_second_counts_and_the_next_does_not_though_the_row_is_there(
        self,
        make_manager: Managers,
        database: Database,
        time: Clock,
        setting: str,
        coherence: str,
    ) -> None:
        settings = {setting: 1000, "coherence": coherence, "cache_ttl": 900}
        app = app_of(make_manager(store=database.engine, **settings))
        for seconds, alive in ((999, True), (1000, False), (1001, False)):
            browser = Browser(app)
            await browser.get("/write?k=v")
            await browser.get("/read")
            before = database.count()
            time.advance(seconds)
            answer = await browser.get("/read")
            assert bool(answer.json()) is alive
            assert answer.set_cookies == []
            assert database.count() == before

    @COHERENCE
    async def test_no_activity_renewal_or_rotation_moves_the_absolute_end(
        self, make_browser: Callable[..., Browser], time: Clock, coherence: str
    ) -> None:
        browser = make_browser(
            absolute_timeout=3600, idle_timeout=600, rolling=True, coherence=coherence
        )
        await browser.get("/login?user=alice")
        for minute in range(1, 60):
            time.advance(60)
            await browser.get("/rotate" if minute % 7 == 0 else f"/write?minute={minute}")
            assert (await browser.get("/read")).json()["user_id"] == "alice"
        time.advance(59)
        assert (await browser.get("/read")).json() != {}
        time.advance(2)
        assert (await browser.get("/read")).json() == {}

    async def test_a_save_that_comes_after_the_end_is_dropped(
        self, make_manager: Managers, database: Database, time: Clock
    ) -> None:
        async def slow(request: Request) -> Response:
            session_of(request)["late"] = 1
            time.advance(2000)
            return PlainTextResponse("done")

        browser = Browser(
            app_of(make_manager(store=database.engine, max_age=1000), Route("/slow", slow))
        )
        await browser.get("/write?k=v")
        before = database.rows()
        assert (await browser.get("/slow")).set_cookies == []
        assert database.rows() == before

    async def test_reads_write_once_a_tenth_of_the_idle_time_and_err_by_no_more(
        self, make_manager: Managers, database: Database, time: Clock
    ) -> None:
        idle = 1800
        browser = Browser(app_of(make_manager(store=database.engine, idle_timeout=idle)))
        await browser.get("/write?k=v")
        database.statements.clear()
        for _ in range(1000):
            time.advance(0.36)
            await browser.get("/read")
        updates = [each for each in database.statements if each.startswith("UPDATE")]
        assert len(updates) == 2, "360 seconds hold two tenths of 1800"
        time.advance(idle * 0.9 - 1)
        assert (await browser.get("/read")).json() == {"k": "v"}
        time.advance(idle)
        assert (await browser.get("/read")).json() == {}

    async def test_the_purge_takes_expired_rows_only_and_a_thousand_at_a_time(
        self, make_manager: Managers, database: Database, time: Clock
    ) -> None:
        manager = make_manager(store=database.engine, max_age=10_000)
        app = app_of(manager)
        await Browser(app).get("/write?k=expired")
        database.run(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2499) "
            "INSERT INTO sessions SELECT id + i, randomblob(32), version, epoch, user_id, data, "
            "created_at, authenticated_at, last_seen, expires_at, purge_after, ip, user_agent "
            "FROM sessions, n"
        )
        assert database.count() == 2500
        time.advance(9_000)
        live = Browser(app)
        await live.get("/write?k=live")
        assert await manager.apurge() == 0
        time.advance(5_000)
        assert await manager.apurge() == 2500
        assert sum(database.deleted) == 2500
        assert max(database.deleted) <= 1000
        assert (await live.get("/read")).json() == {"k": "live"}
        assert database.count() == 1


class TestDirectory:
    """A user's sessions, seen and ended from elsewhere."""

    @pytest.fixture
    async def logins(self, workers: list[Any]) -> list[Browser]:
        """Five logins of alice's and one of bob's, over three workers with warm caches."""
        browsers = []
        for number in range(6):
            browser = Browser(workers[number % 3])
            await browser.get(f"/login?user={'bob' if number == 5 else 'alice'}")
            await warmed(workers, browser.token)
            browsers.append(browser)
        return browsers

    async def alive(self, workers: list[Any], browsers: list[Browser]) -> list[bool]:
        """Which sessions still stand; every worker has to agree."""
        verdicts = []
        for browser in browsers:
            seen = {bool((await Browser(w, browser.token).get("/read")).json()) for w in workers}
            assert len(seen) == 1
            verdicts.append(seen.pop())
        return verdicts

    async def test_all_of_a_users_sessions_but_the_current_one_end_on_every_worker(
        self, make_manager: Managers, sqlite_url: str, workers: list[Any], logins: list[Browser]
    ) -> None:
        async def elsewhere(request: Request) -> Response:
            session = session_of(request)
            ended = await manager_of(request).arevoke_user("alice", keep=session)
            return JSONResponse(ended)

        here = app_of(make_manager(store=sqlite_url), Route("/elsewhere", elsewhere))
        assert (await Browser(here, logins[0].token).get("/elsewhere")).json() == 4
        assert await self.alive(workers, logins) == [True, False, False, False, False, True]

    async def test_every_session_of_a_user_or_of_everybody_ends_on_every_worker(
        self, make_manager: Managers, sqlite_url: str, workers: list[Any], logins: list[Browser]
    ) -> None:
        operator = make_manager(store=sqlite_url)
        assert await operator.arevoke_user("alice") == 5
        assert await self.alive(workers, logins) == [False] * 5 + [True]
        assert await operator.arevoke_all() == 1
        assert await self.alive(workers, logins) == [False] * 6

    async def test_a_handle_ends_one_session_and_only_its_owners(
        self, make_manager: Managers, sqlite_url: str, workers: list[Any], logins: list[Browser]
    ) -> None:
        operator = make_manager(store=sqlite_url)
        (of_bob,) = await operator.alist_sessions("bob")
        assert not await operator.arevoke(of_bob.handle, user_id="alice")
        assert await self.alive(workers, logins) == [True] * 6
        assert await operator.arevoke(of_bob.handle, user_id="bob")
        assert await self.alive(workers, logins) == [True] * 5 + [False]

    async def test_a_list_shows_handles_that_are_no_part_of_id_cookie_or_stored_hash(
        self, make_manager: Managers, database: Database
    ) -> None:
        manager = make_manager(store=database.engine)
        browser = Browser(app_of(manager))
        token = (await browser.get("/login?user=alice")).token
        (row,) = database.rows()
        (listed,) = await manager.alist_sessions("alice")
        shown = repr(listed).lower()
        secrets = [token, *token.split("."), row.sid_hash.hex(), row.sid_hash.hex()[:12]]
        assert not any(secret.lower() in shown for secret in secrets)
        assert listed.handle in shown
        for value in (listed.handle, listed.handle * 7 + "A"):
            assert (await browser.get("/read", cookie=f"{COOKIE}={value}")).json() == {}


async def test_only_a_new_proof_of_identity_renews_what_require_recent_asks_for(
    make_manager: Managers, sqlite_url: str, time: Clock
) -> None:
    async def delicate(request: Request) -> Response:
        session_of(request).require_recent(300)
        return PlainTextResponse("allowed")

    async def prove(request: Request) -> Response:
        session_of(request).rotate(authenticated=True)
        return PlainTextResponse("proven")

    manager = make_manager(store=sqlite_url)
    browser = Browser(app_of(manager, Route("/delicate", delicate), Route("/prove", prove)))

    async def allowed() -> bool:
        try:
            return (await browser.get("/delicate")).body == b"allowed"
        except ReauthenticationRequired:
            return False

    assert not await allowed(), "nobody is logged in"
    await browser.get("/write?k=v")
    assert not await allowed(), "a session is no login"
    await browser.get("/login?user=alice")
    time.advance(300)
    assert await allowed()
    time.advance(1)
    assert not await allowed()
    for path in ("/rotate", "/login?user=alice", "/write?k=w"):
        await browser.get(path)
        assert not await allowed(), path
    await browser.get("/prove")
    assert await allowed()
