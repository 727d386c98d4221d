"""Starlette's own tests of its session middleware, unmodified, run against ours.

They come from the source distribution of the Starlette that is installed. pip fetches it once, into
SESSIONWARE_TEST_CACHE or the user's cache folder, never into the repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

import sessionware
from tests import services

STARLETTE = version("starlette")
SUITE = "tests/middleware/test_session.py"
DOWNLOAD_TIMEOUT = 240
RUN_TIMEOUT = 240


@dataclass(frozen=True)
class Outcome:
    passed: frozenset[str]
    """Names of the tests that passed, each with its parameters."""
    others: frozenset[str]
    """Those that failed, were skipped or could not be set up."""
    output: str


@pytest.fixture(scope="module")
def archive() -> Path:
    """Starlette's source distribution, downloaded unless an earlier run did."""
    cache = _cache_folder()
    archive = cache / f"starlette-{STARLETTE}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Complete or absent, also when two runs download at the same time.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _download(Path(folder)).replace(archive)
    return archive


@pytest.fixture
def checkout(archive: Path, tmp_path: Path) -> Path:
    """Starlette's tests and pytest settings without its code, as they were released."""
    folder = tmp_path / "starlette"
    for name, content in _released_files(archive).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, STARLETTE.split(".")[:2])) < (1, 10),
    reason="the promise is to be a drop-in for Starlette 1.10, whose tests older ones do not have",
)
def test_starlettes_own_session_tests_all_pass_unmodified(archive: Path, checkout: Path) -> None:
    reference = _run(checkout, subject="starlette.middleware.sessions")
    ours = _run(checkout, subject="sessionware")

    assert not reference.others, reference.output
    assert not ours.others, ours.output
    assert ours.passed == reference.passed
    for loop in ("asyncio", "trio"):
        assert any(loop in name for name in ours.passed)
    released = _released_files(archive)[SUITE]
    assert sha256((checkout / SUITE).read_bytes()).digest() == sha256(released).digest()


def _cache_folder() -> Path:
    named = os.environ.get("SESSIONWARE_TEST_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "sessionware-tests"


def _download(folder: Path) -> Path:
    """Let pip fetch the archive into `folder`, with whatever registry pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "starlette", "--dest", str(folder), f"starlette=={STARLETTE}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=DOWNLOAD_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        services.unavailable(f"pip took over {DOWNLOAD_TIMEOUT} s to download Starlette's sources")
    if done.returncode != 0:
        services.unavailable(f"pip could not download the sources of Starlette {STARLETTE}")
    (archive,) = folder.glob("starlette-*.tar.gz")
    return archive


def _released_files(archive: Path) -> dict[str, bytes]:
    """The archive's `tests/` and `pyproject.toml`, by path below its top folder."""
    top = f"starlette-{STARLETTE}/"
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(top)
            if member.isfile() and (name == "pyproject.toml" or name.startswith("tests/")):
                content = tar.extractfile(member)
                assert content is not None
                files[name] = content.read()
    return files


def _run(checkout: Path, subject: str) -> Outcome:
    """Run the suite in a process of its own, warnings as errors, with `subject`'s middleware."""
    report = checkout / f"{subject}.xml"
    command = [sys.executable, "-m", "pytest", SUITE, "-W", "error", "-p", "swap"]
    command += ["-p", "no:cacheprovider", f"--rootdir={checkout}", f"--junit-xml={report}"]
    environment = {**os.environ, "SUBJECT": subject, "PYTEST_ADDOPTS": ""}
    folders = [Path(__file__).parent, Path(sessionware.__path__[0]).parent]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        command,
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )
    output = done.stdout + done.stderr
    assert report.exists(), output
    passed: set[str] = set()
    others: set[str] = set()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        unclean = any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
        (others if unclean else passed).add(name)
    assert (done.returncode == 0) == (not others), output
    return Outcome(frozenset(passed), frozenset(others), output)
