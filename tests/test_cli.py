"""`sessionware ...`, run as an operator does beside workers that serve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sessionware import SessionManager
from sessionware.cli import main
from tests import test_docs
from tests.apps import SECRET, Managers
from tests.byhand import Visitor, login

STORE = "sqlite:///sessions.db"
Run = Callable[..., Result]


@pytest.fixture
def worker() -> Iterator[SessionManager]:
    """A manager that serves."""
    manager = Managers()(store=STORE)
    yield manager
    manager.shutdown()


@pytest.fixture(params=["sqlite", "sqlite+aiosqlite"])
def run(request: pytest.FixtureRequest) -> Run:
    """The command on the worker's database, through a driver that blocks and one that doesn't."""

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["--store", f"{request.param}:///sessions.db", *arguments])

    return invoke


def logged_in(manager: SessionManager, user: str) -> Visitor:
    visitor = Visitor(manager)
    visitor.visit(login(user))
    return visitor


def is_logged_in(visitor: Visitor) -> bool:
    return "user_id" in visitor.open()


def test_list_shows_a_users_sessions_by_their_handles(worker: SessionManager, run: Run) -> None:
    alice = logged_in(worker, "alice")
    logged_in(worker, "bob")
    (line,) = run("list", "alice").output.splitlines()
    assert line.split("\t")[0] == alice.open().handle


def test_encrypted_sessions_are_listed_without_their_key(run: Run) -> None:
    worker = Managers()(store=STORE, encryption_key="k" * 43)
    alice = logged_in(worker, "alice")
    assert run("list", "alice").output.startswith(alice.open().handle)
    worker.shutdown()


def test_a_session_that_is_revoked_has_ended_for_the_worker(
    worker: SessionManager, run: Run
) -> None:
    laptop, phone = logged_in(worker, "alice"), logged_in(worker, "alice")
    result = run("revoke", laptop.open().handle, "--user", "alice")
    assert (result.exit_code, result.output) == (0, "1 session ended.\n")
    assert not is_logged_in(laptop)
    assert is_logged_in(phone)


def test_a_user_who_is_revoked_is_logged_out_everywhere(worker: SessionManager, run: Run) -> None:
    browsers = [logged_in(worker, user) for user in ("alice", "alice", "bob")]
    assert run("revoke-user", "alice").output == "2 sessions ended.\n"
    assert [is_logged_in(browser) for browser in browsers] == [False, False, True]


def test_everybody_is_logged_out_once_that_is_confirmed(worker: SessionManager, run: Run) -> None:
    alice = logged_in(worker, "alice")
    assert run("revoke-all").exit_code == 1
    assert is_logged_in(alice)
    assert run("revoke-all", "--yes").output == "1 session ended.\n"
    assert not is_logged_in(alice)


def test_expired_sessions_are_purged(run: Run) -> None:
    assert Managers()(store=STORE).store.create({"n": 1}, ttl=0.001)
    assert run("purge").output == "1 session deleted.\n"


def test_another_table_is_found_by_its_name(run: Run) -> None:
    worker = Managers()(store=STORE, table_name="visits")
    alice = logged_in(worker, "alice")
    assert run("--table-name", "visits", "revoke-user", "alice").output == "1 session ended.\n"
    assert not is_logged_in(alice)
    worker.shutdown()


def test_a_database_without_sessions_is_an_error_and_gets_no_table(run: Run) -> None:
    result = run("revoke-all", "--yes")
    assert result.exit_code == 1
    assert "table 'sessions' is not in the database" in result.output
    assert run("revoke-all", "--yes").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "which sessions?"),
        (("--store", STORE, "--manager", "shop:manager"), "give either it or --store"),
        (("--manager", "nowhere:manager"), "no module 'nowhere'"),
        (("--manager", "json:dumps"), "is no SessionManager"),
        (("--manager", "json"), "form MODULE:NAME"),
        (("--manager", ":manager"), "form MODULE:NAME"),
    ],
)
def test_what_names_no_sessions_is_refused(
    arguments: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = CliRunner().invoke(main, [*arguments, "list", "alice"])
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_password_in_the_url_is_not_shown() -> None:
    url = "postgresql+psycopg://shop:geheim@127.0.0.1:1/shop"
    result = CliRunner().invoke(main, ["list", "alice"], env={"SESSIONWARE_STORE": url})
    assert result.exit_code == 1
    assert result.output.startswith("Error: the database can't be reached")
    assert "geheim" not in result.output


@pytest.mark.parametrize("name", ["manager", "app", "app.manager"])
def test_the_applications_manager_is_imported_from_the_current_folder(
    name: str, worker: SessionManager, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(
        "from sessionware import SessionManager, SessionMiddleware\n"
        f"manager = SessionManager(secret_key={SECRET!r}, store={STORE!r})\n"
        "app = SessionMiddleware(print, manager=manager)\n"
    )
    alice = logged_in(worker, "alice")
    command = [sys.executable, "-m", "sessionware.cli", "--manager", f"shop:{name}"]
    done = subprocess.run(
        [*command, "revoke-user", "alice"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.stdout == "1 session ended.\n"
    assert not is_logged_in(alice)


def test_the_table_of_commands_names_every_command() -> None:
    page = test_docs.ROOT / "docs" / "users.md"
    tables = test_docs.tables(page, "## From the command line")
    assert isinstance(main, click.Group)
    assert {row[0].strip("`").split()[1] for row in tables} == set(main.commands)
