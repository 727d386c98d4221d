"""``flask sessions ...``: list and end sessions from the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from flask import current_app
from flask.cli import AppGroup

from .errors import SessionError
from .manager import SessionManager

if TYPE_CHECKING:
    from datetime import datetime

    from flask import Flask


def session_commands(manager_of: Callable[[Flask], SessionManager]) -> AppGroup:
    """The group of commands that work on the application's manager."""
    group = AppGroup("sessions", help="List and end the sessions of users.")

    @contextmanager
    def managed() -> Iterator[SessionManager]:
        try:
            yield manager_of(current_app._get_current_object())  # type: ignore[attr-defined]
        except SessionError as error:
            raise click.ClickException(str(error)) from None

    @group.command("list")
    @click.argument("user")
    def list_(user: str) -> None:
        """Show USER's sessions, latest seen first.

        A line has handle, creation, last use, end, address and user agent, parted by tabs.
        """
        with managed() as manager:
            for info in manager.list_sessions(user):
                times = map(_shown, (info.created_at, info.last_seen, info.expires_at))
                fields = (info.handle, *times, info.ip or "-", info.user_agent or "-")
                click.echo("\t".join(fields))

    @group.command("revoke")
    @click.argument("handle")
    @click.option("--user", required=True, help="Whose session it is.")
    def revoke(handle: str, user: str) -> None:
        """End the session with this HANDLE, as `list` shows it."""
        with managed() as manager:
            if not manager.revoke(handle, user_id=user):
                raise click.ClickException("this user has no session with this handle.")
            click.echo("1 session ended.")

    @group.command("revoke-user")
    @click.argument("user")
    def revoke_user(user: str) -> None:
        """End all sessions of USER."""
        with managed() as manager:
            click.echo(_counted(manager.revoke_user(user), "ended"))

    @group.command("purge")
    def purge() -> None:
        """Delete the rows of sessions that have expired."""
        with managed() as manager:
            click.echo(_counted(manager.purge(), "deleted"))

    return group


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _counted(number: int, done: str) -> str:
    return f"{number} session{'' if number == 1 else 's'} {done}."
