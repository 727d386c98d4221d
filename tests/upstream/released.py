"""A framework's own tests, as released: fetched once, run in a process of their own.

pip fetches them, with whatever registry it is set up for, into SESSIONWARE_TEST_CACHE or the user's
cache folder, never into the repository. What is there is complete, also when two runs begin at the
same time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import sessionware
from tests import services

PIP_TIMEOUT = 240
RUN_TIMEOUT = 240


@dataclass(frozen=True)
class Outcome:
    passed: frozenset[str]
    """Names of the tests that passed, each with its parameters."""
    others: frozenset[str]
    """Those that failed, were skipped or could not be set up."""
    output: str


def source_archive(package: str, version: str) -> Path:
    """The source distribution of a package, downloaded unless an earlier run did."""
    cache = _cache_folder()
    archive = cache / f"{package}-{version}.tar.gz"
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            arguments = ["--no-deps", "--no-binary", package, "--dest", folder]
            _pip("download", *arguments, f"{package}=={version}")
            (downloaded,) = Path(folder).glob(f"{package}-*.tar.gz")
            downloaded.replace(archive)
    return archive


def released_files(archive: Path) -> dict[str, bytes]:
    """The archive's `tests/` and `pyproject.toml`, by path below its top folder."""
    top = archive.name.removesuffix(".tar.gz") + "/"
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(top)
            if member.isfile() and (name == "pyproject.toml" or name.startswith("tests/")):
                content = tar.extractfile(member)
                assert content is not None
                files[name] = content.read()
    return files


def unpack(archive: Path, folder: Path) -> Path:
    """A package's tests and pytest settings without its code, as they were released."""
    for name, content in released_files(archive).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


def environment(name: str, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment with these requirements, made unless an earlier run
    did. Ours is not among them: `run` puts the sources on its path.
    """
    wanted = "\n".join([sys.version, *sorted(requirements)])
    cache = _cache_folder()
    made = cache / f"{name}-{sha256(wanted.encode()).hexdigest()[:16]}"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            fresh = Path(folder) / "environment"
            command = [sys.executable, "-m", "venv", "--without-pip", str(fresh)]
            subprocess.run(command, capture_output=True, timeout=PIP_TIMEOUT, check=True)
            _pip("install", *requirements, python=_python_of(fresh))
            try:
                fresh.rename(made)
            except OSError:
                # Another run was quicker.
                assert made.exists()
    return _python_of(made)


def run(
    checkout: Path,
    tests: Iterable[str],
    *options: str,
    label: str,
    variables: Mapping[str, str],
    python: Path | None = None,
) -> Outcome:
    """Run released tests in a process of their own; plugins beside this file are found."""
    report = checkout / f"{label}.xml"
    command = [str(python or sys.executable), "-m", "pytest", *tests, *options]
    command += ["-p", "no:cacheprovider", f"--rootdir={checkout}", f"--junit-xml={report}"]
    folders = [Path(__file__).parent, Path(sessionware.__path__[0]).parent]
    path = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        command,
        cwd=checkout,
        env={**os.environ, **variables, "PYTEST_ADDOPTS": "", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
        check=False,
    )
    output = done.stdout + done.stderr
    assert report.exists(), output
    passed: set[str] = set()
    others: set[str] = set()
    failed = False
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        failed = failed or any(case.find(tag) is not None for tag in ("failure", "error"))
        unclean = any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
        (others if unclean else passed).add(name)
    assert (done.returncode == 0) == (not failed), output
    return Outcome(frozenset(passed), frozenset(others), output)


def _cache_folder() -> Path:
    named = os.environ.get("SESSIONWARE_TEST_CACHE")
    home = os.environ.get("XDG_CACHE_HOME")
    default = (Path(home) if home else Path.home() / ".cache") / "sessionware-tests"
    folder = Path(named).absolute() if named else default
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _python_of(folder: Path) -> Path:
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def _pip(action: str, *arguments: str, python: Path | None = None) -> None:
    command = [sys.executable, "-m", "pip"]
    command += [] if python is None else ["--python", str(python)]
    command += [action, "--quiet", "--disable-pip-version-check", *arguments]
    # What lies on our path is not installed there.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, timeout=PIP_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        services.unavailable(f"pip {action} took over {PIP_TIMEOUT} s")
    if done.returncode != 0:
        services.unavailable(f"pip could not {action} what the tests of a framework need")
