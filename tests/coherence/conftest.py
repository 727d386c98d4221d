"""Fixtures for coherence: several managers and processes on one database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import Engine, event, make_url

from sessionware import SessionManager
from tests.apps import SECRET
from tests.coherence.worker import Worker
from tests.faults.proxy import Proxy


@pytest.fixture
def make_manager(table_name: str) -> Iterator[Callable[..., SessionManager]]:
    """Makes managers for threads, each with a cache of its own, as if it were a process."""
    made: list[SessionManager] = []

    def make(store: Any, **settings: Any) -> SessionManager:
        chosen: dict[str, Any] = {
            "secret_key": SECRET,
            "purge_interval": None,
            "table_name": table_name,
            **settings,
        }
        manager = SessionManager(store=store, **chosen)
        made.append(manager)
        return manager

    yield make
    for manager in made:
        manager.shutdown()


@pytest.fixture
def make_worker(table_name: str) -> Iterator[Callable[..., Worker]]:
    """Makes processes that use sessions as they are told."""
    with ExitStack() as stack:

        def make(store: str, **settings: Any) -> Worker:
            worker = Worker(store=store, table_name=table_name, **settings)
            stack.callback(worker.kill)
            return worker

        yield make


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every SQL statement of this process, over whichever engine of SQLAlchemy's."""
    found: list[str] = []

    def note(_: Any, __: Any, statement: str, *more: Any) -> None:
        found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield found
    event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    """Before PostgreSQL."""
    url = make_url(postgres_url)
    made = Proxy(url.host or "127.0.0.1", url.port or 5432)
    yield made
    made.close()


@pytest.fixture
def proxied(postgres_url: str, proxy: Proxy) -> str:
    """The server through the proxy."""
    url = make_url(postgres_url).set(host="127.0.0.1", port=proxy.port)
    return url.render_as_string(hide_password=False)
