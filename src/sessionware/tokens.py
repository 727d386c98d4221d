"""Session IDs: make them, sign them, verify them, hash them for the store.

A token, the value of the cookie, is ``id.signature``: 43 base64url characters each. It says nothing
about the session (OWASP Session Management Cheat Sheet, "Session ID Content").
"""

from __future__ import annotations

import os
from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from itsdangerous import Signer
from itsdangerous.encoding import want_bytes
from itsdangerous.signer import SigningAlgorithm

ID_LENGTH: Final = 43
TOKEN_LENGTH: Final = 87
SALT_PREFIX: Final = b"sessionware.session-id.v1:"

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# 43 characters carry 258 bits and a SHA-256 sized value has 256: in the canonical encoding the two
# spare bits, the lowest of the last character, are zero (RFC 4648 section 3.5).
_CANONICAL_LAST: Final = _ALPHABET[::4]
_DOT: Final = ord(".")
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")

_BLOCK_SIZE: Final = 64
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))


def new_id() -> str:
    """Return a new session ID: 32 bytes of the operating system's CSPRNG as 43 characters."""
    return _base64(os.urandom(32)).decode("ascii")


def _base64(raw: bytes) -> bytes:
    """Base64url without padding, in a third of the time of ``base64``'s own; ``b2a_base64`` ends
    in "=" and a line feed.
    """
    return b2a_base64(raw).translate(_TO_URLSAFE, b"=\n")


def hash_id(id: str) -> bytes:
    """Return the store's key for an ID: its SHA-256, 32 bytes.

    Neither a stolen table nor the timing of an index lookup leads back to an ID (CVE-2019-16782).
    """
    return sha256(id.encode("ascii")).digest()


class _KeyedHmac:
    """HMAC-SHA-256 with both pads of the key hashed in advance (RFC 2104 section 4).

    Copying two SHA-256 states takes half the time of copying an ``hmac.HMAC`` of OpenSSL 3.
    """

    __slots__ = ("_new_inner", "_new_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK_SIZE:
            key = sha256(key).digest()
        block = key.ljust(_BLOCK_SIZE, b"\0")
        self._new_inner = sha256(block.translate(_INNER_PAD)).copy
        self._new_outer = sha256(block.translate(_OUTER_PAD)).copy

    def digest(self, message: bytes) -> bytes:
        inner = self._new_inner()
        inner.update(message)
        outer = self._new_outer()
        outer.update(inner.digest())
        return outer.digest()


class _KeyedAlgorithm(SigningAlgorithm):
    """itsdangerous' HMAC algorithm, with the work on each known key done once."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._known = {key: _KeyedHmac(key) for key in keys}

    def keyed(self, key: bytes) -> _KeyedHmac:
        return self._known.get(key) or _KeyedHmac(key)

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return self.keyed(key).digest(value)


class _SessionSigner(Signer):
    """An ``itsdangerous.Signer`` that derives its keys once and takes canonical signatures only."""

    def __init__(self, secret_keys: Sequence[str | bytes], salt: bytes) -> None:
        super().__init__(
            [want_bytes(key) for key in secret_keys],
            salt=salt,
            key_derivation="hmac",
            digest_method=sha256,
        )
        derived = [super(_SessionSigner, self).derive_key(key) for key in self.secret_keys]
        self._derived = dict(zip(self.secret_keys, derived, strict=True))
        algorithm = _KeyedAlgorithm(derived)
        self.algorithm = algorithm
        # itsdangerous signs with the last key of its list: from here on, that one comes first.
        self._newest_first = tuple(algorithm.keyed(key).digest for key in reversed(derived))

    def derive_key(self, secret_key: str | bytes | None = None) -> bytes:
        secret_key = self.secret_keys[-1] if secret_key is None else want_bytes(secret_key)
        return self._derived.get(secret_key) or super().derive_key(secret_key)

    def newest_signature(self, value: bytes) -> bytes:
        """``get_signature``, by the shortest way."""
        return _base64(self._newest_first[0](value))

    def key_index(self, value: bytes, signature: bytes) -> int | None:
        """Return which key made the signature, counted from the newest, or None."""
        for index, digest in enumerate(self._newest_first):
            # The texts are compared, not what they decode to, or several would verify
            # (itsdangerous #368).
            if compare_digest(signature, _base64(digest(value))):
                return index
        return None

    def verify_signature(self, value: str | bytes, sig: str | bytes) -> bool:
        return self.key_index(want_bytes(value), want_bytes(sig)) is not None


class Tokens:
    """Signs IDs into tokens and verifies tokens, for one cookie name.

    ``secret`` signs and verifies; ``fallbacks`` only verify. The cookie's name and the product are
    part of the key derivation, so a token of another cookie, or of another user of the same secret,
    does not verify. Raises ``TypeError`` if ``fallbacks`` is a ``str`` or ``bytes`` (each character
    would become a key) and ``ValueError`` if a key is empty.
    """

    __slots__ = ("_cookie_name", "_signer")

    def __init__(
        self, secret: str | bytes, fallbacks: Sequence[str | bytes], cookie_name: str
    ) -> None:
        if isinstance(fallbacks, str | bytes):
            raise TypeError("fallbacks must be a sequence of keys, not one key")
        keys = [*reversed(fallbacks), secret]
        if not all(keys):
            raise ValueError("a signing key is empty")
        self._cookie_name = cookie_name
        self._signer = _SessionSigner(keys, SALT_PREFIX + cookie_name.encode("ascii"))

    def sign(self, id: str) -> str:
        """Return the token of an ID, signed with the current key."""
        value = id.encode("ascii")
        return f"{id}.{self._signer.newest_signature(value).decode('ascii')}"

    def examine(self, token: bytes) -> tuple[str, bool] | None:
        """Return the ID of a valid token and whether the current key signed it, or None.

        Shape comes first, then the signature under each key, compared in constant time.
        """
        if (
            len(token) != TOKEN_LENGTH
            or token[ID_LENGTH] != _DOT
            or token[ID_LENGTH - 1] not in _CANONICAL_LAST
            or token.translate(None, _ALPHABET) != b"."
        ):
            return None
        value = token[:ID_LENGTH]
        index = self._signer.key_index(value, token[ID_LENGTH + 1 :])
        if index is None:
            return None
        return value.decode("ascii"), index == 0

    def verify(self, token: bytes) -> str | None:
        """Return the ID of a valid token, or None."""
        found = self.examine(token)
        return None if found is None else found[0]

    def signed_by_current(self, token: bytes) -> bool:
        """Say whether a token is valid and was signed with the current key, not a fallback."""
        found = self.examine(token)
        return found is not None and found[1]

    def __repr__(self) -> str:
        keys = len(self._signer.secret_keys)
        return f"Tokens(cookie_name={self._cookie_name!r}, keys={keys})"
