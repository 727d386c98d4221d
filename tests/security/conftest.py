"""Fixtures for the security requirements: managers, the database behind them, and the time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from sessionware import SessionManager, clock
from tests.apps import Browser, Managers, app_of


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do here: that both work is tested elsewhere."""
    return "asyncio"


@pytest.fixture
async def make_manager() -> AsyncIterator[Managers]:
    managers = Managers()
    yield managers
    await managers.aclose()


@pytest.fixture
def make_browser(make_manager: Managers) -> Callable[..., Browser]:
    """A browser in front of the common app with these settings."""

    def make(**settings: Any) -> Browser:
        return Browser(app_of(make_manager(**settings)))

    return make


@pytest.fixture
def manager(make_manager: Managers, sqlite_url: str) -> SessionManager:
    return make_manager(store=sqlite_url)


@pytest.fixture
def browser(manager: SessionManager) -> Browser:
    return Browser(app_of(manager))


class Clock:
    """The time that sessionware sees; it moves only by ``advance``."""

    def __init__(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds

    def __call__(self) -> int:
        return self._milliseconds

    def advance(self, seconds: float) -> None:
        self._milliseconds += int(seconds * 1000)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock(clock.now())
    monkeypatch.setattr(clock, "now", stopped)
    return stopped


class Database:
    """The SQLite database of the ``database`` fixture, as its owner, or a thief, sees it.

    ``statements`` are those of sessionware's, ``deleted`` how many sessions each DELETE deleted.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.statements: list[str] = []
        self.deleted: list[int] = []
        event.listen(engine, "before_cursor_execute", self._note)
        event.listen(engine, "after_cursor_execute", self._note_deleted)

    def _note(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("PRAGMA"):
            self.statements.append(statement)

    def _note_deleted(self, _: object, cursor: Any, statement: str, *_more: object) -> None:
        if statement.startswith("DELETE FROM sessions "):
            self.deleted.append(cursor.rowcount)

    def run(self, statement: str, *parameters: object) -> list[Any]:
        """Run one statement beside sessionware, and do not count it."""
        before = len(self.statements)
        with self.engine.begin() as connection:
            result = connection.exec_driver_sql(statement, parameters)
            rows = list(result) if result.returns_rows else []
        del self.statements[before:]
        return rows

    def count(self) -> int:
        """How many rows there are, expired ones too."""
        if not self.run("SELECT 1 FROM sqlite_master WHERE name = 'sessions'"):
            return 0
        return int(self.run("SELECT count(*) FROM sessions")[0][0])

    def rows(self) -> list[Any]:
        return self.run("SELECT * FROM sessions ORDER BY id")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Pass its ``engine`` as the store."""
    engine = create_engine(f"sqlite:///{tmp_path / 'owned.db'}", hide_parameters=True)
    yield Database(engine)
    engine.dispose()
