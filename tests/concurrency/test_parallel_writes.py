"""Many requests of one session at once, over two workers and on each kind of database."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from sessionware import Session, SessionManager
from tests.apps import Managers
from tests.byhand import storing
from tests.databases import drivers, url_of
from tests.interleaving import PATIENCE, Act, Client, perform, together

pytestmark = pytest.mark.anyio

WRITERS = 50
CALLERS = 200
ROUNDS = 2

each_database = drivers("sqlite", "psycopg", "asyncpg", "pymysql")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The async drivers know asyncio only."""
    return "asyncio"


@pytest.fixture
def workers(
    driver: str, request: pytest.FixtureRequest, managers: Managers, table_name: str
) -> list[SessionManager]:
    """Two workers on one database, each with a cache and connections of its own."""
    settings = {"store": url_of(driver, request), "table_name": table_name, "store_timeout": 20}
    return [managers(**settings) for _ in range(2)]


async def session(workers: list[SessionManager], **content: Any) -> Client:
    client = Client(workers[0])
    assert (await client.visit(storing(**content))).status == 200
    return client


def at(workers: list[SessionManager], client: Client, number: int) -> Client:
    """The browser's next connection, which may go to either worker."""
    return Client(workers[number % 2], client.token)


class Meeting:
    """Requests that all have their session before the first of them acts."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._complete = anyio.Event()

    def of(self, act: Act) -> Act:
        async def meet(session: Session) -> Any:
            self._missing -= 1
            if not self._missing:
                self._complete.set()
            with anyio.fail_after(PATIENCE):
                await self._complete.wait()
            return await perform(act, session)

        return meet


@each_database
async def test_none_of_fifty_parallel_writers_loses_its_key(
    workers: list[SessionManager],
) -> None:
    client = await session(workers, start=0)
    expected: dict[str, Any] = {"start": 0}
    for turn in range(ROUNDS):
        meeting = Meeting(WRITERS)
        keys = {f"key{turn}-{number}": number for number in range(WRITERS)}
        answers = await together(
            *(
                at(workers, client, number).visit(meeting.of(storing(**{key: number})))
                for key, number in keys.items()
            )
        )
        assert Counter(answer.status for answer in answers) == {200: WRITERS}
        expected |= keys
        for number in range(2):
            assert await at(workers, client, number).content() == expected


@each_database
async def test_of_two_hundred_callers_one_takes_a_one_time_value(
    workers: list[SessionManager],
) -> None:
    client = await session(workers, otp="4711", other=1)
    meeting = Meeting(CALLERS)

    async def take(session: Session) -> Any:
        return await session.atake("otp", None)

    answers = await together(
        *(at(workers, client, number).visit(meeting.of(take)) for number in range(CALLERS))
    )
    assert Counter(answer.json() for answer in answers) == {"4711": 1, None: CALLERS - 1}
    assert await at(workers, client, 1).content() == {"other": 1}


@each_database
async def test_none_of_two_hundred_increments_is_lost(workers: list[SessionManager]) -> None:
    client = await session(workers, n=0)
    meeting = Meeting(CALLERS)

    async def incr(session: Session) -> Any:
        return await session.aincr("n")

    answers = await together(
        *(at(workers, client, number).visit(meeting.of(incr)) for number in range(CALLERS))
    )
    assert sorted(answer.json() for answer in answers) == list(range(1, CALLERS + 1))
    assert await at(workers, client, 1).content() == {"n": CALLERS}


@each_database
async def test_parallel_rotations_and_writes_leave_one_session_with_its_data(
    workers: list[SessionManager],
) -> None:
    client = await session(workers, start=0)
    meeting = Meeting(20)
    browsers = [at(workers, client, number) for number in range(20)]

    def rotate(session: Session) -> None:
        session.rotate()

    acts = [rotate if number % 4 == 0 else storing(**{f"k{number}": 1}) for number in range(20)]
    answers = await together(
        *(browser.visit(meeting.of(act)) for browser, act in zip(browsers, acts, strict=True))
    )
    assert {answer.status for answer in answers} == {200}
    (winner,) = [
        browser for browser, answer in zip(browsers, answers, strict=True) if answer.set_cookies
    ]
    content = await winner.content()
    assert content["start"] == 0
    assert await at(workers, winner, 1).content() == content
    assert await at(workers, client, 0).content() == {}
