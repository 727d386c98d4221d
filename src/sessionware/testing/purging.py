"""Checks of the purge: what it deletes, how much at a time, and who may; and of leases."""

from __future__ import annotations

import pytest

from ..stores.protocol import PURGE_LEASE, RETIRED, Row, Store
from .support import HOUR, MINUTE, NOW, SPENT, Checks, following, new_hash, put

# (expires_at, purge_after) of rows that must stay.
KEPT = {
    "alive": (NOW + HOUR, NOW + HOUR + MINUTE),
    "expired but not yet due": (NOW - HOUR, NOW + MINUTE),
    "due but alive, as after a save that moved its end": (NOW + HOUR, NOW - MINUTE),
    "in its last millisecond": (NOW + 1, NOW - 1),
}


class PurgingChecks(Checks):
    def test_purge_spares_what_is_not_past_both_its_times(self, subject: Store) -> None:
        kept = {
            name: put(subject, expires_at=expires_at, purge_after=purge_after)
            for name, (expires_at, purge_after) in KEPT.items()
        }
        spent = put(subject, **SPENT)

        assert subject.purge(NOW, 100) == 1

        assert {name: subject.reload(row.id) for name, row in kept.items()} == kept
        assert subject.reload(spent.id) is None
        assert subject.load(spent.sid_hash, NOW) is None

    def test_an_exact_purge_spares_only_what_has_not_expired(self, subject: Store) -> None:
        kept = {
            name: put(subject, expires_at=expires_at, purge_after=purge_after)
            for name, (expires_at, purge_after) in KEPT.items()
        }
        early = kept.pop("expired but not yet due")
        spent = put(subject, **SPENT)

        assert [subject.purge(NOW, 1, True) for _ in range(3)] == [1, 1, 0]

        assert {name: subject.reload(row.id) for name, row in kept.items()} == kept
        assert subject.reload(early.id) is subject.reload(spent.id) is None

    def test_purge_works_in_batches(self, subject: Store) -> None:
        for _ in range(7):
            put(subject, **SPENT)
        alive = put(subject)

        assert [subject.purge(NOW, 3) for _ in range(4)] == [3, 3, 1, 0]

        assert subject.load(alive.sid_hash, NOW) == alive
        assert subject.count(0) == 1

    def test_purge_spares_a_row_that_was_renewed_after_it_had_been_due(
        self, subject: Store
    ) -> None:
        row = put(subject, expires_at=NOW + 1, purge_after=NOW + 2)
        renewed = row._replace(last_seen=NOW + 1, expires_at=NOW + HOUR)
        assert subject.touch(row, renewed, NOW)

        assert subject.purge(NOW + MINUTE, 100) == 0

        assert subject.load(row.sid_hash, NOW) == renewed

    def test_purge_spares_a_tombstone_that_stands(self, subject: Store) -> None:
        old = _rotated(subject, NOW + MINUTE)

        assert subject.purge(NOW + MINUTE - 1, 100) == 0

        assert subject.load(old.sid_hash, NOW) is RETIRED

    def test_purge_deletes_spent_tombstones_and_does_not_count_them(
        self, no_own_clock: None, subject: Store
    ) -> None:
        olds = [_rotated(subject, NOW + MINUTE) for _ in range(3)]

        assert subject.purge(NOW + MINUTE + 1, 100) == 0

        # Before its end it would still be answered for, if it was there.
        assert [subject.load(old.sid_hash, NOW) for old in olds] == [None] * 3

    def test_no_spent_tombstone_is_left_by_a_purge_that_is_done(
        self, no_own_clock: None, subject: Store
    ) -> None:
        olds = [_rotated(subject, NOW + MINUTE) for _ in range(7)]
        standing = _rotated(subject, NOW + HOUR)

        assert subject.purge(NOW + MINUTE, 2) == 0
        more = getattr(subject, "purge_retired", None)
        while more is not None and more(NOW + MINUTE, 2) == 2:
            pass

        assert [subject.load(old.sid_hash, NOW) for old in olds] == [None] * 7
        assert subject.load(standing.sid_hash, NOW) is RETIRED

    def test_the_lease_on_purging_is_held_until_its_end(self, subject: Store) -> None:
        assert subject.claim(PURGE_LEASE, NOW, NOW + MINUTE) is True
        assert subject.claim(PURGE_LEASE, NOW, NOW + HOUR) is False
        assert subject.claim(PURGE_LEASE, NOW + MINUTE - 1, NOW + HOUR) is False
        # A refused claim lengthens nothing.
        assert subject.claim(PURGE_LEASE, NOW + MINUTE, NOW + HOUR) is True
        assert subject.claim(PURGE_LEASE, NOW + MINUTE, NOW + 2 * HOUR) is False
        assert subject.claim(PURGE_LEASE, NOW + 24 * HOUR, NOW + 25 * HOUR) is True

    def test_a_lease_that_was_given_back_is_taken_at_once(self, subject: Store) -> None:
        key = new_hash()
        assert subject.claim(key, NOW, NOW + HOUR) is True

        assert subject.release(key, NOW + HOUR) is True

        assert subject.release(key, NOW + HOUR) is False
        assert subject.claim(key, NOW, NOW + MINUTE) is True
        assert subject.claim(key, NOW, NOW + HOUR) is False

    def test_a_lease_is_given_back_by_whoever_took_it_alone(self, subject: Store) -> None:
        """One that ran out may have been taken by somebody else since."""
        key = new_hash()
        assert subject.claim(key, NOW, NOW + MINUTE) is True
        assert subject.claim(key, NOW + MINUTE, NOW + HOUR) is True

        assert subject.release(key, NOW + MINUTE) is False
        assert subject.release(new_hash(), NOW + HOUR) is False

        assert subject.claim(key, NOW + MINUTE, NOW + 2 * HOUR) is False
        assert subject.release(key, NOW + HOUR) is True

    def test_leases_with_different_keys_are_different_leases(self, subject: Store) -> None:
        one, other = new_hash(), new_hash()
        assert subject.claim(one, NOW, NOW + HOUR) is True

        assert subject.claim(other, NOW, NOW + HOUR) is True
        assert subject.release(one, NOW + HOUR) is True

        assert subject.claim(other, NOW, NOW + MINUTE) is False
        assert subject.claim(one, NOW, NOW + MINUTE) is True

    def test_a_lease_that_ends_too_late_to_be_true_is_taken_over_once(self, subject: Store) -> None:
        take_over = getattr(subject, "take_over", None)
        if take_over is None:
            pytest.skip("this store has no take_over")
        latest = NOW + HOUR
        assert subject.claim(PURGE_LEASE, NOW, latest + 1) is True

        assert subject.claim(PURGE_LEASE, NOW, NOW + MINUTE) is False
        assert take_over(PURGE_LEASE, NOW, NOW + MINUTE, latest + 1) is False
        assert take_over(PURGE_LEASE, NOW, NOW + MINUTE, latest) is True
        assert take_over(PURGE_LEASE, NOW, NOW + MINUTE, latest) is False
        assert take_over(PURGE_LEASE, NOW + MINUTE, NOW + HOUR, latest) is True

    def test_purging_leaves_the_lease_alone(self, subject: Store) -> None:
        assert subject.claim(PURGE_LEASE, NOW, NOW + MINUTE)

        subject.purge(NOW, 100)

        assert subject.claim(PURGE_LEASE, NOW, NOW + HOUR) is False
        subject.purge(NOW + HOUR, 100)
        assert subject.claim(PURGE_LEASE, NOW + HOUR, NOW + 2 * HOUR) is True

    def test_the_lease_is_no_session(self, subject: Store) -> None:
        assert subject.claim(PURGE_LEASE, NOW, NOW + MINUTE)

        assert subject.count(0) == 0
        assert subject.remove_all() == 0


def _rotated(store: Store, until: int) -> Row:
    row = put(store)
    assert store.rotate(row, following(row, sid_hash=new_hash()), NOW, until)
    return row
