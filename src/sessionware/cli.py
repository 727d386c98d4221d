"""`sessionware list alice`: list and end sessions from the command line, next to any framework."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio

from .events import logger
from .manager import SessionManager
from .runners import LoopRunner
from .stores import open_store

try:
    import click
    from click.core import ParameterSource

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
    if place is not None and "store" in given:
        # What is typed wins over what the environment says.
        typed = [
            context.get_parameter_source(name) is ParameterSource.COMMANDLINE
            for name in ("place", "store")
        ]
        if typed == [True, False]:
            del given["store"]
        elif typed == [False, True]:
            place = None
    context.obj = _Chosen(place, given)


@dataclass(frozen=True, repr=False)
class _Chosen:
    """Which sessions; ``place`` is that of the application's manager."""

    place: str | None
    settings: dict[str, str]

    def manager(self, *, making: bool = False) -> SessionManager:
        """One for them; ``making`` says that there may be none of it yet."""
        if self.place is None:
            if "store" not in self.settings:
                raise click.UsageError("which sessions? Give --manager MODULE:NAME or --store URL.")
            # No table is made here: a URL with a slip would end no session, and say so of all.
            manager = SessionManager(
                secret_key=_any_secret(),
                create_table=False,
                purge_interval=0,
                # No request waits for it, and connecting alone takes seconds over a slow network.
                store_timeout=30,
                **self.settings,  # type: ignore[arg-type]
            )
            file = manager.store.store.file
            # As from another folder: SQLite would make it.
            if not (making or file is None or os.path.exists(file)):
                raise click.ClickException(f"there is no SQLite file {os.path.abspath(file)}.")
            return manager
        if self.settings:
            raise click.UsageError(
                "--manager has its settings: give either it or --store (SESSIONWARE_STORE) and "
                "--table-name."
            )
        return _imported(self.place)


def _any_secret() -> str:
    """Nothing that is done here reads or makes a cookie."""
    return secrets.token_urlsafe(48)


def _imported(place: str) -> SessionManager:
    """The manager under a name like ``shop.web:manager``, also from the current folder."""
    module, _, name = place.partition(":")
    if not all(module.split(".")) or not name:
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


@main.command("init-db")
@click.pass_obj
def init_db(chosen: _Chosen) -> None:
    """Create the tables, where they are missing."""
    with failing_plainly():
        settings = replace(chosen.manager(making=True).settings, create_table=True)
        manager = SessionManager(
            secret_key=_any_secret(),
            store=open_store(settings),
            store_timeout=settings.store_timeout,
            purge_interval=0,
        )
        _answer(manager, manager.store, "prepare")
    click.echo("The tables are there.")


@main.command("check")
@click.pass_obj
def check(chosen: _Chosen) -> None:
    """Say what is wrong or risky about a manager's settings, then whether the database answers.

    It is asked as a first request would. Exit code 1 if anything is wrong.
    """
    with failing_plainly():
        with _printed() if chosen.place else nullcontext():
            manager = chosen.manager()
        _answer(manager, manager.store, "exists", "")
    click.echo("The database answers, and has the tables.")


@contextmanager
def _printed() -> Iterator[None]:
    """What is logged of the settings is the answer here."""
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: click.echo(record.getMessage())  # type: ignore[method-assign]
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)


def _ask(method: str, *args: Any, **kwargs: Any) -> Any:
    with failing_plainly():
        manager = click.get_current_context().obj.manager()
        return _answer(manager, manager, method, *args, **kwargs)


def _answer(manager: SessionManager, owner: object, method: str, *args: Any, **kwargs: Any) -> Any:
    """What a method of the manager's, or of its store, gives; nothing is left open."""
    if isinstance(manager.store.runner, LoopRunner):
        return anyio.run(partial(_aanswer, manager, owner, "a" + method, *args, **kwargs))
    try:
        return getattr(owner, method)(*args, **kwargs)
    finally:
        manager.shutdown()


async def _aanswer(
    manager: SessionManager, owner: object, method: str, *args: Any, **kwargs: Any
) -> Any:
    try:
        return await getattr(owner, method)(*args, **kwargs)
    finally:
        await manager.ashutdown()


add_commands(main, _ask)

if __name__ == "__main__":
    main()
