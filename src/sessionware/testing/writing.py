"""Checks of writing in place: ``insert``, ``replace``, ``touch``, ``remove``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ..errors import DuplicateKey
from ..stores.protocol import Row, Store
from .support import (
    HOUR,
    MINUTE,
    NOW,
    SPENT,
    Checks,
    following,
    make_row,
    new_hash,
    put,
    resaved,
    unchanged,
)

Write = Callable[[Store, Row, Row, int], bool]


def _replace(store: Store, old: Row, new: Row, now: int) -> bool:
    return store.replace(old, new, now)


def _save(store: Store, old: Row, new: Row, now: int) -> bool:
    return store.replace(old, resaved(old, data=new.data), now)


def _rotate(store: Store, old: Row, new: Row, now: int) -> bool:
    return store.rotate(old, new._replace(sid_hash=new_hash()), now, now + MINUTE)


def _touch(store: Store, old: Row, new: Row, now: int) -> bool:
    return store.touch(old, new, now)


WRITES = (_replace, _save, _rotate)
ALL = (*WRITES, _touch)


# (the writes, what is different of ``old``, the time): none of them must hit a row of version 5,
# epoch 5, that expires at NOW + HOUR.
GUARDS: dict[str, tuple[tuple[Write, ...], dict[str, Any], int]] = {
    "another id": (ALL, {"id": 1_000_000}, NOW),
    "an earlier version": (ALL, {"version": 4}, NOW),
    "a later version": (ALL, {"version": 6}, NOW),
    "an earlier epoch": (WRITES, {"epoch": 4}, NOW),
    "a later epoch": (WRITES, {"epoch": 6}, NOW),
    "expires this millisecond": (ALL, {}, NOW + HOUR),
    "expired": (ALL, {}, NOW + HOUR + 1),
    "another hash": ((_touch,), {"sid_hash": b"another hash of thirty-two bytes"}, NOW),
}
# (version, epoch) asked for, of a row of version 5 and epoch 3: met, and not.
MET = [(None, None), (5, None), (None, 3), (5, 3)]
UNMET = [(4, None), (6, None), (None, 2), (None, 4), (5, 4), (4, 3), (0, None), (None, 0)]


class WritingChecks(Checks):
    def test_insert_ignores_the_rows_id_and_gives_a_new_one(self, subject: Store) -> None:
        first = put(subject)

        second = put(subject, id=first.id)
        third = put(subject, id=4_000_000_000)

        assert len({first.id, second.id, third.id}) == 3
        assert 0 < third.id < 4_000_000_000
        for row in (first, second, third):
            assert subject.reload(row.id) == row

    def test_an_id_is_never_given_again(self, subject: Store) -> None:
        """Late requests of a session that ended still know it by its id."""
        ids = []
        for end in (
            subject.remove,
            lambda _: subject.remove_all(),
            lambda _: subject.purge(NOW, 9),
        ):
            row = put(subject, **SPENT)
            ids.append(row.id)
            end(row)
            assert subject.reload(row.id) is None

        assert put(subject).id not in ids
        assert len(set(ids)) == 3

    def test_a_late_write_of_an_ended_session_never_hits_a_new_one(self, subject: Store) -> None:
        for write in ALL:
            ended = put(subject)
            assert subject.remove(ended)
            new = put(subject, user_id="bob")

            with unchanged(subject, new):
                assert write(subject, ended, following(ended), NOW) is False
                assert subject.remove(ended) is False

    def test_insert_refuses_a_hash_that_is_taken_and_replaces_nothing(self, subject: Store) -> None:
        row = put(subject)

        with unchanged(subject, row), pytest.raises(DuplicateKey):
            subject.insert(following(row))

        assert subject.count(NOW) == 1

    def test_insert_refuses_the_hash_of_an_expired_row(self, subject: Store) -> None:
        row = put(subject, expires_at=1, purge_after=2)

        with unchanged(subject, row), pytest.raises(DuplicateKey):
            subject.insert(make_row(sid_hash=row.sid_hash))

    def test_replace_writes_everything_but_the_hash_and_the_creation(self, subject: Store) -> None:
        row, other = put(subject), put(subject)
        new = following(row)

        with unchanged(subject, other):
            given = new._replace(sid_hash=new_hash(), created_at=NOW + 77)
            assert subject.replace(row, given, NOW) is True

        assert subject.load(row.sid_hash, NOW) == new
        assert subject.load(given.sid_hash, NOW) is None
        assert subject.reload(row.id) == new

    def test_a_save_of_content_and_times_leaves_all_else_as_it_was(self, subject: Store) -> None:
        for row in (put(subject), put(subject, user_id=None, authenticated_at=None, ip=None)):
            new = resaved(row)

            assert subject.replace(row, new, NOW) is True

            assert subject.load(row.sid_hash, NOW) == new

    def test_a_save_does_not_undo_a_touch_that_came_between(self, subject: Store) -> None:
        for save in (resaved, following):
            row = put(subject)
            seen, ends = row.last_seen + HOUR, row.expires_at + HOUR
            touched = row._replace(last_seen=seen, expires_at=ends)
            assert subject.touch(row, touched, NOW)

            assert subject.replace(row, save(row), NOW) is True

            found = subject.reload(row.id)
            assert found is not None
            assert (found.last_seen, found.expires_at) == (seen, ends)

    def test_a_save_can_shorten_a_life(self, subject: Store) -> None:
        row = put(subject)

        assert subject.replace(row, resaved(row, expires_at=NOW + 2), NOW) is True

        assert subject.count(NOW + 1) == 1
        assert subject.count(NOW + 2) == 0

    def test_a_write_can_empty_and_fill_what_is_optional(self, subject: Store) -> None:
        for write in (_replace, _rotate):
            full = put(subject)
            empty = full._replace(
                version=2, user_id=None, authenticated_at=None, ip=None, user_agent=None
            )

            assert write(subject, full, empty, NOW)
            emptied = subject.reload(full.id)
            assert emptied is not None
            assert emptied == empty._replace(sid_hash=emptied.sid_hash)

            assert write(subject, emptied, full._replace(version=3), NOW)
            filled = subject.reload(full.id)
            assert filled is not None
            assert filled == full._replace(version=3, sid_hash=filled.sid_hash)

    def test_a_write_hits_nothing_that_has_changed_or_expired(self, subject: Store) -> None:
        row = put(subject, version=5, epoch=5)

        with unchanged(subject, row):
            hits = {
                (write.__name__, name): write(subject, row._replace(**old), following(row), now)
                for name, (writes, old, now) in GUARDS.items()
                for write in writes
            }

        assert hits == dict.fromkeys(hits, False)
        assert subject.count(0) == 1

    def test_a_write_hits_a_row_in_its_last_millisecond(self, subject: Store) -> None:
        for write in ALL:
            row = put(subject)

            assert write(subject, row, following(row), row.expires_at - 1) is True

    def test_a_write_never_brings_a_row_back(self, subject: Store) -> None:
        for write in ALL:
            row = put(subject)
            assert subject.remove(row)

            assert write(subject, row, following(row), NOW) is False

            assert subject.load(row.sid_hash, NOW) is None
            assert subject.reload(row.id) is None
            assert subject.count(0) == 0

    def test_the_second_write_over_one_version_misses(self, subject: Store) -> None:
        for write in WRITES:
            row = put(subject)
            new = following(row)

            assert write(subject, row, new, NOW) is True
            assert write(subject, row, new._replace(data=b"late"), NOW) is False

            found = subject.reload(row.id)
            assert found is not None
            assert found.data == new.data

    def test_touch_writes_the_three_times_and_nothing_else(self, subject: Store) -> None:
        row = put(subject)
        new = following(row)

        assert subject.touch(row, new, NOW) is True

        touched = row._replace(
            last_seen=new.last_seen, expires_at=new.expires_at, purge_after=new.purge_after
        )
        assert subject.load(row.sid_hash, NOW) == touched
        assert subject.reload(row.id) == touched

    def test_touch_can_shorten_a_life(self, subject: Store) -> None:
        row = put(subject)

        assert subject.touch(row, row._replace(last_seen=NOW + 1, expires_at=NOW + 2), NOW)

        assert subject.count(NOW + 1) == 1
        assert subject.count(NOW + 2) == 0

    def test_touch_never_turns_last_seen_back(self, subject: Store) -> None:
        row = put(subject)

        with unchanged(subject, row):
            for step in (0, -1, -HOUR):
                new = row._replace(last_seen=NOW + step, expires_at=NOW + 2 * HOUR)
                assert subject.touch(row, new, NOW) is False

    def test_touch_goes_by_the_last_seen_that_is_stored(self, subject: Store) -> None:
        """And not by that of the row that its request had read."""
        row = put(subject)
        later, earlier = row._replace(last_seen=NOW + 20), row._replace(last_seen=NOW + 10)

        assert subject.touch(row, later, NOW) is True
        assert subject.touch(row, earlier, NOW) is False

        assert subject.load(row.sid_hash, NOW) == later

    def test_a_touch_does_not_make_a_save_miss(self, subject: Store) -> None:
        row = put(subject)
        assert subject.touch(row, row._replace(last_seen=NOW + 1), NOW)

        assert subject.replace(row, following(row), NOW) is True

    def test_a_touch_that_comes_after_a_write_misses(self, subject: Store) -> None:
        for write in WRITES:
            row = put(subject)
            assert write(subject, row, following(row), NOW)
            written = subject.reload(row.id)
            assert written is not None

            with unchanged(subject, written):
                assert subject.touch(row, row._replace(last_seen=NOW + HOUR), NOW) is False

    def test_remove_deletes_the_row_that_meets_its_condition(self, subject: Store) -> None:
        other = put(subject, version=5, epoch=3)
        for condition in MET:
            row = put(subject, version=5, epoch=3)

            assert subject.remove(row, *condition) is True

            assert subject.load(row.sid_hash, NOW) is None
            assert subject.reload(row.id) is None
            assert subject.remove(row) is False

        assert subject.load(other.sid_hash, NOW) == other

    def test_remove_spares_a_row_that_does_not_meet_its_condition(self, subject: Store) -> None:
        row = put(subject, version=5, epoch=3)

        with unchanged(subject, row):
            hits = {condition: subject.remove(row, *condition) for condition in UNMET}

        assert hits == dict.fromkeys(UNMET, False)

    def test_remove_deletes_an_expired_row(self, subject: Store) -> None:
        row = put(subject, expires_at=1)

        assert subject.remove(row) is True
        assert subject.load(row.sid_hash, NOW) is None

    def test_remove_goes_by_the_id_through_writes_and_rotation(self, subject: Store) -> None:
        """An end that was asked for with the ID of before ends the session all the same."""
        row = put(subject)
        new = following(row, sid_hash=new_hash())
        assert subject.rotate(row, new, NOW, NOW + MINUTE)
        assert subject.load(new.sid_hash, NOW) == new

        assert subject.remove(row) is True

        assert subject.load(new.sid_hash, NOW) is None
        assert subject.reload(row.id) is None
