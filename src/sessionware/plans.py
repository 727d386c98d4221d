"""The end of a request, decided: what was done with the session -> what to do in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Nothing:
    """Leave the store alone."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Make a row: the first time something is stored."""


@dataclass(frozen=True, slots=True)
class Update:
    """Write the content. A ``barrier`` replaces what is there and moves the epoch; else keys are
    merged. A ``renewal`` changes nothing but the lifetime.
    """

    barrier: bool = False
    renewal: bool = False


@dataclass(frozen=True, slots=True)
class Touch:
    """Write the time columns only."""


@dataclass(frozen=True, slots=True)
class Rotate:
    """Write the content under a new ID and move the epoch."""

    login: bool = False
    barrier: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the row.

    ``ended``: the application said so, whatever happened to the row meanwhile. Otherwise it was
    emptied: by ``clear()`` (``barrier``) or key by key, which spares what a parallel request added.
    ``insert`` makes a new session of what was stored after the end.
    """

    ended: bool = False
    barrier: bool = False
    insert: bool = False


Plan: TypeAlias = Nothing | Insert | Update | Touch | Rotate | Delete

NOTHING = Nothing()
INSERT = Insert()
MERGED, _REPLACED, _RENEWED = Update(), Update(barrier=True), Update(renewal=True)
_TOUCH = Touch()


# Not frozen: one is made for each request that used its session, and nobody alters it.
@dataclass(slots=True)
class Ending:
    """What is known of a session when its response begins.

    ``renewal_due``: something was written that was there before, and the lifetime starts again.
    """

    exists: bool
    savable: bool = True
    failed: bool = False
    empty: bool = True
    changed: bool = False
    cleared: bool = False
    ended: bool = False
    rotation: bool = False
    reauthenticated: bool = False
    expiry_changed: bool = False
    user_before: str | None = None
    user_after: str | None = None
    touch_due: bool = False
    renewal_due: bool = False


def plan(ending: Ending) -> Plan:
    """Decide once for every adapter; see the rules in docs/architecture.md.

    A failed request (an unhandled exception or a status of 500 and above) discards its changes, but
    an ``invalidate()`` holds: logged out means logged out.
    """
    if not ending.savable:
        return NOTHING
    if ending.failed:
        if ending.exists and ending.ended:
            return Delete(ended=True)
        return _TOUCH if ending.exists and ending.touch_due else NOTHING
    if not ending.exists:
        return NOTHING if ending.empty else INSERT
    if ending.ended:
        return Delete(ended=True, insert=not ending.empty)
    if ending.empty and ending.changed:
        barrier = ending.cleared or ending.user_before != ending.user_after
        return Delete(barrier=barrier)
    user_changed = ending.user_before != ending.user_after
    if user_changed or ending.rotation:
        login = ending.user_after is not None and (user_changed or ending.reauthenticated)
        return Rotate(login=login, barrier=ending.cleared)
    if ending.cleared:
        return _REPLACED
    if ending.changed or ending.expiry_changed:
        return MERGED
    if ending.renewal_due:
        return _RENEWED
    return _TOUCH if ending.touch_due else NOTHING


def takes_cookie(decided: Plan) -> bool:
    """Whether carrying out the plan needs a Set-Cookie to reach the browser."""
    return isinstance(decided, Insert | Rotate) or (isinstance(decided, Delete) and decided.insert)
