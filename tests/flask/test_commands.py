"""`flask sessions ...`, run as an operator does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from click.testing import Result

from tests.asgi.failing import FailingStore
from tests.asgi.site import rows
from tests.byhand import Clock
from tests.flask.conftest import Visitor, storing


def run(app: flask.Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["sessions", *arguments])


def logged_in(app: flask.Flask, user: Any) -> Visitor:
    visitor = Visitor(app)
    visitor.visit(storing(user_id=user), headers={"User-Agent": "Netscape"})
    return visitor


def test_list_shows_a_users_sessions_and_never_an_id(make_app: Callable[..., flask.Flask]) -> None:
    app = make_app(record_client=True)
    alice = logged_in(app, "alice")
    logged_in(app, "bob")
    result = run(app, "list", "alice")
    assert result.exit_code == 0
    (line,) = result.output.splitlines()
    handle, *times, address, agent = line.split("\t")
    assert handle == alice.visit(lambda session: session.handle).json
    assert len(times) == 3
    assert (address, agent) == ("127.0.0.1", "Netscape")
    assert alice.token is not None
    assert alice.token[:43] not in result.output


def test_a_user_id_that_is_a_number_is_found(make_app: Callable[..., flask.Flask]) -> None:
    app = make_app()
    logged_in(app, 42)
    (line,) = run(app, "list", "42").output.splitlines()
    assert line.endswith("\t-\t-")


def test_list_of_a_user_without_sessions_is_empty(make_app: Callable[..., flask.Flask]) -> None:
    result = run(make_app(), "list", "nobody")
    assert (result.exit_code, result.output) == (0, "")


def test_revoke_ends_one_session_of_the_user_that_is_named(
    make_app: Callable[..., flask.Flask],
) -> None:
    app = make_app()
    laptop, phone = logged_in(app, "alice"), logged_in(app, "alice")
    handle = laptop.visit(lambda session: session.handle).json
    wrong = run(app, "revoke", str(handle), "--user", "bob")
    assert wrong.exit_code == 1
    assert "no session with this handle" in wrong.output
    right = run(app, "revoke", str(handle), "--user", "alice")
    assert (right.exit_code, right.output) == (0, "1 session ended.\n")
    assert laptop.content() == {}
    assert phone.content() == {"user_id": "alice"}


def test_revoke_needs_the_user(make_app: Callable[..., flask.Flask]) -> None:
    result = run(make_app(), "revoke", "abc")
    assert result.exit_code == 2
    assert "--user" in result.output


def test_revoke_user_ends_all_of_one_user(make_app: Callable[..., flask.Flask]) -> None:
    app = make_app()
    browsers = [logged_in(app, user) for user in ("alice", "alice", "bob")]
    result = run(app, "revoke-user", "alice")
    assert (result.exit_code, result.output) == (0, "2 sessions ended.\n")
    assert [browser.content() for browser in browsers] == [{}, {}, {"user_id": "bob"}]


def test_purge_deletes_expired_rows(make_app: Callable[..., flask.Flask], clock: Clock) -> None:
    app = make_app(max_age=60)
    logged_in(app, "alice")
    clock.tick(24 * 3600)
    result = run(app, "purge")
    assert (result.exit_code, result.output) == (0, "1 session deleted.\n")
    assert rows() == []


def test_commands_work_without_a_secret(make_app: Callable[..., flask.Flask]) -> None:
    assert run(make_app(SECRET_KEY=None), "purge").exit_code == 0


@pytest.mark.parametrize("arguments", [("list", "alice"), ("revoke-user", "alice"), ("purge",)])
def test_a_failing_store_is_one_line_and_exit_code_1(
    make_app: Callable[..., flask.Flask], arguments: tuple[str, ...]
) -> None:
    store = FailingStore()
    app = make_app(store=store)
    store.down = {"*"}
    result = run(app, *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert len(result.output.splitlines()) == 1
