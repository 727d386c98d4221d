"""`docs/flask.md` says what is so; `tests/test_docs.py` runs its code."""

from __future__ import annotations

from collections.abc import Callable

import click
import flask
import pytest

from sessionware.flask_config import CONFIG_KEYS
from tests import test_docs

PAGE = test_docs.ROOT / "docs" / "flask.md"


def test_the_app_on_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    test_docs.test_every_python_block_of_the_documentation_runs(PAGE, monkeypatch)


def test_the_table_of_settings_names_every_configuration_key() -> None:
    listed = {row[0].strip("`"): row[1].strip("`") for row in test_docs.tables(PAGE, "## Settings")}
    assert listed.pop("SESSION_COOKIE_HTTPONLY") == ""
    assert listed == {key: setting for setting, key in CONFIG_KEYS.items()}
    cookies = {key for key in flask.Flask.default_config if key.startswith("SESSION_")}
    assert cookies <= {*listed, "SESSION_COOKIE_HTTPONLY"}


def test_the_table_of_commands_names_every_command(
    make_app: Callable[..., flask.Flask],
) -> None:
    group = make_app().cli.commands["sessions"]
    assert isinstance(group, click.Group)
    listed = {row[0].strip("`").split()[2] for row in test_docs.tables(PAGE, "## Commands")}
    assert listed == set(group.commands)
