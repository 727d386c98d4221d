"""A shared cache in front of the app never gives one visitor what is another's (R57, GHSA-qppm)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sessionware import SessionManager
from tests.apps import Answer, Browser, Managers, app_of
from tests.security.conftest import Clock

pytestmark = pytest.mark.anyio

Key = tuple[str, tuple[str | None, ...]]


class Proxy:
    """The storing part of a shared cache, as eager as RFC 9111 lets it be.

    It stores every 200 that does not forbid it, lifetime or not, Set-Cookie or not (section 7.3),
    and picks by Vary (section 4.1).
    """

    def __init__(self) -> None:
        self._stored: dict[Key, Answer] = {}
        self._varies: dict[str, tuple[str, ...]] = {}
        self.hits = 0

    async def get(self, browser: Browser, path: str) -> Answer:
        cookie = None if browser.token is None else f"{browser.name}={browser.token}"
        request = {"cookie": cookie}
        names = self._varies.get(path, ())
        stored = self._stored.get((path, tuple(request.get(name) for name in names)))
        if stored is not None:
            self.hits += 1
            browser.keep(stored)
            return stored
        answer = await browser.get(path)
        control = ",".join(answer.all("cache-control")).lower()
        vary = [name.strip().lower() for name in ",".join(answer.all("vary")).split(",") if name]
        if answer.status == 200 and not re.search(r"no-store|private", control) and "*" not in vary:
            # What the client asked with, not what it has been given since.
            self._varies[path] = tuple(vary)
            self._stored[path, tuple(request.get(name) for name in vary)] = answer
        return answer


async def page(request: Request) -> Response:
    return PlainTextResponse(f"hello {request.session.get('user_id', 'stranger')}")


async def public(request: Request) -> Response:
    """Says of itself that everybody may store it, and changes the session."""
    request.session["seen"] = "public"
    return PlainTextResponse("for all", headers={"Cache-Control": "public, max-age=600"})


@pytest.fixture
def visitor(manager: SessionManager) -> Callable[[], Browser]:
    app = app_of(manager, Route("/page", page), Route("/public", public))
    return lambda: Browser(app)


async def test_the_proxy_of_these_tests_does_store(visitor: Callable[[], Browser]) -> None:
    proxy = Proxy()
    for _ in range(3):
        await proxy.get(visitor(), "/noop")
        await proxy.get(visitor(), "/page")
    assert proxy.hits == 4


async def test_nobody_gets_anothers_page_from_a_shared_cache(
    visitor: Callable[[], Browser],
) -> None:
    proxy = Proxy()
    alice, bob, stranger = visitor(), visitor(), visitor()
    await alice.get("/login?user=alice")
    await bob.get("/login?user=bob")
    for _ in range(2):
        assert (await proxy.get(alice, "/page")).body == b"hello alice"
        assert (await proxy.get(bob, "/page")).body == b"hello bob"
        assert (await proxy.get(stranger, "/page")).body == b"hello stranger"


@pytest.mark.parametrize("path", ["/write?k=v", "/login?user=alice", "/public"])
async def test_nobody_gets_anothers_cookie_from_a_shared_cache(
    visitor: Callable[[], Browser], path: str
) -> None:
    proxy = Proxy()
    first, second = visitor(), visitor()
    await proxy.get(first, path)
    await proxy.get(second, path)
    assert first.token
    assert second.token
    assert first.token != second.token


@pytest.mark.parametrize("path", ["/write?k=v", "/rotate", "/public", "/logout"])
async def test_each_set_cookie_comes_with_no_store_and_vary(
    visitor: Callable[[], Browser], path: str
) -> None:
    browser = visitor()
    if path in ("/rotate", "/logout"):
        await browser.get("/write?k=v")
    answer = await browser.get(path)
    assert len(answer.set_cookies) == 1
    assert "no-store" in ",".join(answer.all("cache-control"))
    assert answer.all("vary") == ["Cookie"]


async def test_a_response_that_only_renews_the_cookie_says_so_to_caches_too(
    make_manager: Managers, sqlite_url: str, time: Clock
) -> None:
    browser = Browser(app_of(make_manager(store=sqlite_url, rolling=True, max_age=1000)))
    await browser.get("/write?k=v")
    time.advance(500)
    answer = await browser.get("/noop")
    assert len(answer.set_cookies) == 1
    assert answer.all("cache-control") == ["no-store"]
    assert answer.all("vary") == ["Cookie"]


async def test_a_route_that_leaves_the_session_alone_stays_cacheable(
    visitor: Callable[[], Browser],
) -> None:
    browser = visitor()
    await browser.get("/write?k=v")
    answer = await browser.get("/noop")
    assert answer.all("vary") == answer.all("cache-control") == answer.set_cookies == []
