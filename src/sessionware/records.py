"""The record: the bytes of a row's ``data`` column. A fixed header, then the payload."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

from .codecs import Codec
from .encryption import Cipher
from .errors import CorruptRecord
from .tuples import make

NONCE_BYTES: Final = 8
HANDLE_BYTES: Final = 6
OWNER_BYTES: Final = 8
NO_OWNER: Final = bytes(OWNER_BYTES)

_FORMAT: Final = 1
_RICH: Final = 1
_SEALED: Final = 2
_CUSTOM: Final = 4
_ALL_FLAGS: Final = _RICH | _SEALED | _CUSTOM

_HEADER: Final = Struct(">BB8s6s8sqBq")
HEADER_BYTES: Final = _HEADER.size
_pack: Final = _HEADER.pack
_unpack: Final = _HEADER.unpack_from


# What ``Session.set_expiry`` last chose, and so what the expiry's value means.
DEFAULT: Final = 0
SECONDS: Final = 1
UNTIL: Final = 2
BROWSER: Final = 3


class Expiry(NamedTuple):
    """``value`` is milliseconds of lifetime (``SECONDS``) or epoch milliseconds (``UNTIL``)."""

    kind: int
    value: int


_DEFAULT_EXPIRY: Final = Expiry(DEFAULT, 0)


class Header(NamedTuple):
    """What is known of a session besides its data; ``renewed`` is epoch milliseconds.

    ``nonce`` is new with each write, so that a lost commit can be told from a failed one; ``owner``
    is a hash of the user the data belongs to, ``NO_OWNER`` for none.
    """

    nonce: bytes
    handle: bytes
    owner: bytes
    renewed: int
    expiry: Expiry

    def __repr__(self) -> str:
        return f"Header(renewed={self.renewed}, expiry={self.expiry!r})"


@dataclass(slots=True)
class Record:
    """A record that has been read: ``payload`` is plain, for the codec's ``decode``."""

    header: Header
    payload: bytes = field(repr=False)
    rich: bool


def read_header(raw: bytes) -> Header:
    """The header alone, which is not authenticated yet if the record is sealed.

    Raises ``CorruptRecord`` if the record is too short or of an unknown format.
    """
    if len(raw) < HEADER_BYTES:
        raise CorruptRecord("a record is too short")
    form, flags, nonce, handle, owner, renewed, kind, value = _unpack(raw)
    if form != _FORMAT or flags > _ALL_FLAGS or kind > BROWSER:
        raise CorruptRecord("a record has an unknown format")
    expiry = Expiry(kind, value) if kind or value else _DEFAULT_EXPIRY
    return make(Header, (nonce, handle, owner, renewed, expiry))


def read_nonce(raw: bytes) -> bytes:
    """The write nonce alone; raises ``CorruptRecord`` like ``read_header``."""
    return read_header(raw).nonce


def handle_of(raw: bytes) -> str | None:
    """The session's public name; None for a record of a format that we can't read."""
    try:
        return read_header(raw).handle.hex()
    except CorruptRecord:
        return None


class RecordFormat:
    """Writes and reads records in one setting of codec and encryption, and refuses any other.

    A plain record under encryption is refused too: a failure never falls back to plain.
    """

    __slots__ = ("_cipher", "_flags")

    def __init__(self, codec: Codec, cipher: Cipher | None) -> None:
        self._cipher = cipher
        self._flags = (_CUSTOM if codec.custom else 0) | (0 if cipher is None else _SEALED)

    def write(self, header: Header, payload: bytes, rich: bool, *, sid_hash: bytes) -> bytes:
        """The record of a payload that the codec made, sealed for the row ``sid_hash``.

        Raises ``ValueError`` if it could not be read back: a field of the wrong length, an unknown
        kind of expiry, or rich JSON from a custom serializer.
        """
        # struct would cut or pad them without a word.
        lengths = len(header.nonce), len(header.handle), len(header.owner)
        if lengths != (NONCE_BYTES, HANDLE_BYTES, OWNER_BYTES):
            raise ValueError("nonce, handle or owner has the wrong length")
        if not 0 <= header.expiry.kind <= BROWSER or (rich and self._flags & _CUSTOM):
            raise ValueError("unknown kind of expiry, or rich JSON from a custom serializer")
        return self.pack(*header, payload, rich, sid_hash)

    def pack(
        self,
        nonce: bytes,
        handle: bytes,
        owner: bytes,
        renewed: int,
        expiry: Expiry,
        payload: bytes,
        rich: bool,
        sid_hash: bytes,
    ) -> bytes:
        """As ``write``, unchecked: for fields that were read from a record or made here."""
        flags = self._flags | _RICH if rich else self._flags
        kind, value = expiry
        head = _pack(_FORMAT, flags, nonce, handle, owner, renewed, kind, value)
        if self._cipher is None:
            return head + payload
        return head + self._cipher.seal(payload, sid_hash=sid_hash, aad=head)

    def reread(self, raw: bytes, *, sid_hash: bytes) -> tuple[bytes, bool]:
        """The plain payload, and whether it is rich, of a record that ``read`` has read before."""
        if self._cipher is None:
            return raw[HEADER_BYTES:], raw[1] & _RICH != 0
        record = self.read(raw, sid_hash=sid_hash)
        return record.payload, record.rich

    def read(self, raw: bytes, *, sid_hash: bytes) -> Record:
        """Header and plain payload; raises ``CorruptRecord``, whatever is wrong with it."""
        header = read_header(raw)
        flags = raw[1]
        rich = flags & _RICH
        if flags - rich != self._flags or (rich and flags & _CUSTOM):
            raise CorruptRecord("a record was written with other serializer or encryption settings")
        payload = raw[HEADER_BYTES:]
        if self._cipher is not None:
            aad = raw[:HEADER_BYTES]
            payload = self._cipher.open(payload, sid_hash=sid_hash, aad=aad)
        return Record(header, payload, bool(rich))
