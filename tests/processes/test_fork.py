"""A SQLite file over a fork: whoever lets go of it first, the others lose nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sessionware
from tests.apps import SECRET
from tests.processes.servers import ROOT

SCRIPT = f"""
import os
import sys
from sqlalchemy import create_engine
from sessionware import SessionManager
from tests.byhand import Visitor, storing

given = create_engine(sys.argv[1], hide_parameters=True) if sys.argv[2] == "engine" else sys.argv[1]
manager = SessionManager(secret_key={SECRET!r}, store=given, purge_interval=None)
visitor = Visitor(manager)
visitor.visit(storing(parent=1))
visitor.visit()
to_child, to_parent = os.pipe(), os.pipe()
child = os.fork()
if not child:
    visitor.visit(storing(first=1))
    os.write(to_parent[1], b"x")
    os.read(to_child[0], 1)
    visitor.visit(storing(second=1))
    os.write(to_parent[1], b"x")
    os.read(to_child[0], 1)
    os._exit(0)
os.read(to_parent[0], 1)
manager.shutdown()
if sys.argv[2] == "engine":
    given.dispose()
os.write(to_child[1], b"x")
os.read(to_parent[0], 1)
while_it_lives = visitor.content()
os.write(to_child[1], b"x")
os.waitpid(child, 0)
print(while_it_lives, visitor.content())
manager.shutdown()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("given", ["url", "engine"])
def test_what_a_child_commits_is_seen_though_its_parent_has_closed_the_file(
    tmp_path: Path, given: str
) -> None:
    """SQLite's locks are the process's: a child with the parent's connections would hold none, and
    the WAL would be deleted under it (sqlite.org/howtocorrupt.html, 2.6).
    """
    source = str(Path(sessionware.__path__[0]).parent)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, f"sqlite:///{tmp_path / 's.db'}", given],
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
    content = {"parent": 1, "first": 1, "second": 1}
    assert (done.stdout, done.stderr) == (f"{content} {content}\n", "")
