"""Fixtures for faults: managers that give up soon, and a proxy before the servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.apps import Managers
from tests.databases import url_of
from tests.faults.proxy import Proxy


@pytest.fixture
async def managers(anyio_backend: Any) -> AsyncIterator[Managers]:
    made = Managers()
    yield made
    await made.aclose()


@pytest.fixture
def proxy(driver: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A proxy before the driver's server."""
    url = make_url(url_of(driver, request))
    made = Proxy(url.host or "127.0.0.1", url.port or 0)
    yield made
    made.close()


@pytest.fixture
def proxied_url(driver: str, request: pytest.FixtureRequest, proxy: Proxy) -> str:
    """The driver's URL, through the proxy."""
    url = make_url(url_of(driver, request)).set(host="127.0.0.1", port=proxy.port)
    return url.render_as_string(hide_password=False)
