"""Fixtures for the rules of a session's life under WSGI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionware import SessionEvent, SessionManager
from tests.apps import SECRET
from tests.wsgi.site import WsgiSite, WsgiVisitor


@pytest.fixture
def make_manager() -> Iterator[Callable[..., SessionManager]]:
    """Makes managers of the default store, a SQLite file in the test's own folder."""
    made: list[SessionManager] = []

    def make(**settings: Any) -> SessionManager:
        usual = {"secret_key": SECRET, "purge_interval": None, "coherence": "validate"}
        chosen: dict[str, Any] = {**usual, **settings}
        manager = SessionManager(**chosen)
        made.append(manager)
        return manager

    yield make
    for manager in made:
        manager.shutdown()


@pytest.fixture
def make_site(make_manager: Callable[..., SessionManager]) -> Callable[..., WsgiSite]:
    """Makes sites with the settings given."""

    def make(**settings: Any) -> WsgiSite:
        events: list[SessionEvent] = []
        return WsgiSite(make_manager(on_event=events.append, **settings), events)

    return make


@pytest.fixture
def site(make_site: Callable[..., WsgiSite]) -> WsgiSite:
    """A site with the default settings."""
    return make_site()


@pytest.fixture
def browser(site: WsgiSite) -> WsgiVisitor:
    """A browser without a cookie on ``site``."""
    return site.browser()
