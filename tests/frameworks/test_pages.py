"""The application on the page of each framework is used as a browser would use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from sessionware.manager import _managers
from tests.apps import SECRET
from tests.frameworks.importing import framework
from tests.test_docs import ROOT


def over_asgi(app: Any) -> httpx2.Client:
    return TestClient(app)


def over_wsgi(app: Any) -> httpx2.Client:
    return httpx2.Client(transport=httpx2.WSGITransport(app=app), base_url="http://testserver")


PAGES: dict[str, Callable[[Any], httpx2.Client]] = {
    "bottle": over_wsgi,
    "falcon": over_asgi,
    "fastapi": over_asgi,
    "litestar": over_asgi,
    "pyramid": over_wsgi,
    "quart": over_asgi,
    "starlette": over_asgi,
}


def namespace_of(page: str, number: int = 0) -> dict[str, Any]:
    """What the Python blocks of a page define, the first one or up to that of a number."""
    framework("pyramid.config" if page == "pyramid" else page)
    path = ROOT / "docs" / f"{page}.md"
    shown = re.findall(r"^```python[^\n]*\n(.*?)^```$", path.read_text(), re.M | re.S)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for text in shown[: number + 1]:
        exec(compile(text, str(path), "exec", dont_inherit=True), namespace)
    return namespace


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the pages take for granted; their managers are let go of."""
    monkeypatch.setenv("SECRET_KEY", SECRET)
    others = set(_managers)
    yield
    for manager in set(_managers) - others:
        manager.shutdown()


@pytest.mark.parametrize("page", PAGES)
def test_the_shop_on_the_page_works(page: str) -> None:
    # No `with client`: Falcon never comes back from the end of a lifespan.
    with closing(PAGES[page](namespace_of(page)["app"])) as client:
        assert client.get("/me").status_code == 401
        assert "session" not in client.cookies, "nothing was stored"

        assert "tea" in client.post("/cart/tea").text
        before = client.cookies["session"]
        assert "welcome" in client.post("/login/alice").text
        assert client.cookies["session"] != before
        assert "alice" in client.get("/me").text
        cart = client.post("/cart/milk").text
        assert cart.index("tea") < cart.index("milk")

        stolen = client.cookies["session"]
        assert "bye" in client.post("/logout").text
        assert "session" not in client.cookies
        client.cookies.set("session", stolen)
        assert client.get("/me").status_code == 401


def test_falcons_page_has_the_same_for_wsgi() -> None:
    with closing(over_wsgi(namespace_of("falcon", 1)["app"])) as client:
        assert [client.get("/").json() for _ in range(3)] == [1, 2, 3]
