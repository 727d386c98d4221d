"""Encryption at rest: only the right key, row and associated data open what was sealed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from sessionware.encryption import Cipher, parse_key
from sessionware.errors import CorruptRecord

NEW, OLD, OTHER = (bytes([n]) * 32 for n in (1, 2, 3))
ROW, OTHER_ROW = bytes(32), b"\x01" + bytes(31)
CIPHER = Cipher([NEW])


def sealed_by(key: bytes, plain: bytes = b"data") -> bytes:
    return Cipher([key]).seal(plain, sid_hash=ROW, aad=b"aad")


@given(st.binary(max_size=200), st.binary(min_size=32, max_size=32), st.binary(max_size=50))
def test_what_was_sealed_opens_again(plain: bytes, row: bytes, aad: bytes) -> None:
    sealed = CIPHER.seal(plain, sid_hash=row, aad=aad)
    assert CIPHER.open(sealed, sid_hash=row, aad=aad) == plain
    assert len(sealed) == len(plain) + 32


def test_the_sealed_form_is_the_documented_one() -> None:
    sealed = sealed_by(NEW)
    key_id = hashlib.sha256(b"sessionware key id" + NEW).digest()[:4]
    row_key = hmac.new(NEW, b"sessionware/1 row" + ROW, "sha256").digest()
    assert sealed[:4] == key_id
    assert AESGCM(row_key).decrypt(sealed[4:16], sealed[16:], b"aad" + key_id) == b"data"


@pytest.mark.parametrize("key", [NEW, OLD])
def test_a_fallback_key_opens_and_the_first_key_seals(key: bytes) -> None:
    cipher = Cipher([NEW, OLD])
    assert cipher.open(sealed_by(key), sid_hash=ROW, aad=b"aad") == b"data"
    assert cipher.seal(b"", sid_hash=ROW, aad=b"")[:4] == sealed_by(NEW)[:4]


def test_keys_whose_ids_collide_are_all_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionware.encryption._key_id", lambda key: b"same")
    sealed = sealed_by(OLD)
    assert Cipher([NEW, OLD]).open(sealed, sid_hash=ROW, aad=b"aad") == b"data"


@pytest.mark.parametrize(
    ("cipher", "row", "aad"),
    [
        pytest.param(Cipher([OTHER, OLD]), ROW, b"aad", id="unknown key"),
        pytest.param(CIPHER, OTHER_ROW, b"aad", id="another row"),
        pytest.param(CIPHER, ROW, b"aaD", id="other associated data"),
    ],
)
def test_a_wrong_key_row_or_associated_data_is_a_corrupt_record(
    cipher: Cipher, row: bytes, aad: bytes
) -> None:
    sealed = sealed_by(NEW)
    with pytest.raises(CorruptRecord):
        cipher.open(sealed, sid_hash=row, aad=aad)


def test_a_key_under_the_id_of_another_does_not_open() -> None:
    relabelled = sealed_by(OTHER)[:4] + sealed_by(NEW)[4:]
    with pytest.raises(CorruptRecord):
        Cipher([NEW, OTHER]).open(relabelled, sid_hash=ROW, aad=b"aad")


def _flips(sealed: bytes) -> list[bytes]:
    number = int.from_bytes(sealed, "big")
    return [(number ^ (1 << bit)).to_bytes(len(sealed), "big") for bit in range(len(sealed) * 8)]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_flips, id="every bit flipped"),
        pytest.param(lambda sealed: [sealed[:n] for n in range(len(sealed))], id="cut anywhere"),
        pytest.param(lambda sealed: [sealed + b"\x00"], id="longer"),
    ],
)
def test_damage_is_a_corrupt_record(damage: Callable[[bytes], list[bytes]]) -> None:
    for damaged in damage(sealed_by(NEW)):
        with pytest.raises(CorruptRecord):
            CIPHER.open(damaged, sid_hash=ROW, aad=b"aad")


@given(st.binary(max_size=80))
def test_any_other_bytes_are_a_corrupt_record(sealed: bytes) -> None:
    with pytest.raises(CorruptRecord):
        CIPHER.open(sealed, sid_hash=ROW, aad=b"aad")


def test_no_nonce_comes_twice_in_ten_thousand_writes() -> None:
    assert len({sealed_by(NEW)[4:16] for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("keys", [[], [b""], [NEW, NEW[:31]], ["a" * 32], [NEW + b"x"]])
def test_keys_of_the_wrong_length_or_type_are_refused(keys: list[Any]) -> None:
    with pytest.raises(ValueError, match="32 bytes") as caught:
        Cipher(keys)
    assert "a" * 32 not in str(caught.value)


def test_the_repr_shows_how_many_keys_there_are_and_none_of_them() -> None:
    assert repr(Cipher([NEW, OLD])) == "<Cipher with 2 key(s)>"


def test_without_cryptography_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ImportError, match=r"pip install 'sessionware\[encryption\]'"):
        Cipher([NEW])


def test_cryptography_is_imported_only_when_it_is_used() -> None:
    code = "import sys, sessionware.records; sys.exit('cryptography' in sys.modules)"
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})


KEY = bytes(range(220, 252))
SPELLINGS = {
    "hex": KEY.hex(),
    "upper hex": KEY.hex().upper(),
    "standard base64": base64.b64encode(KEY).decode(),
    "urlsafe base64": base64.urlsafe_b64encode(KEY).decode(),
    "unpadded base64": base64.urlsafe_b64encode(KEY).decode().rstrip("="),
    "a line of a file": KEY.hex() + "\n",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_key_is_read_from_each_spelling_as_text_and_as_bytes(spelling: str) -> None:
    assert parse_key(spelling) == KEY
    assert parse_key(spelling.encode()) == KEY


def test_raw_bytes_are_a_key_even_if_they_look_like_text() -> None:
    assert parse_key(b"a" * 32) == b"a" * 32


def test_the_spellings_cover_both_alphabets_of_base64() -> None:
    assert set("+/") & set(SPELLINGS["standard base64"])
    assert set("-_") & set(SPELLINGS["urlsafe base64"])


@pytest.mark.parametrize(
    "value",
    ["", "s3cr3t", "s3cr3t-s3cr3t-s3cr3t-s3cr3t-1234", KEY.hex()[:-1], KEY.hex()[:-2] + "zz",
     base64.b64encode(KEY + b"x").decode(), "é" * 32, "\ud800" * 43, b"\xff" * 64, bytes(31),
     base64.b64encode(KEY).decode()[:-2] + "*="],
)  # fmt: skip
def test_anything_else_is_refused_without_quoting_it(value: str | bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes") as caught:
        parse_key(value)
    assert "s3cr3t" not in repr(caught.value)
    assert caught.value.__context__ is None
