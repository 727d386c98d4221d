"""When a session ends: rolling, idle and absolute lifetimes, and ``set_expiry``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sessionware import Session
from tests.apps import attributes
from tests.asgi.site import Act, Site, Visitor, in_turn, row, rows, statements
from tests.byhand import NOON, Clock

pytestmark = pytest.mark.anyio

Sites = Callable[..., Site]
DAY = 24 * 3600
IN_AN_HOUR = datetime.fromtimestamp(NOON / 1000, UTC) + timedelta(hours=1)


async def stored(site: Site, **content: Any) -> Visitor:
    browser = site.browser()
    await browser.visit(lambda session: session.update(content or {"a": 1}))
    return browser


async def cookie_age(browser: Visitor, act: Act | None = None) -> int | None:
    """The Max-Age of the cookie that a request is answered with; None without a cookie."""
    answer = await browser.visit(act)
    return int(attributes(answer.set_cookie)["max-age"]) if answer.set_cookies else None


@pytest.mark.parametrize("cache_ttl", [0, 30], ids=["no cache", "cached"])
@pytest.mark.parametrize("coherence", ["validate", "bounded", "stamps"])
@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({"max_age": 600}, 600), ({"idle_timeout": 600}, 600), ({"absolute_timeout": 600}, 600)],
)
async def test_a_session_ends_to_the_millisecond_though_its_row_is_still_there(
    clock: Clock,
    make_site: Sites,
    settings: dict[str, Any],
    seconds: int,
    coherence: str,
    cache_ttl: float,
) -> None:
    site = make_site(**settings, coherence=coherence, cache_ttl=cache_ttl)
    browser = await stored(site)
    clock.tick(seconds - 0.001)
    assert await site.browser(browser.token).content() == {"a": 1}
    if "idle_timeout" in settings:
        clock.tick(seconds - 0.001)
    clock.tick(0.001)
    before = row()
    answer = await browser.visit(dict)
    assert (answer.json(), answer.set_cookies) == ({}, [])
    assert row() == before
    assert site.events[-1] == "expired"


@pytest.mark.parametrize(
    "act",
    [
        None, dict, Session.clear, Session.invalidate, Session.rotate,
        lambda session: session.set_expiry(99), lambda session: session.pop("a", None),
    ],
)  # fmt: skip
async def test_no_request_revives_an_expired_session(
    clock: Clock, site: Site, act: Act | None
) -> None:
    browser = await stored(site)
    before = row()
    clock.tick(14 * DAY)
    assert (await browser.visit(act)).set_cookies == []
    assert rows() == [before]


async def test_what_is_stored_after_the_end_begins_a_new_session(clock: Clock, site: Site) -> None:
    browser = await stored(site, a=1)
    before, old = row(), browser.cookie
    clock.tick(14 * DAY)
    await browser.visit(lambda session: session.update(b=2))
    assert await browser.content() == {"b": 2}
    assert await browser.content(cookie=old) == {}
    assert rows()[0] == before


async def test_a_session_that_expires_during_the_request_is_not_saved(
    clock: Clock, site: Site
) -> None:
    browser = await stored(site)
    before = row()
    clock.tick(14 * DAY - 1)

    def act(session: Session) -> None:
        session["late"] = 1
        clock.tick(1)

    assert (await browser.visit(act)).set_cookies == []
    assert row() == before
    assert site.events[-1] == "stale_save_dropped"


async def test_without_rolling_and_idle_timeout_a_read_renews_nothing(
    clock: Clock, make_site: Sites
) -> None:
    browser = await stored(make_site(coherence="validate"))
    before = row()
    for _ in range(13):
        clock.tick(DAY)
        with statements() as executed:
            assert await cookie_age(browser, dict) is None
        assert executed == ["SELECT"]
    assert row() == before


async def test_a_save_renews_the_lifetime_and_the_cookie_when_a_tenth_has_passed(
    clock: Clock, make_site: Sites
) -> None:
    browser = await stored(make_site(max_age=6000))
    end = row().expires_at
    clock.tick(599.999)
    assert await cookie_age(browser, lambda session: session.update(a=2)) is None
    assert row().expires_at == end
    clock.tick(0.001)
    assert await cookie_age(browser, lambda session: session.update(a=3)) == 6000
    assert row().expires_at == clock.now + 6000_000
    clock.tick(1)
    assert await cookie_age(browser, lambda session: session.update(a=4)) is None


@pytest.mark.parametrize(
    "act", [lambda session: session.update(a=1), Session.mark_modified], ids=["write", "mark"]
)
async def test_a_write_that_changes_nothing_renews_them_too(
    clock: Clock, make_site: Sites, act: Act
) -> None:
    browser = await stored(make_site(max_age=6000))
    before = row()
    clock.tick(599)
    assert await cookie_age(browser, act) is None
    assert row() == before
    clock.tick(1)
    assert await cookie_age(browser, act) == 6000
    clock.tick(5999)
    assert await browser.content() == {"a": 1}
    clock.tick(1)
    assert await browser.content() == {}


@pytest.mark.parametrize("act", [None, dict], ids=["untouched", "read"])
async def test_rolling_renews_with_every_request_when_a_tenth_has_passed(
    clock: Clock, make_site: Sites, act: Act | None
) -> None:
    browser = await stored(make_site(max_age=6000, rolling=True, coherence="validate"))
    for _ in range(5):
        before = row()
        clock.tick(599.999)
        with statements() as executed:
            assert await cookie_age(browser, act) is None
        assert (executed, row()) == (["SELECT"], before)
        clock.tick(0.001)
        with statements() as executed:
            answer = await browser.visit(act)
        assert executed == ["SELECT", "UPDATE"]
        assert attributes(answer.set_cookie)["max-age"] == "6000"
        assert (answer.all("vary"), answer.all("cache-control")) == (["Cookie"], ["no-store"])
        assert row().expires_at == clock.now + 6000_000


async def test_a_renewal_touches_only_the_time_columns_and_keeps_the_id(
    clock: Clock, make_site: Sites
) -> None:
    browser = await stored(make_site(max_age=6000, rolling=True, idle_timeout=3000))
    before, token = row(), browser.token
    clock.tick(700)
    await browser.visit(dict)
    after = row()
    assert after._replace(last_seen=0, expires_at=0, purge_after=0) == before._replace(
        last_seen=0, expires_at=0, purge_after=0
    )
    assert browser.token == token


@pytest.mark.parametrize(("timeout", "interval"), [(6000, 600), (300, 60), (60, 30), (10, 5)])
async def test_the_throttle_is_a_tenth_but_at_least_a_minute_where_the_timeout_allows(
    clock: Clock, make_site: Sites, timeout: int, interval: int
) -> None:
    browser = await stored(make_site(idle_timeout=timeout, cache_ttl=0))
    before = row()
    clock.tick(interval - 0.001)
    await browser.visit(dict)
    assert row() == before
    clock.tick(0.001)
    answer = await browser.visit(dict)
    assert answer.set_cookies == []
    assert (row().last_seen, row().expires_at) == (clock.now, clock.now + timeout * 1000)


async def test_a_thousand_requests_in_ten_seconds_write_at_most_once(
    clock: Clock, make_site: Sites
) -> None:
    browser = await stored(make_site(idle_timeout=1800, rolling=True))
    clock.tick(3 * DAY / 100)
    await browser.visit(lambda session: session.update(a=2))
    with statements() as executed:
        for _ in range(100):
            clock.tick(0.1)
            await browser.visit(dict)
    assert executed.count("UPDATE") <= 1


async def test_use_keeps_a_session_alive_beyond_its_idle_timeout_but_not_beyond_max_age(
    clock: Clock, make_site: Sites
) -> None:
    browser = await stored(make_site(idle_timeout=600, max_age=6000))
    for _ in range(11):
        clock.tick(500)
        assert await browser.content() == {"a": 1}
    clock.tick(500)
    assert await browser.content() == {}


@pytest.mark.parametrize(
    "act",
    [dict, lambda s: s.update(n=len(s) + 1), Session.rotate],
    ids=["read", "write", "rotate"],
)
async def test_no_activity_moves_the_absolute_end(clock: Clock, make_site: Sites, act: Act) -> None:
    browser = await stored(make_site(absolute_timeout=3600, rolling=True, max_age=1200))
    for _ in range(59):
        clock.tick(60)
        await browser.visit(act)
        assert row().expires_at <= clock.now + 1200_000
    clock.tick(59.999)
    assert await browser.content() != {}
    clock.tick(0.001)
    assert await browser.content() == {}


async def test_a_cookie_never_outlives_the_absolute_end(clock: Clock, make_site: Sites) -> None:
    browser = await stored(make_site(absolute_timeout=3600))
    clock.tick(3000)
    assert await cookie_age(browser, Session.rotate) == 600
    clock.tick(599)
    assert await cookie_age(browser, lambda session: session.set_expiry(DAY)) == 1


async def test_the_absolute_timeout_counts_from_the_login(clock: Clock, make_site: Sites) -> None:
    browser = await stored(make_site(absolute_timeout=3600))
    clock.tick(3000)
    assert await cookie_age(browser, lambda session: session.update(user_id="alice")) == 3600
    clock.tick(3599)
    assert await browser.content() == {"a": 1, "user_id": "alice"}
    clock.tick(1)
    assert await browser.content() == {}


async def test_a_clock_that_goes_back_shortens_no_session(clock: Clock, make_site: Sites) -> None:
    browser = await stored(make_site(rolling=True, idle_timeout=600, max_age=6000, cache_ttl=0))
    clock.tick(300)
    await browser.visit(dict)
    before = row()
    clock.tick(-200)
    for act in (dict, lambda session: session.update(a=2)):
        await browser.visit(act)
        assert (row().last_seen, row().expires_at) == (before.last_seen, before.expires_at)


async def test_without_max_age_the_cookie_has_none_and_the_row_lives_two_weeks(
    clock: Clock, make_site: Sites
) -> None:
    browser = make_site(max_age=None).browser()
    answer = await browser.visit(lambda session: session.update(a=1))
    assert "max-age" not in attributes(answer.set_cookie)
    assert "expires" not in attributes(answer.set_cookie)
    assert row().expires_at == clock.now + 14 * DAY * 1000


@pytest.mark.parametrize("when", ["at creation", "later"])
@pytest.mark.parametrize(
    ("value", "age"),
    [
        pytest.param(3600, 3600, id="seconds"),
        pytest.param(0.5, 1, id="less than a second"),
        pytest.param(timedelta(hours=2), 7200, id="timedelta"),
        pytest.param(IN_AN_HOUR, 3600, id="datetime"),
        pytest.param(
            IN_AN_HOUR.astimezone(timezone(timedelta(hours=-7))), 3600, id="datetime elsewhere"
        ),
    ],
)
async def test_set_expiry_gives_a_session_its_own_lifetime(
    clock: Clock, site: Site, when: str, value: Any, age: int
) -> None:
    browser = await stored(site) if when == "later" else site.browser()
    answer = await browser.visit(in_turn(lambda s: s.set_expiry(value), lambda s: s.update(b=1)))
    assert attributes(answer.set_cookie)["max-age"] == str(age)
    clock.tick(age - 1)
    assert await browser.content() != {}
    clock.tick(1)
    assert await browser.content() == {}


async def test_set_expiry_0_ends_the_cookie_with_the_browser_and_leaves_the_rows_life(
    clock: Clock, site: Site
) -> None:
    browser = await stored(site)
    answer = await browser.visit(lambda session: session.set_expiry(0))
    assert "max-age" not in attributes(answer.set_cookie)
    assert row().expires_at == clock.now + 14 * DAY * 1000


async def test_set_expiry_none_goes_back_to_the_configured_lifetime(
    clock: Clock, site: Site
) -> None:
    browser = await stored(site)
    await browser.visit(lambda session: session.set_expiry(60))
    assert await cookie_age(browser, lambda session: session.set_expiry(None)) == 14 * DAY
    assert row().expires_at == clock.now + 14 * DAY * 1000


async def test_set_expiry_is_kept_over_saves_rotations_and_renewals(
    clock: Clock, make_site: Sites
) -> None:
    browser = await stored(make_site(rolling=True))
    await browser.visit(lambda session: session.set_expiry(1000))
    acts: list[Act] = [lambda session: session.update(a=2), Session.rotate, dict]
    for act in acts:
        clock.tick(500)
        assert await cookie_age(browser, act) == 1000
        assert row().expires_at == clock.now + 1000_000


async def test_set_expiry_until_a_moment_is_not_moved_by_renewals(
    clock: Clock, make_site: Sites
) -> None:
    browser = await stored(make_site(rolling=True))
    end = clock.now + 3600_000
    until = datetime.fromtimestamp(end / 1000, UTC)
    await browser.visit(lambda session: session.set_expiry(until))
    for _ in range(5):
        clock.tick(600)
        await browser.visit(lambda session: session.update(n=len(session)))
        assert row().expires_at == end


async def test_the_same_expiry_set_again_is_no_change(clock: Clock, site: Site) -> None:
    browser = await stored(site)
    await browser.visit(lambda session: session.set_expiry(3600))
    before = row()
    assert await cookie_age(browser, lambda session: session.set_expiry(3600)) is None
    assert row() == before


async def test_the_idle_timeout_holds_whatever_set_expiry_says(
    clock: Clock, make_site: Sites
) -> None:
    browser = await stored(make_site(idle_timeout=600, absolute_timeout=7200))
    await browser.visit(lambda session: session.set_expiry(timedelta(days=30)))
    assert row().expires_at == clock.now + 600_000
    clock.tick(600)
    assert await browser.content() == {}


async def test_a_moment_in_the_past_ends_the_session(clock: Clock, site: Site) -> None:
    browser = await stored(site)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    assert (await browser.visit(lambda session: session.set_expiry(past))).status == 200
    assert await browser.content() == {}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
        (datetime(2030, 1, 1), ValueError), (timedelta(seconds=-1), ValueError),
        (True, TypeError), ("60", TypeError),
    ],
)  # fmt: skip
async def test_what_is_no_lifetime_is_refused_at_once(
    site: Site, value: Any, error: type[Exception]
) -> None:
    browser = await stored(site)
    before = row()
    with pytest.raises(error, match="set_expiry"):
        await browser.visit(lambda session: session.set_expiry(value))
    assert row() == before


async def test_a_touch_after_a_logout_brings_nothing_back(clock: Clock, make_site: Sites) -> None:
    site = make_site(rolling=True, idle_timeout=600)
    browser = await stored(site)
    other = site.browser(browser.token)
    clock.tick(300)

    async def slow(_: object) -> None:
        await other.visit(Session.invalidate)

    answer = await browser.serve(slow)
    assert (answer.status, answer.set_cookies, rows()) == (200, [], [])


async def test_a_touch_after_a_rotation_sends_no_cookie(clock: Clock, make_site: Sites) -> None:
    site = make_site(rolling=True, max_age=600)
    browser = await stored(site)
    other = site.browser(browser.token)
    clock.tick(300)

    async def slow(_: object) -> None:
        await other.visit(Session.rotate)

    answer = await browser.serve(slow)
    assert (answer.status, answer.set_cookies) == (200, [])
    assert await other.content() == {"a": 1}


async def test_a_renewed_cookie_is_signed_by_the_current_key(
    clock: Clock, make_site: Sites
) -> None:
    new_key = "a newer secret for tests only: 9876543210"
    old_site = make_site(rolling=True)
    old = await stored(old_site)
    key = old_site.manager.settings.secret_key
    settings = {"secret_key": new_key, "rolling": True}
    browser = make_site(**settings, secret_key_fallbacks=[key]).browser(old.token)
    clock.tick(2 * DAY)
    assert await cookie_age(browser) == 14 * DAY
    assert browser.token != old.token
    assert await make_site(**settings).browser(browser.token).content() == {"a": 1}
