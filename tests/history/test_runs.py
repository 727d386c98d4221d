"""Random requests on four real workers while things break: no promise is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.faults.proxy import Proxy
from tests.history.fleet import running
from tests.history.nemesis import Play, end_backends, kill_a_worker, reset

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SECONDS = 6.0
LEASE = 10.0
GRACE = 1.0
"""Seconds beyond a bound that a busy machine gets."""
LEAST = 500
"""Operations that a run has to have, to say anything."""


async def test_sqlite_workers_that_are_killed_keep_every_promise_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, f"sqlite:///{tmp_path / 'sessions.db'}") as fleet:
        play = Play(fleet, strikes=[kill_a_worker(fleet)], pause=0.5)
        report = await play.run(SECONDS)
    assert not report.violations, str(report)
    assert not report.lateness
    assert not play.errors, fleet.log
    assert play.strikes_done
    assert report.operations > LEAST


async def test_postgres_workers_keep_every_promise_while_connections_and_workers_are_killed(
    tmp_path: Path, postgres_url: str, table_name: str
) -> None:
    url = make_url(postgres_url).update_query_dict({"application_name": table_name})
    store = url.render_as_string(hide_password=False)
    async with running(tmp_path, store, table=table_name) as fleet:
        strikes = [end_backends(postgres_url, table_name), kill_a_worker(fleet)]
        play = Play(fleet, strikes=strikes, calm=1.0, rough=LEASE + GRACE, tail=LEASE, replays=True)
        report = await play.run(SECONDS / 2, calm_seconds=SECONDS / 2)
    assert not report.violations, str(report)
    assert not play.errors, fleet.log
    assert play.strikes_done
    assert report.operations > LEAST


async def test_mariadb_workers_keep_every_promise_while_their_redis_connections_are_reset(
    tmp_path: Path,
    mysql_url: str,
    redis_url: str,
    table_name: str,
    proxied: Callable[[str], tuple[Proxy, str]],
) -> None:
    proxy, through = proxied(redis_url)
    async with running(tmp_path, mysql_url, table=table_name, coherence=through) as fleet:
        play = Play(fleet, strikes=[reset(proxy)], calm=1.0, rough=LEASE + GRACE, tail=LEASE)
        report = await play.run(SECONDS / 2, calm_seconds=SECONDS / 2)
    assert not report.violations, str(report)
    assert not play.errors, fleet.log
    assert not play.unanswered
    assert play.strikes_done
    assert report.operations > LEAST
