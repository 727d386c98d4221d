"""Texts on a channel of messages: what is sent comes back whole, what is hostile is ignored."""

from __future__ import annotations

import os
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware.coherence.messages import (
    MOST_PREFIXES,
    ONCE,
    PREFIX_BYTES,
    Kind,
    Message,
    batches,
    channel_key,
    new_nonce,
    new_sender,
    parse,
)

prefixes = st.binary(min_size=PREFIX_BYTES, max_size=PREFIX_BYTES)
messages = st.builds(
    Message,
    sender=st.builds(new_sender) | st.just(ONCE),
    sequence=st.integers(1, 10**18 - 1),
    kind=st.sampled_from(Kind),
    prefixes=st.lists(prefixes, max_size=20).map(tuple),
    nonce=st.builds(new_nonce),
)


@pytest.mark.parametrize("spelling", ["public.sessions", "Sessions", "PUBLIC.SESSIONS"])
def test_one_table_has_one_channel_however_it_is_spelled(spelling: str) -> None:
    assert channel_key(spelling) == channel_key("sessions")


def test_other_tables_have_other_channels() -> None:
    assert channel_key("app.guests") != channel_key("app.sessions")


@given(messages)
def test_a_message_comes_back_as_it_was_said(message: Message) -> None:
    assert parse(str(message)) == message


def test_the_longest_message_fits_into_a_notification_of_postgresql() -> None:
    full = tuple(os.urandom(PREFIX_BYTES) for _ in range(MOST_PREFIXES))
    text = str(Message(new_sender(), 10**18 - 1, Kind.CHANGED, full, new_nonce()))
    assert len(text.encode()) < 8000
    assert parse(text) is not None


def test_a_message_holds_no_more_of_a_hash_than_eight_bytes() -> None:
    assert PREFIX_BYTES == 8


@given(st.text() | st.builds("sw1.{}.{}.{}.{}.{}".format, *[st.text(max_size=30)] * 5))
def test_no_text_makes_the_reader_fail(text: str) -> None:
    message = parse(text)
    assert message is None or (message.sequence > 0 and len(message.prefixes) <= MOST_PREFIXES)


@given(messages, st.integers(0, 200), st.characters())
def test_a_damaged_message_is_ignored_or_still_a_message(
    message: Message, at: int, character: str
) -> None:
    text = str(message)
    at %= len(text)
    found = parse(text[:at] + character + text[at + 1 :])
    assert found is None or all(len(prefix) == PREFIX_BYTES for prefix in found.prefixes)


GOOD = str(Message("a" * 16, 7, Kind.CHANGED, (b"12345678",), "f00"))
HOSTILE = {
    "another version": GOOD.replace("sw1", "sw2"),
    "no sequence": GOOD.replace(".7.", ".."),
    "sequence zero": GOOD.replace(".7.", ".0."),
    "a negative sequence": GOOD.replace(".7.", ".-7."),
    "a huge sequence": GOOD.replace(".7.", "." + "9" * 5000 + "."),
    "an unknown kind": GOOD.replace(".c.", ".x."),
    "half a prefix": GOOD.rpartition(".")[0] + "." + b64encode(b"1234").decode(),
    "no base64": GOOD.rpartition(".")[0] + ".!!!!",
    "too many prefixes": GOOD.rpartition(".")[0]
    + "."
    + b64encode(b"12345678" * (MOST_PREFIXES + 1)).decode(),
    "a long sender": GOOD.replace("a" * 16, "a" * 1000),
    "a sender beyond ASCII": GOOD.replace("a" * 16, "\u00e4" * 16),
    "a long nonce": GOOD.replace("f00", "f" * 1000),
    "a field more": GOOD + ".",
    "nothing": "",
}


def test_the_message_that_the_hostile_ones_are_made_of_is_understood() -> None:
    assert parse(GOOD) is not None


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_message_of_ours_is_ignored(text: str) -> None:
    assert parse(text) is None


@given(st.integers(0, 3 * MOST_PREFIXES + 1))
def test_no_prefix_is_lost_when_many_are_said(count: int) -> None:
    many = [number.to_bytes(PREFIX_BYTES, "big") for number in range(count)]
    parts = list(batches(many))
    assert [prefix for part in parts for prefix in part] == many
    assert all(0 < len(part) <= MOST_PREFIXES for part in parts)
