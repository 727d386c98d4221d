"""Every framework runs under asyncio; most know no other event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.apps import SECRET
from tests.asgi.failing import FailingStore


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
async def own(store: FailingStore) -> AsyncIterator[Any]:
    """A Quart application whose sessions are configured as Quart's own are."""
    from sessionware.quart import QuartSessions
    from tests.frameworks.quart_site import app_of

    sessions = QuartSessions(store=store, purge_interval=None)
    app: Any = app_of(sessions, SECRET_KEY=SECRET)
    yield app
    await sessions.manager_of(app).ashutdown()
