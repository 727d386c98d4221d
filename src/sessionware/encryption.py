"""Encryption of stored records: AES-256-GCM, bound to the row; needs ``cryptography``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Final

from .errors import CorruptRecord

KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_OVERHEAD: Final = _ID_BYTES + _NONCE_BYTES + 16


def parse_key(value: str | bytes) -> bytes:
    """The 32 bytes of a key given raw, as 64 hex digits, or as standard or URL-safe base64.

    Raises ``ValueError``, whose message does not contain the value.
    """
    text = value.encode("ascii", "replace") if isinstance(value, str) else value
    raw = isinstance(value, bytes) and len(value) == KEY_BYTES
    key = text if raw else _parse_text(text)
    if len(key) != KEY_BYTES:
        raise ValueError("an encryption key is 32 bytes: raw, as 64 hex digits, or as base64")
    return key


def _parse_text(text: bytes) -> bytes:
    text = text.strip()
    try:
        if len(text) == 2 * KEY_BYTES:
            return binascii.unhexlify(text)
        padded = text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4)
        return base64.b64decode(padded.replace(b"-", b"+").replace(b"_", b"/"), validate=True)
    except ValueError:
        return b""


class Cipher:
    """Seals with the first key, opens with any (OWASP ASVS 11.3.3, 11.3.4).

    Each row has a subkey of its own, so the random 96-bit nonce need be unique only among the
    writes of one row (NIST SP 800-38D section 8.3 allows 2**32 of them).
    A sealed record is: 4 bytes key id, 12 bytes nonce, ciphertext with a 16 byte tag.
    """

    __slots__ = ("_aead", "_invalid", "_keys")

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(type(key) is not bytes or len(key) != KEY_BYTES for key in keys):
            raise ValueError("a Cipher needs one or more keys of 32 bytes")
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ImportError(
                "encryption needs the cryptography package: pip install 'sessionware[encryption]'"
            ) from error
        self._aead = AESGCM
        self._invalid = InvalidTag
        self._keys = tuple((_key_id(key), key) for key in keys)

    def __repr__(self) -> str:
        return f"<Cipher with {len(self._keys)} key(s)>"

    def seal(self, plain: bytes, *, sid_hash: bytes, aad: bytes) -> bytes:
        """Encrypt for the row ``sid_hash``; ``aad`` must be given again to open it."""
        key_id, key = self._keys[0]
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._aead(_row_key(key, sid_hash)).encrypt(nonce, plain, aad + key_id)
        return key_id + nonce + sealed

    def open(self, sealed: bytes, *, sid_hash: bytes, aad: bytes) -> bytes:
        """The plain bytes; raises ``CorruptRecord`` if key, row, ``aad`` or a single bit differ."""
        if len(sealed) < _OVERHEAD:
            raise CorruptRecord("a sealed record is too short")
        nonce = sealed[_ID_BYTES : _ID_BYTES + _NONCE_BYTES]
        body = sealed[_ID_BYTES + _NONCE_BYTES :]
        for key_id, key in self._keys:
            if sealed.startswith(key_id):
                try:
                    return self._aead(_row_key(key, sid_hash)).decrypt(nonce, body, aad + key_id)
                except self._invalid:
                    continue
        raise CorruptRecord("a sealed record does not open with any configured key")


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"sessionware key id" + key).digest()[:_ID_BYTES]


def _row_key(key: bytes, sid_hash: bytes) -> bytes:
    return hmac.digest(key, b"sessionware/1 row" + sid_hash, "sha256")
