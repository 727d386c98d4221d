"""Merging: each of two parallel requests keeps the keys it wrote."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sessionware.merging import Delta, diff, merge
from tests.byhand import CODEC

Content = dict[str, Any]
VALUES = st.one_of(
    st.integers(0, 2), st.booleans(), st.lists(st.integers(0, 2), max_size=2), st.none()
)
CONTENTS = st.dictionaries(st.sampled_from("abcde"), VALUES, max_size=5)
MISSING = object()


def delta(base: Content, mine: Content, assigned: frozenset[str] = frozenset()) -> Delta:
    return diff(base, mine, CODEC.fingerprint, assigned)


def merged(base: Content, mine: Content, theirs: Content) -> Content:
    return merge(delta(base, mine), mine, theirs)


def same(one: object, other: object) -> bool:
    """Equal and of the same type: True is not 1."""
    return one is other or (
        one is not MISSING
        and other is not MISSING
        and CODEC.fingerprint(one) == CODEC.fingerprint(other)
    )


@given(CONTENTS, CONTENTS, CONTENTS)
def test_each_key_is_merged_as_a_three_way_merge_does_that_prefers_mine(
    base: Content, mine: Content, theirs: Content
) -> None:
    result = merged(base, mine, theirs)
    for key in "abcde":
        was, my, their = (side.get(key, MISSING) for side in (base, mine, theirs))
        expected = their if same(was, my) else my
        assert same(result.get(key, MISSING), expected)


@given(CONTENTS, CONTENTS, CONTENTS)
def test_changes_of_different_keys_are_both_kept_in_either_order(
    base: Content, mine: Content, theirs: Content
) -> None:
    # Odd keys are mine, even ones theirs; each leaves the other's as they were.
    mine = {k: v for k, v in mine.items() if k in "ace"} | {
        k: v for k, v in base.items() if k in "bd"
    }
    theirs = {k: v for k, v in theirs.items() if k in "bd"} | {
        k: v for k, v in base.items() if k in "ace"
    }
    both = {k: v for k, v in mine.items() if k in "ace"} | {
        k: v for k, v in theirs.items() if k in "bd"
    }
    assert merged(base, mine, theirs) == both
    assert merged(base, theirs, mine) == both


@given(CONTENTS, CONTENTS)
def test_nobody_else_having_written_gives_mine(base: Content, mine: Content) -> None:
    result = merged(base, mine, base)
    assert CODEC.decode(*CODEC.encode(result)) == mine
    assert all(same(result[key], mine[key]) for key in mine)


@given(CONTENTS, CONTENTS)
def test_having_changed_nothing_gives_theirs(base: Content, theirs: Content) -> None:
    assert merged(base, dict(base), theirs) == theirs
    assert not delta(base, dict(base))


@given(CONTENTS, CONTENTS, CONTENTS)
def test_merging_alters_neither_side_and_merging_again_changes_nothing(
    base: Content, mine: Content, theirs: Content
) -> None:
    before = CODEC.encode(mine), CODEC.encode(theirs)
    once = merged(base, mine, theirs)
    assert (CODEC.encode(mine), CODEC.encode(theirs)) == before
    assert merge(delta(base, mine), mine, once) == once


def test_mine_wins_over_theirs_on_the_same_key() -> None:
    assert merged({"a": 0}, {"a": 1}, {"a": 2}) == {"a": 1}


def test_what_i_deleted_stays_deleted_though_they_changed_it() -> None:
    assert merged({"a": 0, "b": 0}, {"b": 0}, {"a": 2, "b": 0}) == {"b": 0}


def test_what_they_deleted_stays_deleted_unless_i_wrote_it() -> None:
    assert merged({"a": 0, "b": 0}, {"a": 0, "b": 1}, {}) == {"b": 1}


def test_a_nested_change_counts_as_written() -> None:
    found = delta({"cart": ["tea"]}, {"cart": ["tea", "milk"]})
    assert found == Delta(frozenset({"cart"}), frozenset())


def test_a_change_of_type_alone_counts_as_written() -> None:
    assert delta({"a": 1}, {"a": True}).written == {"a"}


def test_an_assignment_counts_as_written_even_with_the_same_value() -> None:
    base = {"a": 1, "b": 1}
    assert delta(base, dict(base), frozenset("a")).written == {"a"}
    assert merge(delta(base, dict(base), frozenset("a")), base, {"a": 2, "b": 2}) == {
        "a": 1,
        "b": 2,
    }


def test_an_assignment_of_what_was_deleted_again_counts_as_deleted() -> None:
    assert delta({"a": 1}, {}, frozenset("a")) == Delta(frozenset(), frozenset("a"))


def test_a_delta_of_nothing_is_false() -> None:
    assert not Delta()
    assert Delta(frozenset("a"))
    assert Delta(deleted=frozenset("a"))
