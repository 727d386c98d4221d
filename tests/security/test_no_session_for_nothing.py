"""Visitors who store nothing leave nothing: no row, no cookie (R41, R64, CVE-2015-5143, -5963)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sessionware.tokens import Tokens, new_id
from tests.apps import COOKIE, SECRET, Browser, Managers, app_of
from tests.security.conftest import Database

pytestmark = pytest.mark.anyio

TIMES = 1000
KEYS = Tokens(SECRET, [], COOKIE)
VISITS: dict[str, tuple[str, Callable[[], str | None]]] = {
    "no cookie": ("/read", lambda: None),
    "a bad cookie": ("/read", lambda: f"{COOKIE}={new_id()}.{new_id()}"),
    "a dead cookie": ("/read", lambda: f"{COOKIE}={KEYS.sign(new_id())}"),
    "another site's cookie": ("/read", lambda: f"other={KEYS.sign(new_id())}"),
    "an anonymous logout": ("/logout", lambda: None),
    "a logout with a dead cookie": ("/logout", lambda: f"{COOKIE}={KEYS.sign(new_id())}"),
    "an anonymous rotation": ("/rotate", lambda: None),
    "clear": ("/clear", lambda: None),
    "a failure": ("/status/500?k=v", lambda: None),
    "nothing at all": ("/noop", lambda: None),
}


@pytest.mark.parametrize("visit", VISITS)
async def test_a_thousand_visitors_who_store_nothing_make_no_row_and_get_no_cookie(
    make_manager: Managers, database: Database, visit: str
) -> None:
    path, cookie = VISITS[visit]
    manager = make_manager(store=database.engine)
    browser = Browser(app_of(manager))
    for _ in range(TIMES):
        assert (await browser.get(path, cookie=cookie())).set_cookies == []
    assert database.count() == 0
    assert [each for each in database.statements if each.startswith("INSERT")] == []


@pytest.mark.parametrize("value", ["", '""', "null", "None", "0", ".", "{}", " "])
async def test_an_empty_cookie_reaches_neither_cache_nor_database(
    make_manager: Managers, database: Database, value: str
) -> None:
    manager = make_manager(store=database.engine)
    answer = await Browser(app_of(manager)).get("/read", cookie=f"{COOKIE}={value}")
    assert (answer.json(), answer.set_cookies) == ({}, [])
    assert database.statements == []
    assert manager.stats()["cache_misses"] == 0


async def test_an_excluded_path_loads_stores_and_sets_nothing_even_for_who_is_logged_in(
    make_manager: Managers, database: Database
) -> None:
    manager = make_manager(store=database.engine, exclude=["/read", "/write", "/noop"])
    browser = Browser(app_of(manager))
    await browser.get("/login?user=alice")
    before = database.rows()
    database.statements.clear()
    for path in ("/read", "/noop"):
        answer = await browser.get(path)
        assert answer.status == 200
        assert answer.set_cookies == []
        assert answer.all("vary") == []
    assert (await browser.get("/read")).json() == {}
    with pytest.raises(RuntimeError, match="exclude"):
        await browser.get("/write?k=v")
    assert database.statements == []
    assert database.rows() == before
