"""What an operator does with sessions, as commands of click's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from .errors import SessionError

if TYPE_CHECKING:
    from datetime import datetime

Ask: TypeAlias = Callable[..., Any]
"""``ask("revoke_user", "alice")``: what that method of the manager gives."""


@contextmanager
def failing_plainly() -> Iterator[None]:
    """An error of ours is a line for the operator and exit code 1, no traceback."""
    try:
        yield
    except SessionError as error:
        raise click.ClickException(str(error)) from None


def add_commands(group: click.Group, ask: Ask) -> None:
    """Add them to a group; they ask a manager, which is found when one of them runs."""

    @group.command("list")
    @click.argument("user")
    def list_(user: str) -> None:
        """Show USER's sessions, latest seen first.

        A line has handle, creation, last use, end, address and user agent, parted by tabs.
        """
        for info in ask("list_sessions", user):
            times = map(_shown, (info.created_at, info.last_seen, info.expires_at))
            fields = (info.handle, *times, info.ip or "-", info.user_agent or "-")
            click.echo("\t".join(fields))

    @group.command("revoke")
    @click.argument("handle")
    @click.option("--user", required=True, help="Whose session it is.")
    def revoke(handle: str, user: str) -> None:
        """End the session with this HANDLE, as `list` shows it."""
        if not ask("revoke", handle, user_id=user):
            raise click.ClickException("this user has no session with this handle.")
        click.echo("1 session ended.")

    @group.command("revoke-user")
    @click.argument("user")
    def revoke_user(user: str) -> None:
        """End all sessions of USER."""
        click.echo(_counted(ask("revoke_user", user), "ended"))

    @group.command("revoke-all")
    @click.option("--yes", is_flag=True, help="Don't ask first.")
    def revoke_all(yes: bool) -> None:
        """End the sessions of everybody."""
        if not yes:
            click.confirm("Log everybody out?", abort=True)
        click.echo(_counted(ask("revoke_all"), "ended"))

    @group.command("purge")
    def purge() -> None:
        """Delete the rows of sessions that have expired."""
        click.echo(_counted(ask("purge"), "deleted"))


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _counted(number: int, done: str) -> str:
    return f"{number} session{'' if number == 1 else 's'} {done}."
