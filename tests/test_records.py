"""The record: header and payload come back, and whatever else the column holds is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware.codecs import CustomCodec, JSONCodec
from sessionware.encryption import Cipher
from sessionware.errors import CorruptRecord
from sessionware.records import (
    BROWSER,
    DEFAULT,
    HEADER_BYTES,
    NO_OWNER,
    SECONDS,
    UNTIL,
    Expiry,
    Header,
    Record,
    RecordFormat,
    read_header,
    read_nonce,
)


class Own:
    def dumps(self, data: dict[Any, Any], /) -> bytes:
        return repr(data).encode()

    def loads(self, payload: bytes, /) -> dict[Any, Any]:
        return {}


CIPHER = Cipher([bytes(32), b"\x01" * 32])
FORMATS = {
    "plain": RecordFormat(JSONCodec(), None),
    "sealed": RecordFormat(JSONCodec(), CIPHER),
    "custom": RecordFormat(CustomCodec(Own()), None),
    "sealed custom": RecordFormat(CustomCodec(Own()), CIPHER),
}
PLAIN, SEALED = FORMATS["plain"], FORMATS["sealed"]
ROW, OTHER_ROW = bytes(32), b"\x01" * 32
HEADER = Header(b"nonce678", b"handle", b"owner678", 1_700_000_000_000, Expiry(SECONDS, 60_000))
PAYLOAD = b'{"password":"hunter2"}'

INT64 = st.integers(-(2**63), 2**63 - 1)
HEADERS = st.builds(
    Header,
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=6, max_size=6),
    st.binary(min_size=8, max_size=8),
    INT64,
    st.builds(Expiry, st.sampled_from([DEFAULT, SECONDS, UNTIL, BROWSER]), INT64),
)


def corrupt(raw: bytes, form: RecordFormat, row: bytes = ROW) -> bool:
    try:
        form.read(raw, sid_hash=row)
    except CorruptRecord:
        return True
    return False


@pytest.mark.parametrize("name", FORMATS)
@given(header=HEADERS, payload=st.binary(max_size=100), rich=st.booleans(), row=st.binary())
def test_a_record_reads_as_it_was_written(
    name: str, header: Header, payload: bytes, rich: bool, row: bytes
) -> None:
    form, rich = FORMATS[name], rich and "custom" not in name
    raw = form.write(header, payload, rich, sid_hash=row)
    assert form.read(raw, sid_hash=row) == Record(header, payload, rich)
    assert read_header(raw) == header
    assert read_nonce(raw) == header.nonce


def test_the_stored_form_stays_what_it_is() -> None:
    raw = PLAIN.write(HEADER, b"{}", True, sid_hash=ROW)
    assert raw == (
        b"\x01\x01nonce678handleowner678"
        + (1_700_000_000_000).to_bytes(8, "big")
        + b"\x01"
        + (60_000).to_bytes(8, "big")
        + b"{}"
    )
    assert HEADER_BYTES == 41


def test_under_encryption_the_payload_is_not_in_the_record() -> None:
    raw = SEALED.write(HEADER, PAYLOAD, False, sid_hash=ROW)
    assert b"hunter2" not in raw
    plain = PLAIN.write(HEADER, b"", False, sid_hash=ROW)
    assert raw[:HEADER_BYTES] == plain[:1] + b"\x02" + plain[2:]


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize("read", FORMATS)
def test_a_record_is_read_only_under_the_settings_it_was_written_with(
    written: str, read: str
) -> None:
    raw = FORMATS[written].write(HEADER, PAYLOAD, False, sid_hash=ROW)
    assert corrupt(raw, FORMATS[read]) is (written != read)


def test_ciphertexts_swapped_between_two_rows_do_not_open() -> None:
    first = SEALED.write(HEADER, b'{"user":1}', False, sid_hash=ROW)
    second = SEALED.write(HEADER._replace(nonce=b"other678"), b"{}", False, sid_hash=OTHER_ROW)
    assert corrupt(second, SEALED, ROW)
    assert corrupt(first, SEALED, OTHER_ROW)
    for row, head, body in [(ROW, first, second), (OTHER_ROW, second, first)]:
        assert corrupt(head[:HEADER_BYTES] + body[HEADER_BYTES:], SEALED, row)


@pytest.mark.parametrize("rich", [False, True])
def test_every_flipped_bit_of_a_sealed_record_is_found(rich: bool) -> None:
    raw = SEALED.write(HEADER, b"{}", rich, sid_hash=ROW)
    number = int.from_bytes(raw, "big")
    for bit in range(len(raw) * 8):
        flipped = (number ^ (1 << bit)).to_bytes(len(raw), "big")
        assert corrupt(flipped, SEALED), f"bit {bit}"


@pytest.mark.parametrize("name", ["plain", "sealed"])
def test_a_record_that_is_cut_in_its_header_or_ciphertext_is_corrupt(name: str) -> None:
    raw = FORMATS[name].write(HEADER, PAYLOAD, False, sid_hash=ROW)
    whole = HEADER_BYTES if name == "plain" else len(raw)
    for length in range(whole):
        assert corrupt(raw[:length], FORMATS[name]), f"{length} bytes"


def test_no_nonce_comes_twice_in_ten_thousand_sealed_writes() -> None:
    writes = (SEALED.write(HEADER, b"{}", False, sid_hash=ROW) for _ in range(10_000))
    assert len({raw[HEADER_BYTES + 4 : HEADER_BYTES + 16] for raw in writes}) == 10_000


def test_a_record_sealed_with_a_fallback_key_opens_and_with_an_unknown_key_does_not() -> None:
    fallback, unknown = (
        RecordFormat(JSONCodec(), Cipher([key])).write(HEADER, b"{}", False, sid_hash=ROW)
        for key in (b"\x01" * 32, os.urandom(32))
    )
    assert SEALED.read(fallback, sid_hash=ROW).payload == b"{}"
    assert corrupt(unknown, SEALED)


@pytest.mark.parametrize(
    ("offset", "byte"),
    [
        *((0, form) for form in (0, 2, 0x7B, 0x80, 255)),
        *((1, 1 << bit) for bit in range(3, 8)),
        (32, 4),
        (32, 255),
    ],
)
def test_an_unknown_format_flag_or_kind_of_expiry_is_corrupt(offset: int, byte: int) -> None:
    raw = bytearray(PLAIN.write(HEADER, b"{}", False, sid_hash=ROW))
    raw[offset] = byte
    for form in FORMATS.values():
        assert corrupt(bytes(raw), form)
    for read in (read_header, read_nonce):
        with pytest.raises(CorruptRecord):
            read(bytes(raw))


@pytest.mark.parametrize("name", FORMATS)
def test_rich_json_of_a_custom_serializer_is_corrupt(name: str) -> None:
    raw = bytearray(FORMATS["custom"].write(HEADER, b"{}", False, sid_hash=ROW))
    raw[1] |= 1
    assert corrupt(bytes(raw), FORMATS[name])


@given(st.binary(max_size=HEADER_BYTES - 1) | st.binary().map(lambda tail: b"\x02" + tail))
def test_short_or_foreign_bytes_are_corrupt_for_every_reader(raw: bytes) -> None:
    for read in (read_header, read_nonce):
        with pytest.raises(CorruptRecord):
            read(raw)
    assert corrupt(raw, PLAIN)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_record_or_corrupt(raw: bytes) -> None:
    assert corrupt(raw, PLAIN) or raw[0] == 1
    assert corrupt(raw, SEALED)


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": b"short"}, {"nonce": b"too long 9"}, {"handle": b""}, {"owner": b"x"},
        {"expiry": Expiry(4, 0)}, {"expiry": Expiry(-1, 0)},
    ],
)  # fmt: skip
def test_a_header_that_could_not_be_read_back_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"wrong length|unknown kind"):
        PLAIN.write(HEADER._replace(**changes), b"{}", False, sid_hash=ROW)


def test_rich_json_of_a_custom_serializer_is_not_written() -> None:
    with pytest.raises(ValueError, match="rich JSON"):
        FORMATS["custom"].write(HEADER, b"{}", True, sid_hash=ROW)


def test_the_repr_of_a_record_shows_no_payload_nonce_or_owner() -> None:
    shown = repr(PLAIN.read(PLAIN.write(HEADER, PAYLOAD, False, sid_hash=ROW), sid_hash=ROW))
    assert not any(part in shown for part in ("hunter2", "nonce678", "owner678"))


def test_no_owner_is_all_zeros() -> None:
    assert read_header(
        PLAIN.write(HEADER._replace(owner=NO_OWNER), b"", False, sid_hash=ROW)
    ).owner == bytes(8)
