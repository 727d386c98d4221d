"""Fixtures for the rules of a session's life under WSGI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sessionware import SessionEvent, SessionManager
from tests.apps import SECRET
from tests.asgi.conftest import make_manager
from tests.wsgi.site import WsgiSite, WsgiVisitor

__all__ = ["make_manager"]


@pytest.fixture
def usual() -> dict[str, Any]:
    """The settings of every manager, where the test gives no others: statements are counted."""
    return {"secret_key": SECRET, "purge_interval": None, "coherence": "validate"}


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
