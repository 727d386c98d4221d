"""Checks of what a store gives back, and of its own beginning and end."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ..errors import DuplicateKey
from ..stores.protocol import Row, Stamp, Store
from .support import HOUR, MINUTE, NOW, Checks, make_row, new_hash, put

_LAST_YEAR = 253_402_300_799_999  # the year 9999
_MEGABYTE = random.Random(0).randbytes(1024 * 1024)

ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nothing optional": dict.fromkeys(("user_id", "authenticated_at", "ip", "user_agent")),
    "empty texts": {"user_id": "", "ip": "", "user_agent": ""},
    "longest texts": {"user_id": "u" * 255, "ip": "f" * 45, "user_agent": "a" * 255},
    "longest texts beyond ASCII": {"user_id": "😀" * 255, "user_agent": "é漢😀" * 85},
    "texts that SQL or a format would read": {
        "user_id": "'; DROP TABLE sessions; --\\%_",
        "user_agent": '"%s" {0} :name ? $1 \\\'\n\t',
    },
    "numbers": {
        "version": 2**31 - 1,
        "epoch": 2**31 - 1,
        "created_at": 1,
        "authenticated_at": 0,
        "last_seen": _LAST_YEAR - 2,
        "expires_at": _LAST_YEAR - 1,
        "purge_after": _LAST_YEAR,
    },
}
DATA = {
    "empty": b"",
    "every byte": bytes(range(256)),
    "NULs": b"\0" * 33,
    "spaces at its ends": b"  \0 data \0  ",
    "not UTF-8": b"\xff\xfe\x80\xc3(",
    "quotes and backslashes": b"'\"\\`;%s?\\x00\r\n",
    "more than 64 KiB": _MEGABYTE[:65_537],
    "1 MiB": _MEGABYTE,
}
HASHES = {
    "NULs at its end": bytes([1] * 24 + [0] * 8),
    "spaces at its end": bytes([1] * 24 + [32] * 8),
    "a NUL more": bytes([1] * 23 + [0] * 9),
    "letters": b"Aa" * 16,
    "letters of the other case": b"aA" * 16,
    "high bytes": b"\xff" * 32,
    "quotes": b"'\"\\\0" * 8,
}


class ReadingChecks(Checks):
    def test_a_row_comes_back_as_it_was_inserted(self, subject: Store) -> None:
        rows = {name: put(subject, **columns) for name, columns in ROWS.items()}

        found = {name: subject.load(row.sid_hash, NOW) for name, row in rows.items()}

        assert found == rows
        assert {type(row) for row in found.values()} == {Row}

    def test_data_comes_back_byte_for_byte(self, subject: Store) -> None:
        rows = {name: put(subject, data=data) for name, data in DATA.items()}

        for name, row in rows.items():
            found = subject.load(row.sid_hash, NOW)
            assert isinstance(found, Row)
            assert {type(found.data), type(found.sid_hash)} == {bytes}
            # Not the data itself: a failing assertion would print a megabyte.
            assert (name, found.data == DATA[name]) == (name, True)

    def test_data_of_1_mib_can_be_replaced(self, subject: Store) -> None:
        row = put(subject, data=_MEGABYTE)

        assert subject.replace(row, row._replace(version=2, data=_MEGABYTE[::-1]), NOW)

        found = subject.reload(row.id)
        assert found is not None
        assert bool(found.data == _MEGABYTE[::-1])

    def test_each_row_is_found_under_exactly_its_own_hash(self, subject: Store) -> None:
        rows = {sid_hash: put(subject, sid_hash=sid_hash) for sid_hash in HASHES.values()}

        assert {sid_hash: subject.load(sid_hash, NOW) for sid_hash in rows} == rows
        assert len({row.id for row in rows.values()}) == len(rows)

    def test_load_gives_an_expired_row_too(self, subject: Store) -> None:
        row = put(subject)

        for late in (0, 1, 24 * HOUR):
            assert subject.load(row.sid_hash, row.expires_at + late) == row

    def test_what_is_unknown_is_none(self, subject: Store) -> None:
        row = put(subject)

        assert subject.load(new_hash(), NOW) is None
        assert subject.stamp(new_hash()) is None
        assert subject.reload(row.id + 1000) is None

    def test_reload_finds_a_row_by_its_id_whatever_its_hash(self, subject: Store) -> None:
        row = put(subject)
        assert subject.reload(row.id) == row
        rotated = row._replace(sid_hash=new_hash(), version=2, epoch=1)

        assert subject.rotate(row, rotated, NOW, NOW + MINUTE)

        assert subject.reload(row.id) == rotated

    def test_stamp_and_reload_say_what_each_kind_of_write_left(self, subject: Store) -> None:
        row = put(subject)
        replaced = row._replace(version=2, epoch=5, data=b"new")
        touched = replaced._replace(last_seen=NOW + 1, expires_at=NOW + HOUR + 1)
        rotated = touched._replace(sid_hash=new_hash(), version=3, epoch=6)

        assert _answers(subject, row) == (_stamp(row), row)
        assert subject.replace(row, replaced, NOW)
        assert _answers(subject, row) == (_stamp(replaced), replaced)
        assert subject.touch(replaced, touched, NOW)
        assert _answers(subject, row) == (_stamp(touched), touched)
        assert subject.rotate(touched, rotated, NOW, NOW + MINUTE)
        assert _answers(subject, row) == (None, rotated)
        assert _answers(subject, rotated) == (_stamp(rotated), rotated)
        assert subject.remove(rotated)
        assert _answers(subject, rotated) == (None, None)

    def test_stamp_and_reload_give_an_expired_row_too(self, subject: Store) -> None:
        row = put(subject, expires_at=1)

        assert _answers(subject, row) == (_stamp(row), row)

    def test_count_counts_the_rows_that_have_not_expired(self, subject: Store) -> None:
        assert subject.count(NOW) == 0
        for expires_at in (NOW - 1, NOW, NOW + 1, NOW + HOUR):
            put(subject, expires_at=expires_at)

        assert subject.count(NOW) == 2
        assert subject.count(NOW + 1) == 1
        assert subject.count(0) == 4

    def test_prepare_can_be_called_again_and_loses_nothing(self, subject: Store) -> None:
        row = put(subject)

        subject.prepare()

        assert subject.load(row.sid_hash, NOW) == row

    def test_a_closed_store_can_be_used_again(self, subject: Store) -> None:
        subject.close()
        subject.close()
        subject.prepare()

        row = put(subject)

        assert subject.load(row.sid_hash, NOW) == row

    def test_a_row_and_what_raises_show_neither_hash_nor_data(self, subject: Store) -> None:
        row = make_row(sid_hash=b"h" * 32, data=b"d" * 32, user_id="u" * 32)
        subject.insert(row)

        with pytest.raises(DuplicateKey) as caught:
            subject.insert(row)

        told = repr(row) + repr(caught.value) + str(caught.value.__context__)
        assert not [text for text in ("hhhh", "dddd", "uuuu", b"hhhh".hex()) if text in told]


def _stamp(row: Row) -> Stamp:
    return Stamp(row.version, row.epoch, row.last_seen, row.expires_at, row.id)


def _answers(store: Store, row: Row) -> tuple[Stamp | None, Row | None]:
    return store.stamp(row.sid_hash), store.reload(row.id)
