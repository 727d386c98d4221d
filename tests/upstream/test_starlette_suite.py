"""Starlette's own tests of its session middleware, unmodified, run against ours.

They come from the source distribution of the Starlette that is installed; see `released`.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.upstream.released import Outcome, released_files, run, source_archive, unpack

STARLETTE = version("starlette")
SUITE = "tests/middleware/test_session.py"


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, STARLETTE.split(".")[:2])) < (1, 10),
    reason="the promise is to be a drop-in for Starlette 1.10, whose tests older ones do not have",
)
def test_starlettes_own_session_tests_all_pass_unmodified(tmp_path: Path) -> None:
    archive = source_archive("starlette", STARLETTE)
    checkout = unpack(archive, tmp_path / "starlette")

    reference = _run(checkout, subject="starlette.middleware.sessions")
    ours = _run(checkout, subject="sessionware")

    assert not reference.others, reference.output
    assert not ours.others, ours.output
    assert ours.passed == reference.passed
    for loop in ("asyncio", "trio"):
        assert any(loop in name for name in ours.passed)
    released = released_files(archive)[SUITE]
    assert sha256((checkout / SUITE).read_bytes()).digest() == sha256(released).digest()


def _run(checkout: Path, subject: str) -> Outcome:
    """Run the suite, warnings as errors, with `subject`'s middleware."""
    options = ("-W", "error", "-p", "swap")
    return run(checkout, [SUITE], *options, label=subject, variables={"SUBJECT": subject})
