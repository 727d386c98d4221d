"""A pytest plugin that puts our classes where Starlette has its own.

It is loaded by `-p` in the process that `test_starlette_suite` starts, before any test module is
imported. SUBJECT names the module whose middleware is tested.
"""

from __future__ import annotations

import importlib
import os

import pytest
from starlette.middleware import sessions

subject = importlib.import_module(os.environ["SUBJECT"])
sessions.SessionMiddleware = subject.SessionMiddleware  # type: ignore[misc]
sessions.Session = subject.Session  # type: ignore[misc]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stop the run if a test holds any class but the subject's, or may block the event loop."""
    for item in items:
        assert isinstance(item, pytest.Function)
        if getattr(item.module, "SessionMiddleware", None) is not subject.SessionMiddleware:
            raise pytest.UsageError(f"{item.nodeid} does not test {subject.__name__}")
        if "blockbuster" not in item.fixturenames:
            raise pytest.UsageError(f"{item.nodeid} runs without blockbuster")
