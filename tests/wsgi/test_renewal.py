"""Renewal and expiry: an untouched request counts as activity, as under ASGI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sessionware import Session
from tests.apps import attributes
from tests.asgi.site import in_turn, row, statements
from tests.byhand import Clock
from tests.wsgi.site import WsgiSite, WsgiVisitor, stored

SETTINGS: dict[str, dict[str, Any]] = {
    "idle": {"idle_timeout": 1800, "coherence": "bounded"},
    "rolling": {"max_age": 1800, "rolling": True, "coherence": "bounded"},
}


def cost(visitor: WsgiVisitor, path: str = "/noop") -> list[str]:
    with statements() as executed:
        assert visitor.get(path).status == 200
    return executed


@pytest.mark.parametrize("path", ["/noop", "/read"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_request_renews_a_session_when_it_is_due_whether_or_not_it_looks_at_it(
    make_site: Callable[..., WsgiSite], clock: Clock, settings: dict[str, Any], path: str
) -> None:
    visitor = stored(make_site(**settings, cache_ttl=3600), a=1)
    before = row()
    clock.tick(179)
    assert cost(visitor, path) == []
    clock.tick(2)
    assert cost(visitor, path) == ["UPDATE"]
    assert cost(visitor, path) == []
    after = row()
    assert after.expires_at == before.expires_at + 181_000
    assert after.version == before.version


def test_a_session_that_is_only_visited_and_never_looked_at_lives_on(
    make_site: Callable[..., WsgiSite], clock: Clock
) -> None:
    visitor = stored(make_site(idle_timeout=600), a=1)
    for _ in range(10):
        clock.tick(400)
        assert visitor.get("/noop").status == 200
    assert visitor.content() == {"a": 1}
    clock.tick(601)
    assert visitor.content() == {}


def test_a_session_not_in_the_cache_is_read_to_see_whether_it_is_due(
    make_site: Callable[..., WsgiSite], clock: Clock
) -> None:
    site = make_site(idle_timeout=1800)
    visitor = stored(site, a=1)
    site.manager.store.cache.clear()
    assert cost(visitor) == ["SELECT"]
    # Now this process knows.
    assert cost(visitor) == []


def test_a_renewed_lifetime_is_sent_with_the_cookie_and_kept_out_of_shared_caches(
    make_site: Callable[..., WsgiSite], clock: Clock
) -> None:
    visitor = stored(make_site(max_age=1800, rolling=True), a=1)
    token = visitor.token
    clock.tick(900)
    answer = visitor.get("/noop")
    assert attributes(answer.set_cookie)["max-age"] == "1800"
    assert (answer.all("vary"), answer.all("cache-control")) == (["Cookie"], ["no-store"])
    assert visitor.token == token


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({"max_age": 60}, 60),
        ({"idle_timeout": 120}, 120),
        ({"absolute_timeout": 300}, 300),
        ({"max_age": None, "idle_timeout": 90}, 90),
    ],
)
def test_a_session_expires_when_its_row_says_so(
    make_site: Callable[..., WsgiSite], clock: Clock, settings: dict[str, Any], seconds: int
) -> None:
    site = make_site(**settings)
    visitor = stored(site, a=1)
    clock.tick(seconds - 1)
    assert site.manager.open(visitor.cookie) == {"a": 1}
    clock.tick(1)
    assert visitor.content() == {}
    assert site.events[-1] == "expired"


def test_a_failed_request_renews_too(make_site: Callable[..., WsgiSite], clock: Clock) -> None:
    visitor = stored(make_site(idle_timeout=600), a=1)
    end = row().expires_at
    clock.tick(300)
    assert visitor.visit(lambda s: s.update(lost=1), code=500).status == 500
    assert row().expires_at > end
    assert visitor.content() == {"a": 1}


def test_without_a_timeout_that_moves_an_untouched_request_never_asks(
    make_site: Callable[..., WsgiSite], clock: Clock
) -> None:
    site = make_site(absolute_timeout=10**6)
    visitor = stored(site, a=1)
    site.manager.store.cache.clear()
    clock.tick(10**5)
    assert cost(visitor) == []


def test_set_expiry_counts_from_the_last_renewal(
    make_site: Callable[..., WsgiSite], clock: Clock
) -> None:
    visitor = make_site(rolling=True).browser()
    visitor.visit(in_turn(lambda s: s.update(a=1), lambda s: s.set_expiry(600)))
    for _ in range(5):
        clock.tick(500)
        visitor.get("/noop")
    assert visitor.content() == {"a": 1}
    visitor.visit(lambda s: Session.set_expiry(s, 0))
    assert "max-age" not in attributes(visitor.visit(Session.rotate).set_cookie)
