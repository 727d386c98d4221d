"""Django's own tests of session engines and of its session middleware, unmodified, run on ours.

They come from the source distribution of the Django that is installed. pip fetches it once, into
SESSIONWARE_TEST_CACHE or the user's cache folder, never into the repository.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

import sessionware
from tests import services
from tests.databases import drivers, url_of

DJANGO = version("django")
SUITE = "tests/sessions_tests/"
DOWNLOAD_TIMEOUT = 240
RUN_TIMEOUT = 240

READS_DJANGOS_TABLE = "SessionMiddlewareTests.test_empty_session_saved"
"""It looks for the session in the table django_session, where only Django's own engine has it."""


@pytest.fixture(scope="module")
def archive() -> Path:
    """Django's source distribution, downloaded unless an earlier run did."""
    named = os.environ.get("SESSIONWARE_TEST_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = Path(named) if named else Path(home) / "sessionware-tests"
    archive = cache / f"django-{DJANGO}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Complete or absent, also when two runs download at the same time.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _download(Path(folder)).replace(archive)
    return archive


@pytest.fixture
def checkout(archive: Path, tmp_path: Path) -> Path:
    """The folder of Django's tests, with those of sessions as they were released."""
    top = f"django-{DJANGO}/"
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(top)
            if not member.isfile() or not name.startswith(SUITE):
                continue
            content = tar.extractfile(member)
            assert content is not None
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    return tmp_path / "tests"


@pytest.mark.slow
def test_djangos_own_session_tests_pass_unmodified_under_its_test_runner(checkout: Path) -> None:
    _assert_all_pass(checkout, "derived", "MemoryStore", table="unused")


@pytest.mark.slow
@drivers("sqlite", "psycopg")
def test_djangos_own_session_tests_pass_unmodified_on(
    driver: str, checkout: Path, request: pytest.FixtureRequest, table_name: str
) -> None:
    _assert_all_pass(checkout, url_of(driver, request), "SQLStore", table_name)


def _assert_all_pass(checkout: Path, store: str, kind: str, table: str) -> None:
    report = checkout.parent / "report.json"
    runner = Path(__file__).with_name("django_run.py")
    command = [sys.executable, "-W", "error", str(runner), str(checkout), store, table, str(report)]
    done = subprocess.run(
        command,
        cwd=checkout.parent,
        env={**os.environ, "PYTHONPATH": str(Path(sessionware.__path__[0]).parent)},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )
    output = done.stdout + done.stderr
    assert report.exists(), output
    found = json.loads(report.read_text())
    outcomes = found["outcomes"]
    assert found["store"] == kind
    # Every test of the two classes, as their source has them.
    source = (checkout / "sessions_tests" / "tests.py").read_text()
    expected = {f"SessionwareTests.{name}" for name in _tests_of(source, "SessionTestsMixin")}
    assert len(expected) > 50
    expected |= {f"SessionMiddlewareTests.{n}" for n in _tests_of(source, "SessionMiddlewareTests")}
    assert set(outcomes) == expected
    others = {name: outcome for name, outcome in outcomes.items() if outcome != "passed"}
    assert others == {READS_DJANGOS_TABLE: "failed: DoesNotExist"}, output


def _tests_of(source: str, name: str) -> list[str]:
    _, _, body = source.partition(f"\nclass {name}")
    body = re.split(r"^(?:class|@)", body, maxsplit=1, flags=re.M)[0]
    return re.findall(r"^    (?:async )?def (test_\w+)", body, flags=re.M)


def _download(folder: Path) -> Path:
    """Let pip fetch the archive into `folder`, with whatever registry pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "django", "--dest", str(folder), f"django=={DJANGO}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=DOWNLOAD_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        services.unavailable(f"pip took over {DOWNLOAD_TIMEOUT} s to download Django's sources")
    if done.returncode != 0:
        services.unavailable(f"pip could not download the sources of Django {DJANGO}")
    (archive,) = folder.glob("[dD]jango-*.tar.gz")
    return archive
