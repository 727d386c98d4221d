"""``flask sessions ...``: list and end sessions from the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import current_app
from flask.cli import AppGroup

from .commands import add_commands, failing_plainly
from .manager import SessionManager

if TYPE_CHECKING:
    from flask import Flask


def session_commands(manager_of: Callable[[Flask], SessionManager]) -> AppGroup:
    """The group of commands that work on the application's manager."""

    def ask(method: str, *args: Any, **kwargs: Any) -> Any:
        with failing_plainly():
            manager = manager_of(current_app._get_current_object())  # type: ignore[attr-defined]
            return getattr(manager, method)(*args, **kwargs)

    group = AppGroup("sessions", help="List and end the sessions of users.")
    add_commands(group, ask)
    return group
