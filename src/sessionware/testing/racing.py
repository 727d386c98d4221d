"""Checks of what holds when several callers come at once."""

from __future__ import annotations

import functools
from typing import Any

from ..errors import Contention, DuplicateKey
from ..stores.protocol import PURGE_LEASE, RETIRED, Row, Store
from .calls import together
from .support import HOUR, MINUTE, NOW, SPENT, Checks, following, make_row, new_hash, put

CALLERS = 8
ROUNDS = 3
UNTIL = NOW + MINUTE


def _succeeded(outcomes: list[Any], refusals: tuple[type[Exception], ...] = ()) -> list[Any]:
    """The outcomes that aren't a miss; any error but those refusals, or Contention, is raised."""
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, (Contention, *refusals)):
            raise outcome
    return [each for each in outcomes if each is not False and not isinstance(each, Exception)]


class RacingChecks(Checks):
    def test_of_replaces_over_one_version_exactly_one_wins(self, subject: Store) -> None:
        row = put(subject)
        for turn in range(ROUNDS):
            news = [following(row, data=b"%d of %d" % (i, turn)) for i in range(CALLERS)]

            outcomes = together(*(functools.partial(subject.replace, row, n, NOW) for n in news))

            assert _succeeded(outcomes) == [True]
            row = news[outcomes.index(True)]
            assert subject.load(row.sid_hash, NOW) == row

    def test_of_inserts_under_one_hash_exactly_one_wins(self, subject: Store) -> None:
        for turn in range(ROUNDS):
            sid_hash = new_hash()
            rows = [make_row(sid_hash=sid_hash, data=b"%d" % i) for i in range(CALLERS)]

            outcomes = together(*(functools.partial(subject.insert, row) for row in rows))

            (row_id,) = _succeeded(outcomes, (DuplicateKey,))
            winner = rows[outcomes.index(row_id)]._replace(id=row_id)
            assert subject.load(sid_hash, NOW) == winner
            assert subject.count(NOW) == turn + 1

    def test_inserts_under_different_hashes_all_win(self, subject: Store) -> None:
        rows = [make_row() for _ in range(CALLERS)]

        ids = together(*(functools.partial(subject.insert, row) for row in rows))

        assert len(set(ids)) == CALLERS
        for row, row_id in zip(rows, ids, strict=True):
            assert subject.load(row.sid_hash, NOW) == row._replace(id=row_id)

    def test_of_rotations_of_one_row_exactly_one_wins(self, subject: Store) -> None:
        row = put(subject)
        for _ in range(ROUNDS):
            news = [following(row, sid_hash=new_hash()) for _ in range(CALLERS)]

            outcomes = together(
                *(functools.partial(subject.rotate, row, new, NOW, UNTIL) for new in news)
            )

            assert _succeeded(outcomes) == [True]
            winner = news[outcomes.index(True)]
            found = {new.sid_hash: subject.load(new.sid_hash, NOW) for new in news}
            assert {k: v for k, v in found.items() if v is not None} == {winner.sid_hash: winner}
            assert subject.load(row.sid_hash, NOW) is RETIRED
            row = winner

    def test_alter_loses_no_change(self, subject: Store) -> None:
        row = put(subject, data=b"")

        def append(place: int, current: Row | None) -> tuple[Row, int]:
            assert current is not None
            data = current.data + bytes([place])
            return current._replace(version=current.version + 1, data=data), place

        jobs = [
            functools.partial(subject.alter, row, functools.partial(append, i), NOW, UNTIL)
            for i in range(CALLERS)
        ]

        assert together(*jobs) == list(range(CALLERS))

        found = subject.reload(row.id)
        assert found is not None
        assert sorted(found.data) == list(range(CALLERS))
        assert found.version == 1 + CALLERS

    def test_alter_comes_through_while_others_keep_replacing(self, subject: Store) -> None:
        row = put(subject)
        altered = False

        def alter() -> None:
            nonlocal altered
            try:
                for _ in range(5):
                    subject.alter(row, lambda now: (_next(now), None), NOW, UNTIL)
            finally:
                altered = True

        def keep_replacing() -> int:
            hits = 0
            while not altered or hits < 3:
                current = subject.reload(row.id)
                assert current is not None
                hits += bool(_succeeded([_attempt(subject, current)]))
            return hits

        _, *hits = together(alter, keep_replacing, keep_replacing)

        found = subject.reload(row.id)
        assert found is not None
        assert found.version == 1 + 5 + sum(hits)

    def test_nothing_that_was_removed_comes_back(self, subject: Store) -> None:
        for _ in range(ROUNDS):
            row = put(subject)
            new = following(row, sid_hash=new_hash())

            outcomes = together(
                functools.partial(subject.remove, row),
                functools.partial(subject.replace, row, following(row), NOW),
                functools.partial(subject.rotate, row, new, NOW, UNTIL),
                functools.partial(subject.touch, row, following(row), NOW),
                functools.partial(subject.load, row.sid_hash, NOW),
            )

            _succeeded(outcomes)
            assert outcomes[0] is True
            assert subject.load(row.sid_hash, NOW) in (None, RETIRED)
            assert subject.load(new.sid_hash, NOW) is None
            assert subject.count(0) == 0

    def test_a_reader_sees_whole_rows_that_only_move_forward(self, subject: Store) -> None:
        row = put(subject, data=b"1")

        def write() -> None:
            current = row
            for version in range(2, 12):
                new = current._replace(version=version, data=b"%d" % version)
                assert subject.replace(current, new, NOW)
                current = new

        def read() -> list[int]:
            versions = [0]
            while versions[-1] < 11:
                found = subject.load(row.sid_hash, NOW)
                assert isinstance(found, Row)
                assert found.data == b"%d" % found.version
                versions.append(found.version)
            return versions

        _, *seen = together(write, read, read)

        assert seen == [sorted(versions) for versions in seen]

    def test_of_claims_to_the_purge_exactly_one_wins(self, subject: Store) -> None:
        for turn in range(ROUNDS):
            now = NOW + turn * HOUR
            claim = functools.partial(subject.claim, PURGE_LEASE, now, now + MINUTE)

            assert sorted(together(*[claim] * CALLERS)) == [False] * (CALLERS - 1) + [True]

    def test_parallel_purges_delete_each_row_once(self, subject: Store) -> None:
        alive = put(subject)
        for _ in range(20):
            put(subject, **SPENT)

        def purge() -> int:
            return sum(iter(functools.partial(subject.purge, NOW, 3), 0))

        assert sum(together(*[purge] * 4)) == 20

        assert subject.count(0) == 1
        assert subject.load(alive.sid_hash, NOW) == alive

    def test_a_user_removed_twice_at_once_is_gone(self, subject: Store) -> None:
        rows = [put(subject) for _ in range(10)]

        outcomes = together(*[functools.partial(subject.remove_user, "alice")] * 4)

        removed = {sid_hash for hashes in outcomes for sid_hash in hashes}
        assert removed == {row.sid_hash for row in rows}
        assert subject.user_rows("alice", NOW) == []


def _next(current: Row | None) -> Row:
    assert current is not None
    return current._replace(version=current.version + 1)


def _attempt(store: Store, current: Row) -> Any:
    try:
        return store.replace(current, _next(current), NOW)
    except Contention as error:
        return error
