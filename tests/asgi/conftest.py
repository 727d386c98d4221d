"""Fixtures for the rules of a session's life, on asyncio and on trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from sessionware import SessionEvent, SessionManager
from tests.apps import SECRET, Managers
from tests.asgi.site import Site, Visitor


@pytest.fixture
def usual() -> dict[str, Any]:
    """The settings of every manager, where the test gives no others."""
    return {"secret_key": SECRET, "purge_interval": None}


@pytest.fixture
def make_manager(usual: dict[str, Any]) -> Iterator[Callable[..., SessionManager]]:
    """Makes managers of the default store, a SQLite file in the test's own folder."""
    made: list[SessionManager] = []

    def make(**settings: Any) -> SessionManager:
        chosen: dict[str, Any] = {**usual, **settings}
        manager = SessionManager(**chosen)
        made.append(manager)
        return manager

    yield make
    for manager in made:
        manager.shutdown()


@pytest.fixture
def make_site(make_manager: Callable[..., SessionManager]) -> Callable[..., Site]:
    """Makes sites with the settings given."""

    def make(**settings: Any) -> Site:
        events: list[SessionEvent] = []
        return Site(make_manager(on_event=events.append, **settings), events)

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site with the default settings."""
    return make_site()


@pytest.fixture
def browser(site: Site) -> Visitor:
    """A browser without a cookie on ``site``."""
    return site.browser()


@pytest.fixture
async def make() -> AsyncIterator[Managers]:
    """Makes managers and closes them in the test's own event loop."""
    async with aclosing(Managers()) as managers:
        yield managers
