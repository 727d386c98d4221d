"""Under many visitors, threads and errors: bounded memory, bounded logs, an answer (R44, R50, R55,
R60, R61).
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from sessionware import SessionManager
from sessionware.cache import RowCache
from sessionware.stores.protocol import Row
from sessionware.tokens import Tokens, new_id
from tests.apps import COOKIE, SECRET, Browser, Managers, app_of
from tests.security.conftest import Database

pytestmark = pytest.mark.anyio

LIVE = 100
KEYS = Tokens(SECRET, [], COOKIE)


def dead_cookie() -> str:
    """Signed by us, for a session that isn't there."""
    return f"{COOKIE}={KEYS.sign(new_id())}"


async def test_three_thousand_dead_cookies_push_no_live_session_out_of_the_cache(
    make_manager: Managers, database: Database
) -> None:
    # Room for the live ones and hardly more.
    manager = make_manager(store=database.engine, cache_max_bytes=LIVE * 1_200, cache_ttl=600)
    app = app_of(manager)
    browsers = [Browser(app) for _ in range(LIVE)]
    for browser in browsers:
        await browser.get("/write?k=v")
    entries = manager.stats()["cache_entries"]
    stranger = Browser(app)
    for _ in range(3_000):
        assert (await stranger.get("/read", cookie=dead_cookie())).body == b"{}"
    assert manager.stats()["cache_entries"] == entries == LIVE
    database.statements.clear()
    for browser in browsers:
        assert (await browser.get("/read")).json() == {"k": "v"}
    assert not [each for each in database.statements if "sessions.data" in each]


async def test_the_cache_holds_no_more_bytes_than_it_may(
    make_manager: Managers, sqlite_url: str
) -> None:
    manager = make_manager(store=sqlite_url, cache_max_bytes=50_000)
    app = app_of(manager)
    for size in range(200):
        await Browser(app).get("/write?k=" + "x" * (size * 100))
        assert manager.stats()["cache_bytes"] <= 50_000
    assert manager.stats()["cache_entries"] > 1


def a_row(key: bytes, version: int = 1) -> Row:
    return Row(1, key, version, 0, None, key * 8, 0, None, 0, 2**62, 2**62)


def test_thirty_two_threads_at_one_cache_never_raise_and_never_mix_up_keys() -> None:
    cache = RowCache(ttl=60, max_bytes=30_000)
    keys = [bytes([number]) * 32 for number in range(100)]
    together = threading.Barrier(32)

    def work(seed: int) -> int:
        chance = random.Random(seed)
        together.wait()
        for _ in range(2_000):
            key = chance.choice(keys)
            match chance.randrange(8):
                case 0 | 1 | 2:
                    found = cache.get(key)
                    assert found is None or found.row.data == key * 8
                case 3:
                    cache.fill(key, cache.token(key), a_row(key))
                case 4:
                    cache.settle(key, cache.token(key), a_row(key, 2))
                case 5:
                    cache.invalidate(key)
                case 6:
                    cache.bury(key, None, 60)
                    cache.unbury(key)
                case 7:
                    cache.retime(key, a_row(key))
                    cache.tombstone(key)
            assert cache.size <= 30_000
        return 1

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(work, range(32))) == 32


def test_thirty_two_threads_of_one_manager_lose_no_increment_and_see_no_stranger(
    sqlite_url: str,
) -> None:
    manager = SessionManager(
        secret_key=SECRET, store=sqlite_url, purge_interval=None, store_timeout=20
    )
    shared = manager.open(None)
    shared["n"] = 0
    cookie = dict(manager.close(shared))["Set-Cookie"].partition(";")[0]

    def work(tag: int) -> None:
        mine = manager.open(None)
        mine["tag"] = tag
        own = dict(manager.close(mine))["Set-Cookie"].partition(";")[0]
        for _ in range(10):
            manager.open(cookie).incr("n")
            session = manager.open(own)
            assert dict(session)["tag"] == tag
            session["last"] = tag
            manager.close(session)

    try:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(work, range(32)))
        assert manager.open(cookie)["n"] == 320
    finally:
        manager.shutdown()


