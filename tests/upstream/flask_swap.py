"""A pytest plugin that puts our session interface where Flask has its own.

It is loaded by `-p` in the process that `test_flask_suite` starts. SUBJECT is `flask`, for Flask's
own, or `sessionware`; PROOF names the file that gets what happened to our sessions.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import flask
import pytest

from sessionware import SessionEvent, manager
from sessionware.flask import FlaskSessions

events: Counter[str] = Counter()


def note(event: SessionEvent) -> None:
    events[event.kind] += 1


if os.environ["SUBJECT"] == "sessionware":
    store = f"sqlite:///{Path.cwd() / 'sessions.db'}"
    flask.Flask.session_interface = FlaskSessions(store=store, on_event=note)
subject = flask.Flask.session_interface


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Let go of connections, as an application does in the end; and still use the subject."""
    yield
    assert flask.Flask.session_interface is subject
    for each in list(manager._managers):
        each.shutdown()


def pytest_sessionfinish() -> None:
    Path(os.environ["PROOF"]).write_text(json.dumps(events))
