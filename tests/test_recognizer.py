"""What is remembered of Cookie headers: only what was verified, and no more than it may take."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware.cookies import CookieReader, Kind, Presented, Recognizer, identify
from sessionware.tokens import Tokens, hash_id, new_id
from tests.apps import SECRET

TOKENS = Tokens(SECRET, ["an older key, just as long as the other one"], "session")
OLDER = Tokens("an older key, just as long as the other one", [], "session")
READER = CookieReader("session")
MIB = 1 << 20


class Checked(Tokens):
    """Counts how often a signature is checked."""

    __slots__ = ("checks",)

    def __init__(self) -> None:
        super().__init__(SECRET, ["an older key, just as long as the other one"], "session")
        self.checks = 0

    def examine(self, token: bytes) -> tuple[str, bool] | None:
        self.checks += 1
        return super().examine(token)


class Asked:
    """A recognizer with what it reported and how often it checked a signature."""

    def __init__(self, cache_max_bytes: int = 64 * MIB) -> None:
        self.reported: list[Kind] = []
        self.tokens = Checked()
        self.recognizer = Recognizer(READER, self.tokens, cache_max_bytes, self.report)

    def report(self, presented: Presented) -> Presented:
        self.reported.append(presented.kind)
        return presented

    def __call__(self, *fields: bytes, name: bytes = b"cookie") -> Presented:
        return self.recognizer.recognize([(b"accept", b"*/*"), *((name, each) for each in fields)])

    def checks(self, *fields: bytes) -> int:
        before = self.tokens.checks
        self(*fields)
        return self.tokens.checks - before


def cookie(tokens: Tokens = TOKENS) -> bytes:
    return f"session={tokens.sign(new_id())}".encode()


@pytest.mark.parametrize("around", [b"%b", b"a=1; %b", b"%b; b=2", b"a=\xff;%b;c"])
def test_a_valid_header_is_checked_once_and_found_to_be_the_same_each_time(around: bytes) -> None:
    ask, header = Asked(), around % cookie()
    first = ask(header)
    assert first == identify(READER.values([header]), TOKENS)
    assert first.kind is Kind.VALID
    assert [ask(bytes(bytearray(header))) for _ in range(3)] == [first] * 3
    assert ask.tokens.checks == 1
    assert set(ask.reported) == {Kind.VALID}


def test_a_header_signed_with_an_older_key_stays_one() -> None:
    ask, header = Asked(), cookie(OLDER)
    assert [ask(header).current for _ in range(3)] == [False] * 3


def test_nothing_is_read_from_no_header_and_nobody_is_told() -> None:
    ask = Asked()
    assert ask().kind is Kind.NONE
    assert ask.reported == []
    assert ask(b"other=1").kind is Kind.NONE


@pytest.mark.parametrize("name", [b"Cookie", b"COOKIE", b"cOOkIE"])
def test_the_name_of_the_field_may_be_in_any_case(name: bytes) -> None:
    assert Asked()(cookie(), name=name).kind is Kind.VALID


@pytest.mark.parametrize("place", range(8, 95, 3))
def test_what_is_nearly_a_known_header_is_none(place: int) -> None:
    ask, header = Asked(), cookie()
    ask(header)
    other = b"A" if header[place : place + 1] != b"A" else b"B"
    forged = header[:place] + other + header[place + 1 :]
    assert [ask(forged).kind for _ in range(3)] == [Kind.BAD] * 3
    assert ask.reported.count(Kind.BAD) == 3, "each is reported"


@given(st.lists(st.sampled_from([b"session=x", b"a=b", cookie(), cookie()]), max_size=4))
def test_several_fields_are_read_as_identify_does(fields: list[bytes]) -> None:
    ask = Asked()
    assert [ask(*fields) for _ in range(2)] == [identify(READER.values(fields), TOKENS)] * 2


def test_two_sessions_in_one_header_are_ambiguous_each_time() -> None:
    ask = Asked()
    header = cookie() + b"; " + cookie()
    assert [ask(header).kind for _ in range(2)] == [Kind.DUPLICATE] * 2
    assert ask.checks(header) == 2


def test_a_long_header_is_not_kept() -> None:
    ask, header = Asked(), cookie()
    kept = b"x" * (512 - len(header) - 1) + b";" + header
    assert (ask.checks(kept), ask.checks(kept)) == (1, 0)
    longer = b"x" + kept
    assert (ask.checks(longer), ask.checks(longer)) == (1, 1)


@pytest.mark.parametrize("cache_max_bytes", [0, 1000, 10_000])
def test_without_room_nothing_is_kept(cache_max_bytes: int) -> None:
    ask, header = Asked(cache_max_bytes), cookie()
    assert (ask.checks(header), ask.checks(header)) == (1, 1)


def test_the_value_of_a_cookie_is_checked_once_too() -> None:
    ask, value = Asked(), TOKENS.sign(new_id())
    found = [ask.recognizer.recognize_value(value) for _ in range(3)]
    assert found == [identify([value.encode()], TOKENS)] * 3
    assert ask.tokens.checks == 1


@pytest.mark.parametrize("value", ["", "x", "é" * 87, "x" * 1000])
def test_a_value_that_does_not_verify_is_reported_each_time(value: str) -> None:
    ask = Asked()
    assert [ask.recognizer.recognize_value(value).kind for _ in range(2)] == [Kind.BAD] * 2
    assert ask.reported == [Kind.BAD] * 2


def test_a_value_that_is_known_is_no_header_that_is() -> None:
    """A header of nothing but a token has no name, and so is not our cookie."""
    ask, value = Asked(), TOKENS.sign(new_id())
    assert ask.recognizer.recognize_value(value).kind is Kind.VALID
    assert ask(value.encode()).kind is Kind.NONE


def test_what_is_forgotten_is_checked_again() -> None:
    ask, header = Asked(MIB), cookie()
    assert ask.checks(header) == 1
    for _ in range(200):
        ask(cookie())
    assert (ask.checks(header), ask.checks(header)) == (1, 0)


def long_cookies() -> Iterable[bytes]:
    for number in range(12_000):
        header = cookie()
        yield header if number % 2 else header + b"; " + b"x" * (510 - len(header))


@pytest.mark.parametrize("mebibytes", [8, 64])
def test_it_takes_no_more_than_a_thirty_second_of_the_cache(mebibytes: int) -> None:
    ask = Asked(mebibytes * MIB)
    ask.reported = []
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    most = 0
    for number, header in enumerate(long_cookies()):
        ask(header)
        if number % 100 == 0:
            ask.reported.clear()
            most = max(most, tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert MIB // 8 < most <= mebibytes * MIB / 32 * 1.05


def test_what_it_keeps_shows_no_id() -> None:
    id = new_id()
    presented = Asked()(f"session={TOKENS.sign(id)}".encode())
    assert (presented.id, presented.sid_hash) == (id, hash_id(id))
    assert id not in repr(presented)
