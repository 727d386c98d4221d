"""The long histories: only `make soak` runs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests import services
from tests.faults.proxy import Proxy
from tests.history.fleet import running
from tests.history.nemesis import (
    Play,
    Strike,
    cut_a_statement,
    end_backends,
    fall_silent,
    freeze_a_worker,
    kill_a_worker,
    kill_the_server,
    reset,
    take_away,
)
from tests.history.private import private_postgres, private_redis

pytestmark = [pytest.mark.anyio, pytest.mark.soak]

SECONDS = float(os.environ.get("SESSIONWARE_SOAK_SECONDS", "60"))
OPERATIONS = int(os.environ.get("SESSIONWARE_SOAK_OPERATIONS", "1000000"))
ROUND = 50_000
"""So many operations are one test, which has to end within pytest's own time-out."""
MOST_SECONDS = 240
LEASE = 10.0
GRACE = 1.0
LONGER = LEASE + 2


async def play_for_long(play: Play, seconds: float = SECONDS) -> None:
    report = await play.run(seconds, calm_seconds=3, settle=1)
    assert not report.violations, str(report)
    assert play.strikes_done


@pytest.mark.parametrize("part", range(-(-OPERATIONS // ROUND)))
async def test_a_million_operations_on_sqlite_show_no_violation(part: int, tmp_path: Path) -> None:
    # Half of them by each driver.
    driver = ("sqlite", "sqlite+aiosqlite")[part % 2]
    async with running(tmp_path, f"{driver}:///{tmp_path / 'sessions.db'}") as fleet:
        play = Play(fleet)
        report = await play.run(MOST_SECONDS, most=ROUND)
    assert not report.violations, str(report)
    assert not report.lateness
    assert not play.errors, fleet.log
    assert not play.unanswered
    assert report.operations >= ROUND


@pytest.mark.parametrize("part", range(-(-OPERATIONS // ROUND)))
async def test_a_million_operations_on_postgres_show_no_violation(
    part: int, tmp_path: Path, postgres_url: str, table_name: str
) -> None:
    # Half of them by each driver.
    driver = ("postgresql+psycopg", "postgresql+asyncpg")[part % 2]
    store = services.with_driver(postgres_url, driver)
    async with running(tmp_path, store, table=table_name) as fleet:
        play = Play(fleet, calm=1.0)
        report = await play.run(MOST_SECONDS, most=ROUND, settle=1)
    assert not report.violations, str(report)
    assert not play.errors, fleet.log
    assert not play.unanswered
    assert report.operations >= ROUND


async def test_sqlite_while_workers_die_and_the_stamp_file_is_deleted(tmp_path: Path) -> None:
    database = tmp_path / "sessions.db"
    async with running(tmp_path, f"sqlite:///{database}") as fleet:
        stamps = take_away(tmp_path / "sessions.db-stamps")
        play = Play(fleet, strikes=[kill_a_worker(fleet), stamps])
        await play_for_long(play)


async def test_sqlite_while_workers_are_frozen(tmp_path: Path) -> None:
    async with running(tmp_path, f"sqlite:///{tmp_path / 'sessions.db'}") as fleet:
        await play_for_long(Play(fleet, strikes=[freeze_a_worker(fleet, 1.5)], clients=48))


@pytest.mark.parametrize("seconds", [4.0, LONGER])
async def test_postgres_while_workers_are_frozen(
    seconds: float, tmp_path: Path, postgres_url: str, table_name: str
) -> None:
    async with running(tmp_path, postgres_url, table=table_name, ttl="60") as fleet:
        strikes = [freeze_a_worker(fleet, seconds)]
        play = Play(
            fleet, strikes=strikes, calm=1.0, rough=LEASE + GRACE, tail=1.0, clients=48, pause=4
        )
        await play_for_long(play)


async def test_postgres_while_its_connections_and_workers_are_killed(
    tmp_path: Path, postgres_url: str, table_name: str
) -> None:
    url = make_url(postgres_url).update_query_dict({"application_name": table_name})
    store = url.render_as_string(hide_password=False)
    async with running(tmp_path, store, table=table_name, ttl="60") as fleet:
        strikes = [end_backends(postgres_url, table_name), kill_a_worker(fleet)]
        await play_for_long(
            Play(fleet, strikes=strikes, calm=1.0, rough=LEASE + GRACE, tail=LEASE, replays=True)
        )


async def test_postgres_while_the_server_is_killed(tmp_path: Path) -> None:
    with private_postgres() as (server, url):
        async with running(tmp_path, url, ttl="60") as fleet:
            strikes = [kill_the_server(server, 2)]
            play = Play(
                fleet,
                strikes=strikes,
                pause=5,
                calm=1.0,
                rough=LEASE + GRACE,
                tail=LEASE,
                replays=True,
            )
            await play_for_long(play)


@pytest.mark.parametrize("database", ["postgres_url", "mysql_url"])
async def test_a_database_whose_connections_are_cut_in_the_middle_of_a_commit(
    database: str,
    tmp_path: Path,
    table_name: str,
    request: pytest.FixtureRequest,
    proxied: Callable[[str], tuple[Proxy, str]],
) -> None:
    proxy, store = proxied(request.getfixturevalue(database))
    async with running(tmp_path, store, table=table_name, ttl="60") as fleet:
        strikes = [cut_a_statement(proxy)]
        play = Play(
            fleet,
            strikes=strikes,
            pause=0.05,
            calm=1.0,
            rough=LEASE + GRACE,
            tail=LEASE,
            replays=True,
        )
        await play_for_long(play)


async def test_postgres_while_the_channel_falls_silent(
    tmp_path: Path,
    postgres_url: str,
    table_name: str,
    proxied: Callable[[str], tuple[Proxy, str]],
) -> None:
    proxy, listen = proxied(postgres_url)
    async with running(tmp_path, postgres_url, table=table_name, ttl="60", listen=listen) as fleet:
        strikes = [fall_silent(proxy, LONGER), reset(proxy)]
        await play_for_long(
            Play(fleet, strikes=strikes, pause=4, calm=1.0, rough=LEASE + GRACE, tail=LEASE)
        )


async def test_mariadb_while_redis_is_killed(
    tmp_path: Path, mysql_url: str, table_name: str
) -> None:
    with private_redis(tmp_path) as (server, url):
        await mariadb_with_redis(tmp_path, mysql_url, table_name, url, kill_the_server(server, 3))


async def test_mariadb_while_redis_falls_silent(
    tmp_path: Path,
    mysql_url: str,
    redis_url: str,
    table_name: str,
    proxied: Callable[[str], tuple[Proxy, str]],
) -> None:
    proxy, url = proxied(redis_url)
    await mariadb_with_redis(tmp_path, mysql_url, table_name, url, fall_silent(proxy, LONGER))


async def mariadb_with_redis(
    folder: Path, store: str, table: str, redis: str, strike: Strike
) -> None:
    """Redis holds nothing: whatever becomes of it, every request is answered."""
    async with running(folder, store, table=table, ttl="60", coherence=redis) as fleet:
        play = Play(fleet, strikes=[strike], pause=4, calm=1.0, rough=LEASE + GRACE, tail=LEASE)
        await play_for_long(play)
        assert not play.unanswered
