"""What a request has changed, and what it changed too late, found in the encoded bytes."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware import Session
from sessionware.codecs import CustomCodec
from sessionware.comparing import Exactly, the_same
from sessionware.merging import Delta, diff
from sessionware.plans import NOTHING, Update
from sessionware.records import RecordFormat
from sessionware.rows import Change, RowMaker
from sessionware.stores.protocol import Row
from tests.byhand import NOON, deleting, row_maker, storing
from tests.one_request import MAKER, Act, Case

VALUES = st.recursive(
    st.sampled_from([0, 1, 2, 10, True, 1.0, 0.0, -0.0, None, "a", "b", (1,), b"b"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=3,
)
CONTENTS = st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1, max_size=3)


ONE_HOUR_EAST = timezone(timedelta(hours=1))


class Awkward:
    """Like an array: can't say whether it is equal."""

    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]


class Restless:
    """A serializer that writes the same content in other bytes each time."""

    def __init__(self) -> None:
        self._count = 0

    def dumps(self, data: dict[Any, Any], /) -> bytes:
        self._count += 1
        return pickle.dumps((self._count, data))

    def loads(self, payload: bytes, /) -> dict[Any, Any]:
        data: dict[Any, Any] = pickle.loads(payload)[1]
        return data


def restless() -> RowMaker:
    codec = CustomCodec(Restless())
    return RowMaker(codec, RecordFormat(codec, None), MAKER.lifetimes, MAKER.max_bytes)


def stored_by(maker: RowMaker, content: dict[Any, Any]) -> Row:
    payload, rich = maker.encode(content)
    change = Change(nonce=os.urandom(8), now=NOON, payload=payload, rich=rich)
    return maker.first(change, os.urandom(32), os.urandom(6)).row._replace(id=1)


@given(
    CONTENTS,
    CONTENTS,
    st.randoms(use_true_random=False),
    st.frozensets(st.sampled_from("abc")),
)
@pytest.mark.parametrize("make", [row_maker, restless])
def test_each_key_that_differs_is_found_and_no_other(
    make: Callable[[], RowMaker], base: Any, mine: Any, random: Any, kept: frozenset[str]
) -> None:
    maker = make()
    mine |= {key: base[key] for key in kept & base.keys()}
    keys = random.sample(list(mine), len(mine))
    case = Case(stored_by(maker, base), maker=maker)
    case.session.refill({key: mine[key] for key in keys})
    case.session.mark_accessed()
    case.session.note_written(kept)
    expected = diff(base, mine, maker.fingerprint)

    assert case.endings.content(case.state, case.session).changed == bool(expected)
    delta = Delta(expected.written | (kept & mine.keys()), expected.deleted)
    assert case.endings.delta(case.state, case.session) == delta
    change = case.ends(Session.rotate).change
    assert change is not None
    own = maker.delta(change, maker.codec.decode(change.payload, change.rich))
    assert own == delta


@pytest.mark.parametrize("make", [row_maker, restless])
def test_what_a_request_left_as_it_was_is_not_written(make: Callable[[], RowMaker]) -> None:
    maker = make()
    row = stored_by(maker, {"a": 1, "b": [2], "c": (3,)})
    assert Case(row, maker=maker).ends(storing(a=1, b=[2], c=(3,))).plan is NOTHING
    assert Case(row, maker=maker).ends(storing(c=[3])).plan == Update()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0.0, -0.0),
        ([1], [True]),
        ([1], (1,)),
        ({1}, {True}),
        ({(1,)}, {(1.0,)}),
        ({0.0}, {-0.0}),
        ({1: "a"}, {True: "a"}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([date(2026, 1, 1), 1], [date(2026, 1, 1), True]),
        (Decimal("1.0"), Decimal("1.00")),
        (datetime(2026, 1, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 2, tzinfo=ONE_HOUR_EAST)),
    ],
    ids=repr,
)
def test_what_is_equal_is_not_always_the_same(one: Any, other: Any) -> None:
    assert not the_same(one, other)
    assert Exactly(one) != Exactly(other)
    assert the_same(one, copy.deepcopy(one))
    assert Exactly(one) == Exactly(copy.deepcopy(one))


def test_what_can_not_be_compared_is_not_the_same() -> None:
    assert not the_same([Awkward()], [Awkward()])


LATE: dict[str, tuple[Act, bool]] = {
    "nothing": (len, True),
    "the same value assigned": (storing(n=1), True),
    "another value assigned": (storing(n=2), False),
    "another type assigned": (storing(cart=("tea",)), False),
    "a key deleted": (deleting("n"), False),
    "a nested change": (lambda session: session["cart"].append("milk"), False),
    "what can't be stored": (storing(n=object()), False),
    "what can't be stored, nested": (lambda session: session["cart"].append({1}.pop), False),
}


@pytest.mark.parametrize("make", [row_maker, restless])
@pytest.mark.parametrize(
    "more", [{"a": 1}, {"a": (1,)}, {"a": date(2026, 1, 1)}], ids=["plain", "rich", "a date"]
)
@pytest.mark.parametrize(("late", "holds"), LATE.values(), ids=LATE)
def test_after_a_write_only_what_changes_the_session_is_a_late_change(
    make: Callable[[], RowMaker], more: dict[str, Any], late: Act, holds: bool
) -> None:
    maker = make()
    case = Case(stored_by(maker, {"cart": ["tea"], "n": 1}), maker=maker)
    case.state.sent = case.endings.sent(case.session, case.ends(storing(**more)))
    case.session.forget_intents()
    late(case.session)
    assert case.endings.still_holds(case.state, case.session) is holds
