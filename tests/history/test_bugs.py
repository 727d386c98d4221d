"""The checker on planted bugs: what finds nothing in these would find nothing in anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.apps import Managers
from tests.history.bugs import BUGS, plant
from tests.history.checker import Report, check
from tests.history.driver import Driver
from tests.history.fleet import running
from tests.history.local import lines_to
from tests.history.nemesis import Play

pytestmark = pytest.mark.anyio

CAUGHT = {
    "upsert_save": "alive after its end",
    "no_invalidation": "stale read",
    "no_version_check": "key lost",
    "no_epoch_check": "old ID alive",
    "stale_fill": "stale read",
    "shared_objects": "key from nowhere",
    "old_id_lives": "old ID alive",
    "careless_count": "increment lost",
}
SECONDS = 1.0
ROUNDS = 8
"""How often to try before a bug counts as not found."""


async def history_of_two_workers(folder: Path, seconds: float) -> Report:
    managers = Managers()
    store = f"sqlite:///{folder / 'sessions.db'}"
    driver = Driver(lines_to(*(managers(store=store) for _ in range(2))), seed=1)
    try:
        await driver.run(seconds)
        await driver.settle()
    finally:
        await managers.aclose()
    return check(driver.history)


def test_every_bug_has_something_that_gives_it_away() -> None:
    assert CAUGHT.keys() == BUGS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
async def test_a_planted_bug_is_caught(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(bug, monkeypatch.setattr)
    found: set[str] = set()
    for attempt in range(ROUNDS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        found |= (await history_of_two_workers(folder, SECONDS)).kinds()
        if CAUGHT[bug] in found:
            return
    pytest.fail(f"{bug} has gone unnoticed but for {found or 'nothing'}")


@pytest.mark.slow
async def test_without_a_bug_nothing_is_reported(tmp_path: Path) -> None:
    report = await history_of_two_workers(tmp_path, 2 * SECONDS)
    assert not report.violations, str(report)
    assert report.operations > 100


@pytest.mark.soak
@pytest.mark.parametrize("bug", BUGS)
async def test_a_bug_planted_in_real_workers_is_caught(bug: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    found: set[str] = set()
    async with running(tmp_path, store, workers=4, bugs=bug) as fleet:
        for _ in range(ROUNDS):
            found |= (await Play(fleet).run(4)).kinds()
            if CAUGHT[bug] in found:
                return
    pytest.fail(f"{bug} has gone unnoticed but for {found or 'nothing'}")
