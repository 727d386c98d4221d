"""Each SQLite statement of each kind of request fails once: the state before or after, no mix."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from sessionware import Session, SessionManager
from tests.apps import Managers
from tests.byhand import login, storing
from tests.interleaving import Act, Client, perform

pytestmark = pytest.mark.anyio

MOST_STATEMENTS = 20
TIMEOUT = 20


class Failing:
    """An engine whose n-th statement from now on fails, before or after SQLite has done it."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url)
        self._countdown = 0
        self._afterwards = False
        event.listen(self.engine, "do_execute", self._execute)
        event.listen(self.engine, "do_execute_no_params", self._execute_no_params)

    def fail(self, number: int, *, afterwards: bool) -> None:
        self._countdown, self._afterwards = number, afterwards

    def cease(self) -> bool:
        """Fail no more; whether there were too few statements for a failure."""
        missed = self._countdown > 0
        self._countdown = 0
        return missed

    def _execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        self._countdown -= 1
        if self._countdown == 0:
            if self._afterwards:
                cursor.execute(statement, parameters)
            raise sqlite3.OperationalError("disk I/O error")

    def _execute_no_params(self, cursor: Any, statement: str, context: Any) -> None:
        self._execute(cursor, statement, (), context)


@pytest.fixture
def failing(sqlite_url: str) -> Iterator[Failing]:
    made = Failing(sqlite_url)
    yield made
    with made.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    made.engine.dispose()


@pytest.fixture
def manager(failing: Failing, managers: Managers) -> SessionManager:
    return managers(store=failing.engine, store_timeout=TIMEOUT)


def logout(session: Session) -> None:
    session.invalidate()


def clear(session: Session) -> None:
    session.clear()


def again(session: Session) -> None:
    session.invalidate()
    session["new"] = 1


async def incr(session: Session) -> Any:
    return await session.aincr("n")


async def take(session: Session) -> Any:
    return await session.atake("otp", None)


BEFORE: dict[str, Any] = {"n": 1, "otp": "4711"}
SCENARIOS: dict[str, tuple[Act, dict[str, Any]]] = {
    "read": (dict, BEFORE),
    "save": (storing(b=2), {**BEFORE, "b": 2}),
    "incr": (incr, {**BEFORE, "n": 2}),
    "take": (take, {"n": 1}),
    "rotate": (lambda session: session.rotate(), BEFORE),
    "login": (login("alice"), {**BEFORE, "user_id": "alice"}),
    "clear": (clear, {}),
    "logout": (logout, {}),
    "logout and a new session": (again, {"new": 1}),
}


@pytest.mark.parametrize("afterwards", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("act", "left"), SCENARIOS.values(), ids=SCENARIOS)
async def test_whichever_statement_fails_the_state_is_before_or_after(
    manager: SessionManager, failing: Failing, act: Act, left: dict[str, Any], afterwards: bool
) -> None:
    for number in range(1, MOST_STATEMENTS):
        client = Client(manager)
        await client.visit(storing(**BEFORE))
        old = client.twin()
        failing.fail(number, afterwards=afterwards)
        answer = await client.visit(act)
        missed = failing.cease()
        assert answer.status in (200, 503)
        # A response that was lost leaves the browser with the old cookie.
        content = await client.content()
        if answer.status == 200:
            assert content == left
        else:
            assert content in (BEFORE, left, {})
            assert not answer.set_cookies
        if act in (clear, logout, again) and content != BEFORE:
            assert await old.content() == {}
        assert (await client.visit(storing(next=1))).status == 200
        if missed:
            assert answer.status == 200
            return
    pytest.fail("the scenario has no end")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("afterwards", [False, True], ids=["before", "after"])
async def test_whichever_statement_of_the_first_request_fails_the_next_one_works(
    tmp_path: Any, managers: Managers, afterwards: bool
) -> None:
    for number in range(1, MOST_STATEMENTS):
        failing = Failing(f"sqlite:///{tmp_path / f'{number}.db'}")
        manager = managers(store=failing.engine, store_timeout=TIMEOUT)
        failing.fail(number, afterwards=afterwards)
        answer = await Client(manager).visit(storing(a=1))
        missed = failing.cease()
        assert answer.status in (200, 503)
        client = Client(manager)
        assert (await client.visit(storing(a=2))).status == 200
        assert await client.content() == {"a": 2}
        failing.engine.dispose()
        if missed:
            assert answer.status == 200
            return
    pytest.fail("the scenario has no end")


async def test_whichever_statement_fails_while_other_writers_win_the_state_is_before_or_after(
    manager: SessionManager, failing: Failing, sqlite_url: str, managers: Managers
) -> None:
    rival_manager = managers(store=sqlite_url, store_timeout=TIMEOUT)
    for number in range(1, MOST_STATEMENTS):
        client = Client(manager)
        await client.visit(storing(n=1))
        rival = Client(rival_manager, client.token)

        async def overtaken(session: Session, rival: Client = rival) -> None:
            await rival.visit(storing(rival=1))
            await perform(storing(b=2), session)

        failing.fail(number, afterwards=False)
        answer = await client.visit(overtaken)
        missed = failing.cease()
        content = await client.content()
        # Where the load fails already, the rival does not come.
        assert content.items() >= {"n": 1}.items()
        assert content.keys() <= {"n", "rival", "b"}
        if answer.status == 200:
            assert content == {"n": 1, "rival": 1, "b": 2}
        else:
            assert answer.status == 503
        if missed:
            return
    pytest.fail("the scenario has no end")
