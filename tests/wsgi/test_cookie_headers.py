"""What goes with the cookie: headers of ours and of the application's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sessionware.wsgi import SessionMiddleware
from tests.apps import COOKIE
from tests.wsgi.site import JSON, PLAIN, WsgiBrowser, WsgiVisitor, routes, session_in

HEADERS: dict[str, tuple[list[tuple[str, str]], list[str], list[str]]] = {
    "none": ([], ["Cookie"], ["no-store"]),
    "of the app's": (
        [("Vary", "Accept"), ("vary", "Origin"), ("Cache-Control", "public")],
        ["Accept, Origin, Cookie"],
        ["no-store"],
    ),
    "stricter": (
        [("Vary", "*"), ("cache-control", "private, no-store")],
        ["*"],
        ["private, no-store"],
    ),
}


@pytest.mark.parametrize(("headers", "vary", "control"), HEADERS.values(), ids=HEADERS)
def test_a_response_with_the_cookie_is_kept_out_of_shared_caches(
    browser: WsgiVisitor, headers: list[tuple[str, str]], vary: list[str], control: list[str]
) -> None:
    constant = [*JSON, *headers]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        session_in(environ)["a"] = 1
        start_response("200 OK", constant)
        return [b"{}"]

    answer = browser.serve(app)
    assert (answer.all("vary"), answer.all("cache-control")) == (vary, control)
    assert constant == [*JSON, *headers], "the application may send its list once more"


def test_an_applications_own_cookies_stay_and_one_of_our_name_makes_room(
    browser: WsgiVisitor,
) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        session_in(environ)["a"] = 1
        own = [("Set-Cookie", "theirs=1"), ("set-cookie", f"{COOKIE}=forged; path=/")]
        start_response("200 OK", [*PLAIN, *own])
        return [b""]

    answer = browser.serve(app)
    assert len(answer.set_cookies) == 2
    assert answer.set_cookies[0] == "theirs=1"
    assert "forged" not in str(answer.set_cookies)
    assert browser.content() == {"a": 1}


def test_the_settings_of_the_cookie_are_those_of_the_asgi_middleware(
    make_manager: Callable[..., Any],
) -> None:
    manager = make_manager(
        session_cookie="__Host-sid", https_only=True, same_site="none", partitioned=True
    )
    browser = WsgiBrowser(SessionMiddleware(routes, manager=manager), name="__Host-sid")
    browser.scheme = "https"
    answer = browser.get("/write?a=1")
    assert answer.set_cookie == (
        f"__Host-sid={browser.token}; path=/; Max-Age=1209600; httponly; samesite=none; secure; "
        "partitioned"
    )
    assert browser.get("/read").json() == {"a": "1"}
