"""Checks of what goes by the user: ``user_rows``, ``remove_user``, and ``remove_all``."""

from __future__ import annotations

import pytest

from ..stores.protocol import Row, Store
from .support import MINUTE, NOW, Checks, following, new_hash, put

# Each is another user, though some collation, normalisation, padding or pattern takes two for one.
USERS = (
    "alice",
    "Alice",
    "ALICE",
    "alice ",
    "alice  ",
    " alice",
    "alice\t",
    "alice\u200b",
    "alice\u00a0",
    "al\u0131ce",
    "álice",
    "a\u0301lice",
    "\uff41lice",
    "\u0430lice",
    "alic_",
    "alic%",
    "%",
    "alice'",
    "alice\\",
    "strasse",
    "straße",
    "1",
    "01",
    "1.0",
    "😀",
    "😁",
    "",
    " ",
    "u" * 255,
    "u" * 254,
    "u" * 254 + "v",
    "😀" * 255,
    "😀" * 254 + "😁",
)


class UserChecks(Checks):
    def test_each_user_has_exactly_the_own_rows(self, subject: Store) -> None:
        nobodys = put(subject, user_id=None)
        rows = {user: put(subject, user_id=user) for user in USERS}

        assert {user: subject.user_rows(user, NOW) for user in USERS} == {
            user: [row] for user, row in rows.items()
        }
        assert subject.user_rows("None", NOW) == subject.user_rows("nobody", NOW) == []
        assert subject.load(nobodys.sid_hash, NOW) == nobodys

    def test_removing_a_user_removes_no_other(self, subject: Store) -> None:
        put(subject, user_id=None)
        rows = {user: put(subject, user_id=user) for user in USERS}

        for left, (user, row) in zip(range(len(USERS), 0, -1), rows.items(), strict=True):
            assert subject.remove_user(user) == [row.sid_hash]
            assert subject.load(row.sid_hash, NOW) is None
            assert subject.count(NOW) == left

        assert subject.remove_user("alice") == []

    def test_user_rows_gives_the_unexpired_latest_seen_first(self, subject: Store) -> None:
        seen = [30, 10, 40, 20]
        rows = [put(subject, last_seen=NOW + at) for at in seen]
        put(subject, expires_at=NOW)
        last = put(subject, expires_at=NOW + 1, last_seen=NOW)

        found = subject.user_rows("alice", NOW)

        assert found == [rows[2], rows[0], rows[3], rows[1], last]
        assert {type(row) for row in found} == {Row}
        assert last not in subject.user_rows("alice", NOW + 1)

    def test_a_touch_moves_a_row_to_the_front(self, subject: Store) -> None:
        first, second = put(subject), put(subject, last_seen=NOW + 1)

        assert subject.touch(first, first._replace(last_seen=NOW + 2), NOW)

        assert [row.id for row in subject.user_rows("alice", NOW)] == [first.id, second.id]

    def test_a_row_belongs_to_the_user_that_was_written_last(self, subject: Store) -> None:
        row = put(subject, user_id=None)
        assert subject.user_rows("bob", NOW) == []

        bobs = following(row)
        assert subject.replace(row, bobs, NOW)
        assert subject.user_rows("bob", NOW) == [bobs]

        carols = following(bobs, user_id="carol", sid_hash=new_hash())
        assert subject.rotate(bobs, carols, NOW, NOW + MINUTE)
        assert subject.user_rows("bob", NOW) == []
        assert subject.user_rows("carol", NOW) == [carols]

        assert subject.replace(carols, following(carols, user_id=None), NOW)
        assert subject.user_rows("carol", NOW) == []

    def test_remove_user_spares_the_row_to_keep(self, subject: Store) -> None:
        rows = [put(subject) for _ in range(4)]
        expired = put(subject, expires_at=1)
        bobs = put(subject, user_id="bob")
        kept = rows.pop(1)

        removed = subject.remove_user("alice", keep=kept.id)

        assert sorted(removed) == sorted(row.sid_hash for row in (*rows, expired))
        assert [subject.load(sid_hash, NOW) for sid_hash in removed] == [None] * 4
        assert subject.load(kept.sid_hash, NOW) == kept
        assert subject.load(bobs.sid_hash, NOW) == bobs

    def test_the_row_to_keep_protects_nobody_else(self, subject: Store) -> None:
        alices, bobs = put(subject), put(subject, user_id="bob")

        assert subject.remove_user("alice", keep=bobs.id) == [alices.sid_hash]

        assert subject.load(bobs.sid_hash, NOW) == bobs

    def test_an_unknown_row_to_keep_keeps_nothing(self, subject: Store) -> None:
        for keep in (0, 1_000_000):
            row = put(subject)

            assert subject.remove_user("alice", keep=keep) == [row.sid_hash]

    def test_remove_user_gives_hashes_as_bytes(self, subject: Store) -> None:
        put(subject)

        assert [type(sid_hash) for sid_hash in subject.remove_user("alice")] == [bytes]

    def test_remove_some_deletes_as_many_as_it_is_told_the_lowest_ids_first(
        self, subject: Store
    ) -> None:
        remove_some, last_id = (getattr(subject, name, None) for name in ("remove_some", "last_id"))
        if remove_some is None or last_id is None:
            pytest.skip("this store has no remove_some")
        assert last_id() == 0
        assert remove_some(0, 0, 2) == (0, 0)
        rows = [put(subject, user_id=user_id) for user_id in ("alice", None, "bob")]
        last = last_id()
        assert last == rows[-1].id
        later = put(subject)

        first = remove_some(0, last, 2)
        assert first == (2, rows[1].id)
        assert subject.reload(rows[2].id) == rows[2]
        assert remove_some(rows[1].id, last, 2) == (1, last)

        assert [subject.reload(row.id) for row in rows] == [None] * 3
        assert subject.reload(later.id) == later
        assert remove_some(0, last, 2) == (0, last)

    def test_remove_all_leaves_nothing(self, subject: Store) -> None:
        assert subject.remove_all() == 0
        rows = [put(subject), put(subject, user_id=None), put(subject, expires_at=1)]

        assert subject.remove_all() == 3

        assert [subject.load(row.sid_hash, NOW) for row in rows] == [None] * 3
        assert subject.count(0) == 0
        assert subject.replace(rows[0], following(rows[0]), NOW) is False
        assert subject.remove_all() == 0
