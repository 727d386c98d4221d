"""Fixtures for histories: real servers that the tests may break, on asyncio."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.engine import make_url

from tests.faults.proxy import Proxy


@pytest.fixture
def anyio_backend() -> str:
    """The clients are asyncio's."""
    return "asyncio"


@pytest.fixture
def proxied() -> Iterator[Callable[[str], tuple[Proxy, str]]]:
    """Puts a proxy in front of a URL's server; gives the proxy and the URL through it."""
    proxies: list[Proxy] = []

    def put(url: str) -> tuple[Proxy, str]:
        parsed = make_url(url)
        default = {"postgresql": 5432, "mysql": 3306}.get(parsed.get_backend_name(), 6379)
        proxy = Proxy(parsed.host or "127.0.0.1", parsed.port or default)
        proxies.append(proxy)
        through = parsed.set(host="127.0.0.1", port=proxy.port)
        return proxy, through.render_as_string(hide_password=False)

    yield put
    for proxy in proxies:
        proxy.close()
