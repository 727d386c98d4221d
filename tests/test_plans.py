"""The plan for the end of a request: one table, and what no plan may ever do."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware.plans import (
    NOTHING,
    Delete,
    Ending,
    Insert,
    Nothing,
    Plan,
    Rotate,
    Touch,
    Update,
    plan,
    takes_cookie,
)

NEW = Ending(exists=False)
STORED = Ending(exists=True, empty=False)
HERS = replace(STORED, user_before="alice", user_after="alice")

TABLE: dict[str, tuple[Ending, Plan]] = {
    "new, untouched": (NEW, NOTHING),
    "new, something stored": (replace(NEW, empty=False, changed=True), Insert()),
    "new, cleared": (replace(NEW, changed=True, cleared=True), NOTHING),
    "new, ended": (replace(NEW, changed=True, cleared=True, ended=True), NOTHING),
    "new, ended, then stored": (replace(NEW, empty=False, ended=True, cleared=True), Insert()),
    "new, rotated": (replace(NEW, rotation=True), NOTHING),
    "new, another lifetime": (replace(NEW, expiry_changed=True), NOTHING),
    "new, a user logs in": (replace(NEW, empty=False, user_after="alice"), Insert()),
    "new, failed": (replace(NEW, empty=False, changed=True, failed=True), NOTHING),
    "stored, untouched": (STORED, NOTHING),
    "stored, a touch due": (replace(STORED, touch_due=True), Touch()),
    "stored, changed": (replace(STORED, changed=True), Update()),
    "stored, changed, a touch due": (replace(STORED, changed=True, touch_due=True), Update()),
    "stored, written as it was, a renewal due": (
        replace(STORED, renewal_due=True),
        Update(renewal=True),
    ),
    "stored, changed, a renewal due": (
        replace(STORED, changed=True, renewal_due=True),
        Update(),
    ),
    "stored, another lifetime": (replace(STORED, expiry_changed=True), Update()),
    "stored, cleared and refilled": (
        replace(STORED, changed=True, cleared=True),
        Update(barrier=True),
    ),
    "stored, cleared and refilled alike": (replace(STORED, cleared=True), Update(barrier=True)),
    "stored, emptied key by key": (replace(STORED, empty=True, changed=True), Delete()),
    "stored, cleared": (
        replace(STORED, empty=True, changed=True, cleared=True),
        Delete(barrier=True),
    ),
    "stored, ended": (
        replace(STORED, empty=True, changed=True, cleared=True, ended=True),
        Delete(ended=True),
    ),
    "stored, ended, then stored": (
        replace(STORED, changed=True, cleared=True, ended=True),
        Delete(ended=True, insert=True),
    ),
    "stored, ended and rotated": (
        replace(STORED, empty=True, changed=True, ended=True, rotation=True),
        Delete(ended=True),
    ),
    "stored, rotated": (replace(STORED, rotation=True), Rotate()),
    "stored, rotated and changed": (replace(STORED, rotation=True, changed=True), Rotate()),
    "stored, rotated and emptied": (
        replace(STORED, rotation=True, changed=True, empty=True),
        Delete(),
    ),
    "stored, cleared, refilled, rotated": (
        replace(STORED, rotation=True, changed=True, cleared=True),
        Rotate(barrier=True),
    ),
    "stored, a user logs in": (
        replace(STORED, changed=True, user_after="alice"),
        Rotate(login=True),
    ),
    "hers, rotated": (replace(HERS, rotation=True), Rotate()),
    "hers, proven again": (replace(HERS, rotation=True, reauthenticated=True), Rotate(login=True)),
    "nobody's, proven": (replace(STORED, rotation=True, reauthenticated=True), Rotate()),
    "hers, she logs out": (replace(HERS, changed=True, user_after=None), Rotate()),
    "hers, another user": (
        replace(HERS, changed=True, cleared=True, user_after="bob"),
        Rotate(login=True, barrier=True),
    ),
    "hers, changed": (replace(HERS, changed=True), Update()),
    "failed, changed": (replace(HERS, failed=True, changed=True), NOTHING),
    "failed, a touch due": (replace(HERS, failed=True, touch_due=True), Touch()),
    "failed, a renewal due": (replace(HERS, failed=True, renewal_due=True), NOTHING),
    "failed, ended": (replace(HERS, failed=True, ended=True, empty=True), Delete(ended=True)),
    "failed, ended, then stored": (
        replace(HERS, failed=True, ended=True, empty=False),
        Delete(ended=True),
    ),
    "failed, cleared": (replace(HERS, failed=True, cleared=True, empty=True), NOTHING),
    "failed, a user logs in": (replace(STORED, failed=True, user_after="alice"), NOTHING),
    "a rotated ID, changed": (replace(NEW, savable=False, empty=False, changed=True), NOTHING),
}


@pytest.mark.parametrize(("ending", "expected"), TABLE.values(), ids=TABLE)
def test_the_plan_for(ending: Ending, expected: Plan) -> None:
    assert plan(ending) == expected


USERS = st.sampled_from([None, "alice", "bob"])
ENDINGS = st.builds(
    Ending, exists=st.booleans(), user_before=USERS, user_after=USERS, **dict.fromkeys(
        ("savable", "failed", "empty", "changed", "cleared", "ended", "rotation",
         "reauthenticated", "expiry_changed", "touch_due", "renewal_due"), st.booleans()
    )
)  # fmt: skip


def writes_content(decided: Plan) -> bool:
    return isinstance(decided, Insert | Update | Rotate) or (
        isinstance(decided, Delete) and decided.insert
    )


@given(ENDINGS)
def test_what_no_plan_ever_does(ending: Ending) -> None:
    decided = plan(ending)
    if not ending.savable:
        assert decided is NOTHING
    if ending.failed:
        assert not writes_content(decided)
    if not ending.exists:
        assert isinstance(decided, Insert | Nothing), "there is no row to work on"
    if ending.empty:
        assert not isinstance(decided, Insert)
        assert not (isinstance(decided, Delete) and decided.insert)
    if ending.exists and ending.ended and ending.savable:
        assert isinstance(decided, Delete)
        assert decided.ended
    if isinstance(decided, Delete) and not decided.ended:
        assert ending.empty


@given(ENDINGS)
def test_no_change_of_user_keeps_the_id(ending: Ending) -> None:
    if ending.exists and ending.user_before != ending.user_after:
        assert not isinstance(plan(ending), Update)


@given(ENDINGS)
def test_replacing_the_content_is_always_a_barrier(ending: Ending) -> None:
    decided = plan(ending)
    if ending.cleared and isinstance(decided, Update | Rotate):
        assert decided.barrier


@pytest.mark.parametrize(
    ("decided", "takes"),
    [
        (Insert(), True),
        *((Rotate(*flags), True) for flags in product([True, False], repeat=2)),
        (Delete(ended=True, insert=True), True),
        (Delete(ended=True), False),
        (Delete(barrier=True), False),
        (Update(), False),
        (Update(barrier=True), False),
        (Touch(), False),
        (NOTHING, False),
    ],
    ids=repr,
)
def test_only_a_new_id_has_to_reach_the_browser(decided: Plan, takes: bool) -> None:
    assert takes_cookie(decided) is takes
