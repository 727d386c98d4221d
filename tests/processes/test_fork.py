"""A SQLite file over a fork: whoever lets go of it first, the others lose nothing.

SQLite's locks are the process's: a child with the parent's connections would hold none, and the WAL
would be deleted under it (sqlite.org/howtocorrupt.html, 2.6).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sessionware
from tests.processes.servers import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
Run = Callable[..., list[str]]
REFUSAL = "StoreUnavailable: the SQLite file was in use while this process was forked"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The lines that a scenario prints; see ``forked``."""
    source = str(Path(sessionware.__path__[0]).parent)

    def run_one(
        scenario: str, *words: str, driver: str = "sqlite", url: str | None = None
    ) -> list[str]:
        url = url or f"{driver}:///{tmp_path / 's.db'}"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.processes.forked", scenario, url, *words],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join((source, str(ROOT))),
                "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run_one


@pytest.mark.parametrize("how", ["quiet", "reading", "writing"])
@pytest.mark.parametrize("given", ["url", "engine"])
def test_what_a_child_commits_is_seen_though_its_parent_has_closed_the_file(
    run: Run, given: str, how: str
) -> None:
    """Also if other threads of the parent were reading or writing when it forked."""
    content = {"parent": 1, "first": 1, "second": 1}
    assert run("in_turn", given, how) == [f"{content} {content}"]


def test_a_child_refuses_a_file_that_its_parent_had_in_use_for_too_long(run: Run) -> None:
    """Also by a manager of its own; and the parent goes on."""
    refused, anew, content = run("too_long")
    assert refused.startswith(REFUSAL)
    assert anew.startswith(REFUSAL)
    assert content == "{'by': 'parent'} {'by': 'parent'}"


def test_a_child_refuses_a_file_that_the_application_itself_had_in_use(run: Run) -> None:
    refused, content = run("of_the_application")
    assert refused.startswith(REFUSAL)
    assert content == "{'by': 'parent'}"


@pytest.mark.parametrize("given", ["unused", "closed"])
def test_a_child_that_was_forked_unnoticed_uses_a_file_that_its_parent_did_not_have_open(
    run: Run, given: str
) -> None:
    """Forked in C, as uWSGI does, which calls no hook of Python's unless it is told to."""
    begun = {} if given == "unused" else {"parent": 1}
    first, second, drawn_by_both = run("unnoticed", given)
    assert (first, second) == (str({**begun, "first": 1}), str({**begun, "first": 1, "second": 1}))
    assert drawn_by_both == "0"


def test_a_child_that_was_forked_unnoticed_refuses_a_file_that_its_parent_had_open(
    run: Run,
) -> None:
    first, of_parent, second, _ = run("unnoticed", "used")
    assert first.startswith(REFUSAL)
    assert second.startswith(REFUSAL)
    assert of_parent == str({"parent": 1})


def test_a_child_that_was_forked_unnoticed_has_threads_and_connections_of_its_own(
    run: Run, postgres_url: str, table_name: str
) -> None:
    first, of_parent, second, drawn_by_both = run("unnoticed", "used", table_name, url=postgres_url)
    assert first == of_parent == str({"parent": 1, "first": 1})
    assert second == str({"parent": 1, "first": 1, "second": 1})
    assert drawn_by_both == "0"


def test_a_cached_store_without_a_manager_shares_nothing_with_a_child(run: Run) -> None:
    assert run("standalone") == ["0 {'by': 'child'}"]


@pytest.mark.parametrize("how", ["quiet", "writing", "hesitating"])
@pytest.mark.parametrize("thread", ["loop", "thread"])
def test_what_a_child_commits_is_seen_though_an_event_loop_of_its_parent_had_the_file_open(
    run: Run, thread: str, how: str
) -> None:
    """Whichever thread forks, and whatever tasks are at; a write that is under way is done."""
    content = {"parent": 1, "first": 1, "third": 1, "second": 1}
    assert run("loop_in_turn", thread, how, driver="sqlite+aiosqlite") == [str(content)]


@pytest.mark.parametrize("how", ["open", "disposed"])
def test_a_child_uses_the_file_of_an_applications_async_engine_only_if_that_was_disposed_of(
    run: Run, how: str
) -> None:
    said, content = run("loop_of_the_application", how, driver="sqlite+aiosqlite")
    assert said.startswith(REFUSAL) == (how == "open")
    assert content == str({"by": "parent" if how == "open" else "child"})
