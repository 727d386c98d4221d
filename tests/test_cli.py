"""`sessionware ...`, run as an operator does beside workers that serve."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
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
    Path("sessions.db").touch()
    result = run("revoke-all", "--yes")
    assert result.exit_code == 1
    assert "table 'sessions' is not in the database" in result.output
    assert run("revoke-all", "--yes").exit_code == 1


def test_tables_are_made_on_demand(run: Run) -> None:
    assert run("check").exit_code == 1
    assert run("init-db").output == "The tables are there.\n"
    assert run("init-db").exit_code == 0
    assert run("check").output == "The database answers, and has the tables.\n"
    assert run("list", "alice").exit_code == 0


def test_a_file_that_is_not_there_is_an_error_and_not_made(run: Run) -> None:
    result = run("revoke-all", "--yes")
    assert result.exit_code == 1
    assert "there is no SQLite file" in result.output
    assert not Path("sessions.db").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "which sessions?"),
        (("--store", STORE, "--manager", "shop:manager"), "give either it or --store"),
        (("--manager", "nowhere:manager"), "no module 'nowhere'"),
        (("--manager", "json:dumps"), "is no SessionManager"),
        (("--manager", "json"), "form MODULE:NAME"),
        (("--manager", ":manager"), "form MODULE:NAME"),
        (("--manager", ".shop:manager"), "form MODULE:NAME"),
    ],
)
def test_what_names_no_sessions_is_refused(
    arguments: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = CliRunner().invoke(main, [*arguments, "list", "alice"])
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_database_that_is_busy_for_longer_than_a_request_waits_is_waited_for(
    worker: SessionManager, run: Run
) -> None:
    logged_in(worker, "alice")
    with closing(sqlite3.connect("sessions.db", check_same_thread=False)) as rival:
        rival.execute("BEGIN IMMEDIATE")
        rest = threading.Timer(worker.store.timeout + 1, rival.rollback)
        rest.start()
        assert run("revoke-user", "alice").output == "1 session ended.\n"
        rest.join()


def test_a_password_in_the_url_is_not_shown() -> None:
    url = "postgresql+psycopg://shop:geheim@127.0.0.1:1/shop"
    result = CliRunner().invoke(main, ["list", "alice"], env={"SESSIONWARE_STORE": url})
    assert result.exit_code == 1
    assert result.output.startswith("Error: the database can't be reached")
    assert "geheim" not in result.output


@pytest.mark.parametrize(
    ("typed", "inherited"),
    [
        (("--store", STORE), {"SESSIONWARE_MANAGER": "nowhere:manager"}),
        (("--manager", "json:dumps"), {"SESSIONWARE_STORE": STORE}),
    ],
)
def test_what_is_typed_wins_over_the_environment(
    typed: tuple[str, str],
    inherited: dict[str, str],
    worker: SessionManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    worker.purge()
    result = CliRunner().invoke(main, [*typed, "purge"], env=inherited)
    assert "either" not in result.output
    assert ("deleted" if typed[0] == "--store" else "'json:dumps'") in result.output


def beside(shop: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in a folder with this application as ``shop.py``."""
    Path("shop.py").write_text(f"from sessionware import *\n{shop}\n")
    return subprocess.run(
        [sys.executable, "-m", "sessionware.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )


MANAGER = f"manager = SessionManager(secret_key={SECRET!r}, store={STORE!r}, create_table=False)"
APP = "app = SessionMiddleware(print, manager=manager)"


@pytest.mark.parametrize("name", ["manager", "app", "app.manager"])
def test_the_applications_manager_is_imported_from_the_current_folder(
    name: str, worker: SessionManager
) -> None:
    alice = logged_in(worker, "alice")
    done = beside(f"{MANAGER}\n{APP}", "--manager", f"shop:{name}", "revoke-user", "alice")
    assert done.stdout == "1 session ended.\n"
    assert not is_logged_in(alice)


def test_tables_are_made_for_an_application_that_must_not_make_them() -> None:
    assert beside(MANAGER, "--manager", "shop:manager", "purge").returncode == 1
    assert beside(MANAGER, "--manager", "shop:manager", "init-db").returncode == 0
    assert beside(MANAGER, "--manager", "shop:manager", "purge").returncode == 0


def test_risky_settings_of_the_application_are_listed(worker: SessionManager) -> None:
    worker.purge()
    done = beside(MANAGER, "--manager", "shop:manager", "check")
    assert done.returncode == 0
    *risks, answer = done.stdout.splitlines()
    assert [risk.split()[0] for risk in risks] == ["SW007", "SW016"]
    assert answer.startswith("The database answers")
    assert done.stderr == ""


def test_wrong_settings_of_the_application_are_one_error() -> None:
    shop = "manager = SessionManager(secret_key='', same_site='none')"
    done = beside(shop, "--manager", "shop:manager", "check")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "SW001" in done.stderr
    assert "SW008" in done.stderr


def test_the_table_of_commands_names_every_command() -> None:
    page = test_docs.ROOT / "docs" / "users.md"
    tables = test_docs.tables(page, "## From the command line")
    assert isinstance(main, click.Group)
    assert {row[0].strip("`").split()[1] for row in tables} == set(main.commands)