@pytest.mark.parametrize("path", ["/write?k=v", "/rotate", "/login?user=alice"])
async def test_a_write_that_the_database_always_refuses_is_503_and_tried_a_few_times_only(
    make_manager: Managers, database: Database, path: str
) -> None:
    browser = Browser(app_of(make_manager(store=database.engine)))
    await browser.get("/write?a=b")
    if path == "/write?k=v":
        # Without a session of its own it takes an INSERT.
        browser.token = None
    refuse = "ON sessions BEGIN SELECT RAISE(ABORT, 'the disk quota of this tenant'); END"
    for verb in ("INSERT", "UPDATE"):
        database.run(f"CREATE TRIGGER refuse_{verb} BEFORE {verb} {refuse}")
    database.statements.clear()
    try:
        with anyio.fail_after(10):
            answer = await browser.get(path)
        tried = [each for each in database.statements if each.startswith(("INSERT", "UPDATE"))]
    finally:
        for verb in ("INSERT", "UPDATE"):
            database.run(f"DROP TRIGGER refuse_{verb}")
    assert (answer.status, answer.set_cookies) == (503, [])
    assert b"quota" not in answer.body
    assert b"SQL" not in answer.body
    assert int(answer.all("retry-after")[0]) > 0
    assert 1 <= len(tried) <= 10


async def test_ten_thousand_forged_cookies_are_counted_each_and_logged_once_a_second(
    manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "sessionware")
    browser = Browser(app_of(manager))
    caplog.clear()
    for number in range(10_000):
        await browser.get("/noop", cookie=f"{COOKIE}=forged{number}")
    assert manager.stats()["events"] == {"bad_signature": 10_000}
    assert 1 <= len(caplog.records) <= 20


@pytest.mark.parametrize(
    "hostile",
    [b"\x1b[31mred", b"\r\nlevel=CRITICAL root logged in", "\u2028\u2029\x85".encode(), b"%s%n{0}"],
)
async def test_nothing_of_a_hostile_cookie_reaches_a_log_line(
    make_manager: Managers, caplog: pytest.LogCaptureFixture, hostile: bytes
) -> None:
    caplog.set_level("DEBUG")
    browser = Browser(app_of(make_manager()))
    for cookie in (hostile, COOKIE.encode() + b"=" + hostile, hostile + b"=1;" * 9):
        agent = hostile.decode("latin-1")
        await browser.get("/read", cookie=cookie, headers=[("User-Agent", agent)])
    lines = [record.getMessage() for record in caplog.records if record.name == "sessionware"]
    assert len(lines) == 1
    assert re.fullmatch(r"session event bad_signature session=- total=1 ", lines[0])


OUTAGES: dict[str, Callable[[Database], object]] = {
    "no table": lambda database: database.run("ALTER TABLE sessions RENAME TO elsewhere"),
    "a table of other columns": lambda database: database.run(
        "ALTER TABLE sessions RENAME COLUMN data TO datum"
    ),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_a_session_that_can_not_be_read_is_503_and_never_an_empty_one(
    make_manager: Managers, database: Database, outage: str
) -> None:
    app = app_of(make_manager(store=database.engine, cache_ttl=0))
    browser = Browser(app)
    await browser.get("/write?k=v")
    OUTAGES[outage](database)
    for path in ("/read", "/write?k=w", "/clear", "/logout", "/login?user=alice"):
        answer = await browser.get(path)
        assert (answer.status, answer.body) == (503, b"Service Unavailable")
        assert answer.set_cookies == []
        assert answer.all("retry-after")
    assert (await browser.get("/noop")).status == 200
    for statement in (
        "ALTER TABLE elsewhere RENAME TO sessions",
        "ALTER TABLE sessions RENAME COLUMN datum TO data",
    ):
        if (outage == "no table") == ("elsewhere" in statement):
            database.run(statement)
    assert (await browser.get("/read")).json() == {"k": "v"}
