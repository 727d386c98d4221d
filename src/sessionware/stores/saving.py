"""What a save writes where many go in one statement: the columns and the rules of both dialects.

``Steps.replace`` is the same for one session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .protocol import Row

CONTENT: Final = ("version", "epoch", "user_id", "data", "authenticated_at", "ip", "user_agent")
TIMES: Final = ("last_seen", "expires_at")
SAVED: Final = ("id", "old_version", "old_epoch", "now", "grows", *CONTENT, *TIMES)
"""The values of one save, as ``saved`` gives them."""


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
    )


def changes(given: Mapping[str, str], larger: str) -> str:
    """The SET of an UPDATE of ``s``, but ``purge_after``. ``given`` says where each of ``SAVED``
    stands, ``larger`` is the database's function: a touch that came between is not undone.
    """
    content = ", ".join(f"{name} = {given[name]}" for name in CONTENT)
    seen, ends = given["last_seen"], given["expires_at"]
    return (
        f"{content}, last_seen = {larger}(s.last_seen, {seen}), "
        f"expires_at = CASE WHEN {given['grows']} = 1 AND s.expires_at > {ends} "
        f"THEN s.expires_at ELSE {ends} END"
    )


def is_current(given: Mapping[str, str]) -> str:
    """The WHERE: a row that lives, and that nobody has changed since it was loaded."""
    return (
        f"s.id = {given['id']} AND s.version = {given['old_version']} "
        f"AND s.epoch = {given['old_epoch']} AND s.expires_at > {given['now']}"
    )
