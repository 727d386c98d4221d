"""A process that has used sessions forks, as gunicorn --preload does: both go on, each alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import drivers, url_of

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@drivers("sqlite", "psycopg")
@pytest.mark.parametrize("given", ["url", "engine", "store"])
def test_parent_and_child_go_on_with_pools_threads_and_caches_of_their_own(
    driver: str, given: str, request: pytest.FixtureRequest, table_name: str
) -> None:
    url = url_of(driver, request)
    search = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    # Since Python 3.12 each fork of a process with threads gets a warning, which is the test's aim.
    quiet = "-Wignore:This process:DeprecationWarning"
    done = subprocess.run(
        [sys.executable, quiet, "-m", "tests.faults.forking", url, table_name, given],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
