"""What a save writes: the columns and the rules, for one session and for many in one statement.

Most saves are plain: they change a session's content and times, and its identity stays. As long as
the version is the one that was loaded, so is all else, and needn't be sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Final

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from .protocol import Row

CONTENT: Final = ("version", "epoch", "user_id", "data", "authenticated_at", "ip", "user_agent")
TIMES: Final = ("last_seen", "expires_at")
SAVED: Final = ("id", "old_version", "old_epoch", "now", "grows", *CONTENT, *TIMES, "purge_after")
"""The values of one save, as ``saved`` gives them."""
PLAIN: Final = ("id", "old_version", "old_epoch", "data", *TIMES)
"""The values of a plain save, as ``plainly_saved`` gives them; ``now`` goes beside them."""
_KEPT: Final = ("epoch", "user_id", "authenticated_at", "purge_after", "ip", "user_agent")
_kept: Final = itemgetter(*map(Row._fields.index, _KEPT))

# What no save writes, what each does, what a plain one leaves.
assert {"id", "sid_hash", "created_at", "version", "data", *TIMES, *_KEPT} == set(Row._fields)


def is_plain(old: Row, new: Row) -> bool:
    """Whether a save is plain; one that shortens the lifetime is not, nor one that moves
    ``purge_after``, which is indexed.
    """
    return (
        new.expires_at >= old.expires_at
        and new.version == old.version + 1
        and bool(_kept(new) == _kept(old))
    )


def plainly_saved(old: Row, new: Row) -> tuple[Any, ...]:
    """The values of a plain save in the order of ``PLAIN``."""
    return old.id, old.version, old.epoch, new.data, new.last_seen, new.expires_at


def grows(old: Row, new: Row) -> int:
    """1 if a save does not shorten the lifetime: only one that does has its way with it."""
    return int(new.expires_at >= old.expires_at)


def saved(old: Row, new: Row, now: int) -> tuple[Any, ...]:
    """The values of a save in the order of ``SAVED``."""
    return (
        old.id,
        old.version,
        old.epoch,
        now,
        grows(old, new),
        new.version,
        new.epoch,
        new.user_id,
        new.data,
        new.authenticated_at,
        new.ip,
        new.user_agent,
        new.last_seen,
        new.expires_at,
        moved_purge(old, new),
    )


def moved_purge(old: Row, new: Row) -> int | None:
    """The new ``purge_after``, if there is one: else it is left as it is, for a touch that came
    between may have moved it.
    """
    return None if new.purge_after == old.purge_after else new.purge_after


def changes(given: Mapping[str, str], larger: str) -> str:
    """The SET of an UPDATE of ``s``. ``given`` says where each of ``SAVED`` stands, ``larger``
    is the database's function: a touch that came between is not undone.
    """
    content = ", ".join(f"{name} = {given[name]}" for name in CONTENT)
    seen, ends = given["last_seen"], given["expires_at"]
    return (
        f"{content}, last_seen = {larger}(s.last_seen, {seen}), "
        f"expires_at = CASE WHEN {given['grows']} = 1 AND s.expires_at > {ends} "
        f"THEN s.expires_at ELSE {ends} END, "
        f"purge_after = COALESCE({given['purge_after']}, s.purge_after)"
    )


def plain_changes(given: Mapping[str, str], larger: str) -> str:
    """As ``changes``, of a plain save, with ``PLAIN``."""
    times = (f"{name} = {larger}(s.{name}, {given[name]})" for name in TIMES)
    return f"version = s.version + 1, data = {given['data']}, {', '.join(times)}"


def is_current(given: Mapping[str, str]) -> str:
    """The WHERE: a row that lives, and that nobody has changed since it was loaded."""
    return (
        f"s.id = {given['id']} AND s.version = {given['old_version']} "
        f"AND s.epoch = {given['old_epoch']} AND s.expires_at > {given['now']}"
    )


class Larger(FunctionElement[int]):
    """The larger of two numbers, by the function that the database has for it."""

    inherit_cache = True


@compiles(Larger)
def _greatest(element: Larger, compiler: Any, **more: Any) -> str:
    return f"GREATEST({compiler.process(element.clauses, **more)})"


@compiles(Larger, "sqlite")
def _max(element: Larger, compiler: Any, **more: Any) -> str:
    return f"max({compiler.process(element.clauses, **more)})"
