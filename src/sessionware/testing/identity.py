"""Checks of ``rotate`` and ``alter``: a new hash, the old one's tombstone, and the lock."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from ..errors import DuplicateKey, SessionError
from ..stores.protocol import RETIRED, Row, Store
from .support import HOUR, MINUTE, NOW, Checks, following, new_hash, put, unchanged

UNTIL = NOW + MINUTE


class Decided:
    """A decision that notes what it was asked."""

    def __init__(self, new: Row | Literal["delete"] | None, result: Any = None) -> None:
        self.answer = new, result
        self.asked: list[Row | None] = []

    def __call__(self, row: Row | None) -> tuple[Row | Literal["delete"] | None, Any]:
        self.asked.append(row)
        return self.answer


class IdentityChecks(Checks):
    def test_rotate_writes_everything_under_the_new_hash(self, subject: Store) -> None:
        row, other = put(subject), put(subject)
        new = following(row, sid_hash=new_hash())

        with unchanged(subject, other):
            assert subject.rotate(row, new._replace(created_at=NOW + 77), NOW, UNTIL) is True

        assert subject.load(new.sid_hash, NOW) == new
        assert subject.reload(row.id) == new
        assert subject.count(0) == 2

    def test_a_rotated_hash_is_retired(self, subject: Store) -> None:
        row = put(subject)
        assert subject.load(row.sid_hash, NOW) == row

        assert subject.rotate(row, following(row, sid_hash=new_hash()), NOW, UNTIL)

        assert subject.load(row.sid_hash, NOW) is RETIRED
        assert subject.load(row.sid_hash, UNTIL - 1) is RETIRED
        assert subject.stamp(row.sid_hash) is None

    def test_a_hash_is_retired_no_longer_than_said(
        self, no_own_clock: None, subject: Store
    ) -> None:
        row = put(subject)
        assert subject.rotate(row, following(row, sid_hash=new_hash()), NOW, UNTIL)

        assert subject.load(row.sid_hash, UNTIL) is None
        assert subject.load(row.sid_hash, UNTIL + HOUR) is None

    def test_each_hash_of_several_rotations_is_retired(self, subject: Store) -> None:
        row = put(subject)
        past = []
        for turn in range(3):
            past.append(row.sid_hash)
            new = following(row, sid_hash=new_hash())
            assert subject.rotate(row, new, NOW, UNTIL + turn)
            row = new

        assert [subject.load(sid_hash, NOW) for sid_hash in past] == [RETIRED] * 3
        assert subject.load(row.sid_hash, NOW) == row

    def test_a_retired_hash_stays_so_when_the_row_ends(self, subject: Store) -> None:
        row = put(subject)
        new = following(row, sid_hash=new_hash())
        assert subject.rotate(row, new, NOW, UNTIL)

        assert subject.remove(new)

        assert subject.load(row.sid_hash, NOW) is RETIRED
        assert subject.load(new.sid_hash, NOW) is None

    def test_rotate_to_a_hash_that_is_taken_changes_nothing(self, subject: Store) -> None:
        row, other = put(subject), put(subject)

        with unchanged(subject, row), unchanged(subject, other), pytest.raises(DuplicateKey):
            subject.rotate(row, following(row, sid_hash=other.sid_hash), NOW, UNTIL)

        # Neither a tombstone nor a lock was left.
        assert subject.rotate(row, following(row, sid_hash=new_hash()), NOW, UNTIL) is True
        assert subject.load(row.sid_hash, NOW) is RETIRED

    def test_a_rotation_to_a_hash_that_is_taken_leaves_no_tombstone(self, subject: Store) -> None:
        row, other = put(subject), put(subject)
        with pytest.raises(DuplicateKey):
            subject.rotate(row, following(row, sid_hash=other.sid_hash), NOW, UNTIL)

        assert subject.remove(row)

        assert subject.load(row.sid_hash, NOW) is None

    def test_a_rotation_that_misses_retires_nothing(self, subject: Store) -> None:
        row = put(subject)
        new = following(row)
        assert subject.replace(row, new, NOW)
        lost = following(row, sid_hash=new_hash())

        with unchanged(subject, new):
            assert subject.rotate(row, lost, NOW, UNTIL) is False

        assert subject.load(lost.sid_hash, NOW) is None
        assert subject.remove(new)
        assert subject.load(row.sid_hash, NOW) is None

    def test_alter_asks_with_the_row_as_it_is_now(self, subject: Store) -> None:
        row = put(subject)
        new = following(row, sid_hash=new_hash())
        assert subject.rotate(row, new, NOW, UNTIL)
        decide = Decided(None, "result")

        assert subject.alter(row, decide, NOW, UNTIL) == "result"

        assert decide.asked == [new]
        assert subject.reload(row.id) == new

    def test_alter_asks_about_an_expired_row_too(self, subject: Store) -> None:
        row = put(subject, expires_at=1)
        decide = Decided(None)

        subject.alter(row, decide, NOW, UNTIL)

        assert decide.asked == [row]

    def test_alter_writes_whatever_the_version(self, subject: Store) -> None:
        row, other = put(subject), put(subject)
        second = following(row)
        assert subject.replace(row, second, NOW)
        third = following(second, data=b"third")

        with unchanged(subject, other):
            assert subject.alter(row, Decided(third, 3), NOW, UNTIL) == 3

        assert subject.load(row.sid_hash, NOW) == third
        assert subject.reload(row.id) == third

    def test_alter_to_a_new_hash_retires_the_old_one(self, subject: Store) -> None:
        row = put(subject)
        new = following(row, sid_hash=new_hash())

        subject.alter(row, Decided(new), NOW, UNTIL)

        assert subject.load(new.sid_hash, NOW) == new
        assert subject.load(row.sid_hash, NOW) is RETIRED
        assert subject.load(row.sid_hash, UNTIL - 1) is RETIRED

    def test_alter_retires_a_hash_no_longer_than_said(
        self, no_own_clock: None, subject: Store
    ) -> None:
        row = put(subject)

        subject.alter(row, Decided(following(row, sid_hash=new_hash())), NOW, UNTIL)

        assert subject.load(row.sid_hash, UNTIL) is None

    def test_alter_under_the_same_hash_retires_nothing(self, subject: Store) -> None:
        row = put(subject)
        new = following(row)

        subject.alter(row, Decided(new), NOW, UNTIL)

        assert subject.remove(new)
        assert subject.load(row.sid_hash, NOW) is None

    def test_alter_deletes(self, subject: Store) -> None:
        row, other = put(subject), put(subject)
        assert subject.replace(row, following(row), NOW)

        with unchanged(subject, other):
            assert subject.alter(row, Decided("delete", "gone"), NOW, UNTIL) == "gone"

        assert subject.load(row.sid_hash, NOW) is None
        assert subject.reload(row.id) is None

    def test_alter_writes_nothing_when_told_so(self, subject: Store) -> None:
        row = put(subject)

        with unchanged(subject, row):
            assert subject.alter(row, Decided(None, {"a": 1}), NOW, UNTIL) == {"a": 1}

        assert subject.replace(row, following(row), NOW) is True

    def test_alter_of_a_row_that_is_gone_asks_with_none_and_brings_nothing_back(
        self, subject: Store
    ) -> None:
        row = put(subject)
        assert subject.remove(row)
        answers: list[Row | Literal["delete"] | None] = [following(row), "delete", None]
        for answer in answers:
            decide = Decided(answer, "result")

            assert subject.alter(row, decide, NOW, UNTIL) == "result"

            assert decide.asked == [None]
            assert subject.reload(row.id) is None
            assert subject.count(0) == 0

    def test_what_a_decision_raises_comes_out_and_leaves_neither_change_nor_lock(
        self, subject: Store
    ) -> None:
        for error in (ValueError("too large"), SessionError("no")):
            row = put(subject)

            def decide(_: Row | None, error: Exception = error) -> Any:
                raise error

            with unchanged(subject, row), pytest.raises(type(error)) as caught:
                subject.alter(row, decide, NOW, UNTIL)

            assert caught.value is error
            assert subject.replace(row, following(row), NOW) is True

    def test_alter_to_a_hash_that_is_taken_changes_nothing(self, subject: Store) -> None:
        row, other = put(subject), put(subject)
        decide = Decided(following(row, sid_hash=other.sid_hash))

        with unchanged(subject, row), unchanged(subject, other), pytest.raises(SessionError):
            subject.alter(row, decide, NOW, UNTIL)

        assert subject.replace(row, following(row), NOW) is True
