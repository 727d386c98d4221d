"""Fixtures for Django: the project's sessions in each kind of database, its users, the rows."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings
from sqlalchemy import Engine, create_engine, event, inspect

from sessionware import SessionManager
from tests.databases import url_of
from tests.django.site import PASSWORD, Browser, User

_numbers = itertools.count()


@pytest.fixture
def anyio_backend() -> str:
    """Django knows asyncio only."""
    return "asyncio"


class Database:
    """The sessions' database, with the statements that reach it."""

    def __init__(self, engine: Engine, table: str) -> None:
        self.engine = engine
        self.table = table
        self.statements: list[str] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.statements.append(statement)

    def count(self) -> int:
        """How many sessions are stored."""
        if not inspect(self.engine).has_table(self.table):
            return 0
        before = len(self.statements)
        with self.engine.connect() as connection:
            found = connection.exec_driver_sql(f"SELECT count(*) FROM {self.table}").scalar_one()
        del self.statements[before:]
        return int(found)

    def verbs(self) -> list[str]:
        """The first words of the statements since the last call, without those that only frame a
        transaction.
        """
        found = [statement.split()[0] for statement in self.statements]
        self.statements.clear()
        return [verb for verb in found if verb not in ("BEGIN", "COMMIT", "PRAGMA")]


Configure = Callable[..., None]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Overrides settings of Django until the end of the test."""
    active: list[Any] = []

    def override(**settings: Any) -> None:
        each = override_settings(**settings)
        each.enable()
        active.append(each)

    yield override
    for each in reversed(active):
        each.disable()
    connections.close_all()


@pytest.fixture(params=["sqlite", pytest.param("psycopg", marks=pytest.mark.postgres)])
def database(
    request: pytest.FixtureRequest, configure: Configure, table_name: str
) -> Iterator[Database]:
    """Sessions in SQLite, and again in PostgreSQL."""
    # Autocommit, as an application's engine need not have it: the store brings its own.
    engine = create_engine(url_of(request.param, request), hide_parameters=True)
    found = Database(engine, table_name)
    configure(
        SESSIONWARE={"store": engine, "table_name": table_name, "purge_interval": None},
    )
    yield found
    engine.dispose()


@pytest.fixture
def with_settings(configure: Configure, database: Database) -> Callable[..., None]:
    """Adds to SESSIONWARE."""
    own = {"store": database.engine, "table_name": database.table, "purge_interval": None}
    return lambda **more: configure(SESSIONWARE={**own, **more})


@pytest.fixture
def manager(database: Database) -> SessionManager:
    from sessionware.django import manager

    return manager()


@pytest.fixture
def browser(database: Database) -> Browser:
    """A browser without a cookie."""
    return Browser()


@pytest.fixture
def make_user() -> Callable[[], User]:
    def make() -> User:
        user: User = User.objects.create_user(f"user{next(_numbers)}", password=PASSWORD)
        return user

    return make


@pytest.fixture
def user(make_user: Callable[[], User]) -> User:
    return make_user()
