"""Flask's own tests, unmodified, with our session interface in place of Flask's.

They come from the source distribution of the Flask that is installed; see `released`. They need a
pytest that is older than ours, hence an environment of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.upstream.released import (
    Outcome,
    environment,
    released_files,
    run,
    source_archive,
    unpack,
)

FLASK = version("flask")
# What Flask's tests need beside Flask and its dependencies, which they have in our versions.
FOR_TESTS = ("pytest<9", "python-dotenv")
OURS_TOO = ("asgiref", "flask", "greenlet", "sessionware")


class Runs(NamedTuple):
    reference: Outcome
    ours: Outcome
    events: dict[str, int]


@pytest.fixture(scope="module")
def archive() -> Path:
    return source_archive("flask", FLASK)


@pytest.fixture(scope="module")
def runs(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    python = environment(f"flask-{FLASK}", [*FOR_TESTS, *installed(*OURS_TOO)])
    checkout = unpack(archive, tmp_path_factory.mktemp("flask"))
    proof = checkout / "events.json"
    reference, ours = (
        run(
            checkout,
            ["tests"],
            "-p",
            "flask_swap",
            label=subject,
            variables={"SUBJECT": subject, "PROOF": str(proof)},
            python=python,
        )
        for subject in ("flask", "sessionware")
    )
    for name, content in released_files(archive).items():
        assert (checkout / name).read_bytes() == content
    return Runs(reference, ours, json.loads(proof.read_text()))


@pytest.mark.slow
def test_flasks_own_tests_pass_unmodified_as_they_do_with_its_own_sessions(runs: Runs) -> None:
    assert len(runs.reference.passed) > 400
    assert runs.ours.passed == runs.reference.passed, runs.ours.output
    assert runs.ours.others == runs.reference.others


@pytest.mark.slow
def test_it_is_our_sessions_that_flasks_tests_store(runs: Runs) -> None:
    assert runs.events["created"] > 10


def installed(*packages: str) -> list[str]:
    """The versions that are installed here of packages and of what they require; not ours."""
    found: dict[str, str] = {}
    pending = list(packages)
    while pending:
        name = pending.pop().lower()
        if name not in found:
            found[name] = f"{name}=={version(name)}"
            pending.extend(required(name))
    del found["sessionware"]
    return sorted(found.values())


def required(package: str) -> Iterator[str]:
    """Without extras, and what is for other platforms is not installed here."""
    for requirement in requires(package) or ():
        name, _, marker = requirement.partition(";")
        if not marker:
            yield re.split(r"[^\w.-]", name.strip(), maxsplit=1)[0]
