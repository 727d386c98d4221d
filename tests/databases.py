"""Real databases for tests that run on each of them, as a parameter of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from sessionware import SessionManager
from tests import services

DRIVERS: dict[str, tuple[str, str | None]] = {
    "sqlite": ("sqlite_url", None),
    "aiosqlite": ("sqlite_url", "sqlite+aiosqlite"),
    "psycopg": ("postgres_url", "postgresql+psycopg"),
    "asyncpg": ("postgres_url", "postgresql+asyncpg"),
    "pymysql": ("mysql_url", "mysql+pymysql"),
    "asyncmy": ("mysql_url", "mysql+asyncmy"),
}
"""Name -> the fixture that has the server's URL, and the driver to put into it."""

_MARKS = {"postgres_url": pytest.mark.postgres, "mysql_url": pytest.mark.mysql}


def drivers(*names: str) -> Callable[[Any], Any]:
    """A decorator: run the test with the fixture ``url`` for each of these drivers."""
    chosen = []
    for name in names:
        mark = _MARKS.get(DRIVERS[name][0])
        chosen.append(pytest.param(name, marks=() if mark is None else mark))
    return pytest.mark.parametrize("driver", chosen)


def url_of(driver: str, request: pytest.FixtureRequest) -> str:
    """The URL of a driver's database."""
    fixture, drivername = DRIVERS[driver]
    url: str = request.getfixturevalue(fixture)
    # asyncpg itself looks for ~/.pgpass and certificates in the event loop, once a connection.
    for function in request.getfixturevalue("blockbuster").functions.values():
        function.can_block_in("/asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
    return url if drivername is None else services.with_driver(url, drivername)


async def until_alive(manager: SessionManager) -> None:
    """Wait until rows are served unasked: a message of the channel's own has come back."""
    channel: Any = manager.store.channel
    with anyio.fail_after(20):
        while not channel.alive:
            await anyio.sleep(0.005)
