"""What processes tell each other over a channel of messages, as short ASCII texts.

A text holds prefixes of hashes, nothing that leads to an ID. Whoever can send on the channel can
only cause questions to the database, or keep silent: what is not understood is ignored.
"""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from enum import Enum
from hashlib import sha256
from typing import Final, NamedTuple

PREFIX_BYTES: Final = 8
MOST_PREFIXES: Final = 600
"""Per message: PostgreSQL takes payloads of under 8,000 bytes."""
_MOST_CHARACTERS: Final = 8_000
_LONGEST_NAME: Final = 32
_VERSION: Final = "sw1"


class Kind(Enum):
    """What a message says: nothing but that it came, rows changed, or any row may have changed."""

    BEAT = "b"
    CHANGED = "c"
    ALL = "a"


class Message(NamedTuple):
    """``sequence`` counts the messages of one sender from 1, without gaps. ``nonce`` can't be known
    before the message is sent, so that nobody else can be the first to send it.
    """

    sender: str
    sequence: int
    kind: Kind
    prefixes: tuple[bytes, ...] = ()
    nonce: str = "0"

    def __str__(self) -> str:
        packed = b64encode(b"".join(self.prefixes)).decode("ascii")
        return f"{_VERSION}.{self.sender}.{self.sequence}.{self.nonce}.{self.kind.value}.{packed}"


ONCE: Final = "once"
"""The sender of a message that stands alone: its sequence says nothing."""


def channel_key(table_name: str) -> str:
    """What stands for a table in its channel's name, the same however the table is spelled: with
    its schema or without, in whatever case. Two tables that share a channel cost each other
    questions, no more.
    """
    name = table_name.rpartition(".")[2].casefold()
    return sha256(name.encode()).hexdigest()[:16]


def new_sender() -> str:
    """A name for this process's end of a channel."""
    return secrets.token_hex(8)


def new_nonce() -> str:
    """For a message that is about to be sent."""
    return secrets.token_hex(4)


def parse(text: str) -> Message | None:
    """The message, or None for what is none of ours."""
    parts = text.split(".") if len(text) < _MOST_CHARACTERS and text.isascii() else []
    if len(parts) != 6 or parts[0] != _VERSION or not (_is_name(parts[1]) and _is_name(parts[3])):
        return None
    try:
        packed = b64decode(parts[5], validate=True)
        kind = Kind(parts[4])
        sequence = int(parts[2]) if len(parts[2]) < 19 else 0
    except ValueError:
        return None
    if sequence < 1 or len(packed) % PREFIX_BYTES or len(packed) > PREFIX_BYTES * MOST_PREFIXES:
        return None
    prefixes = [packed[at : at + PREFIX_BYTES] for at in range(0, len(packed), PREFIX_BYTES)]
    return Message(parts[1], sequence, kind, tuple(prefixes), parts[3])


def _is_name(text: str) -> bool:
    return text.isalnum() and len(text) <= _LONGEST_NAME


def batches(prefixes: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """As many prefixes as one message takes, again and again."""
    for start in range(0, len(prefixes), MOST_PREFIXES):
        yield tuple(prefixes[start : start + MOST_PREFIXES])
