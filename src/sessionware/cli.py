"""`sessionware list alice`: list and end sessions from the command line, next to any framework."""

from __future__ import annotations

import importlib
import os
import secrets
import sys
from functools import partial
from typing import Any

import anyio

from .manager import SessionManager
from .runners import LoopRunner

try:
    import click

    from .commands import add_commands, failing_plainly
except ModuleNotFoundError as error:
    raise ImportError(
        "the command `sessionware` needs click. Fix: pip install 'sessionware[cli]'"
    ) from error


@click.group()
@click.option(
    "--manager",
    "place",
    envvar="SESSIONWARE_MANAGER",
    metavar="MODULE:NAME",
    help="The application's SessionManager, or an object with one as its `manager`.",
)
@click.option(
    "--store",
    envvar="SESSIONWARE_STORE",
    metavar="URL",
    help="The database, in place of a manager. Enough for all that is done here.",
)
@click.option("--table-name", metavar="NAME", help="Beside --store: the table, if not `sessions`.")
@click.version_option(package_name="sessionware")
@click.pass_context
def main(context: click.Context, /, place: str | None, **settings: str | None) -> None:
    """List and end sessions, in the database that an application keeps them in.

    What ends here has ended for the workers that serve it too, as if one of them had done it.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    context.obj = partial(_chosen, place, given)


def _chosen(place: str | None, settings: dict[str, str]) -> SessionManager:
    if place is None:
        if "store" not in settings:
            raise click.UsageError("which sessions? Give --manager MODULE:NAME or --store URL.")
        # No table is made here: a URL with a slip would end no session, and say so of all.
        return SessionManager(
            secret_key=secrets.token_urlsafe(48),
            create_table=False,
            purge_interval=0,
            **settings,  # type: ignore[arg-type]
        )
    if settings:
        raise click.UsageError("--manager has its settings: give either it or --store.")
    return _imported(place)


def _imported(place: str) -> SessionManager:
    """The manager under a name like ``shop.web:manager``, also from the current folder."""
    module, _, name = place.partition(":")
    if not module or not name:
        raise click.BadParameter(f"{place!r} is not of the form MODULE:NAME.")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise click.BadParameter(f"there is no module {module!r} here.") from None
    for part in name.split("."):
        found = getattr(found, part, None)
    found = getattr(found, "manager", found)
    if not isinstance(found, SessionManager):
        raise click.BadParameter(f"{place!r} is no SessionManager, nor has it one as `manager`.")
    return found


def _ask(method: str, *args: Any, **kwargs: Any) -> Any:
    with failing_plainly():
        manager = click.get_current_context().obj()
        if isinstance(manager.store.runner, LoopRunner):
            return anyio.run(partial(_aask, manager, method, *args, **kwargs))
        try:
            return getattr(manager, method)(*args, **kwargs)
        finally:
            manager.shutdown()


async def _aask(manager: SessionManager, method: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return await getattr(manager, "a" + method)(*args, **kwargs)
    finally:
        await manager.ashutdown()


add_commands(main, _ask)

if __name__ == "__main__":
    main()
