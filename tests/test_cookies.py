from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware.sessions import SessionMiddleware

from sessionware.cookies import (
    MAX_VALUES,
    SCAN_LIMIT,
    CookieReader,
    CookieWriter,
    Kind,
    Presented,
    Recognizer,
    identify,
)
from sessionware.tokens import Tokens, hash_id, new_id
from tests.hostile_cookies import HOSTILE, HostileCookie, ingredients
from tests.services import AS_STARLETTE_DOES

SECRET = "a secret of more than thirty-two bytes"
OLD = "the secret before it, which was as long"

TOKENS = Tokens(SECRET, [OLD], "session")
READER = CookieReader("session")
WAYS_IN = Recognizer(READER, TOKENS, 0, lambda presented: presented)
VALID, OTHER = TOKENS.sign(new_id()), TOKENS.sign(new_id())
VALID_ID, OTHER_ID = VALID[:43], OTHER[:43]

hostile = pytest.mark.parametrize("case", HOSTILE, ids=[case.label for case in HOSTILE])


def of_fields(fields: Sequence[bytes], tokens: Tokens = TOKENS) -> Presented:
    return identify(READER.values(fields), tokens)


def slow_values(name: bytes, fields: Sequence[bytes]) -> list[bytes] | None:
    """The rules once more, in the order in which they are written down."""
    if len(b"".join(fields)) > SCAN_LIMIT:
        return None
    values = []
    for field in fields:
        for pair in field.split(b";"):
            if b"=" not in pair:
                continue
            key, value = pair.split(b"=", 1)
            if trimmed(key) == name:
                values.append(trimmed(value))
    return values[: MAX_VALUES + 1]


def trimmed(text: bytes) -> bytes:
    while text[:1] in (b" ", b"\t") and text:
        text = text[1:]
    while text[-1:] in (b" ", b"\t") and text:
        text = text[:-1]
    return text


def slow_identify(values: list[bytes] | None) -> tuple[str, str | None]:
    if values is None:
        return "bad", None
    if len(values) > MAX_VALUES:
        return "duplicate", None
    ids = {TOKENS.verify(value) for value in values} - {None}
    if len(ids) > 1:
        return "duplicate", None
    if ids:
        return "valid", ids.pop()
    return ("bad" if values else "none"), None


@hostile
@pytest.mark.parametrize("name", ["session", "__Host-session", "s"])
def test_a_hostile_header_gets_one_verdict_by_every_way_in(case: HostileCookie, name: str) -> None:
    tokens = Tokens(SECRET, [OLD], name)
    valid, other = tokens.sign(new_id()), tokens.sign(new_id())
    given_to = ingredients(SECRET, name, valid, other)
    reader = CookieReader(name)
    fields = case.filled(given_to)
    header = case.header(given_to)
    ways_in = Recognizer(reader, tokens, 0, lambda presented: presented)
    for presented in (
        identify(reader.values(fields), tokens),
        identify(reader.values([header]), tokens),
        ways_in.recognize([(b"host", b"x"), (b"cookie", header)]),
        ways_in.recognize([(b"cookie", field) for field in fields]),
        ways_in.recognize_environ({"HTTP_COOKIE": header.decode("latin-1")}),
    ):
        assert presented.kind is Kind(case.kind)
        assert presented.id == (valid[:43] if case.kind == "valid" else None)


def test_the_labels_of_the_hostile_headers_are_unique() -> None:
    assert len({case.label for case in HOSTILE}) == len(HOSTILE)


pieces = st.one_of(
    st.sampled_from([b";", b"=", b" ", b"\t", b"; ", b"session", b"session=", b"session=; "]),
    st.sampled_from([VALID.encode(), OTHER.encode(), b"junk", b'"', b"\\", b",", b"\0", b"\xa0"]),
    st.sampled_from([f"; session={VALID}".encode(), f"session={OTHER};".encode(), b"Session="]),
    st.binary(max_size=4),
)
field = st.lists(pieces, max_size=24).map(b"".join)


@given(st.lists(field, max_size=4))
def test_the_reader_agrees_with_the_rules_read_slowly(fields: list[bytes]) -> None:
    values = READER.values(fields)
    assert values == slow_values(b"session", fields)
    presented = identify(values, TOKENS)
    assert (presented.kind.value, presented.id) == slow_identify(values)


@given(st.lists(st.binary()), st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", fullmatch=True))
def test_no_bytes_make_the_reader_raise(fields: list[bytes], name: str) -> None:
    assert CookieReader(name).values(fields) == slow_values(name.encode(), fields)


@given(st.lists(field, min_size=1, max_size=4))
def test_fields_mean_what_they_mean_when_joined(fields: list[bytes]) -> None:
    assert READER.values(fields) == READER.values([b"; ".join(fields)])


@given(st.text())
def test_no_text_in_an_environ_makes_the_reader_raise_or_accept(text: str) -> None:
    assert WAYS_IN.recognize_environ({"HTTP_COOKIE": f"session={text}"}).id is None
    assert WAYS_IN.recognize_value(text).id is None


@given(
    st.permutations(
        [VALID.encode(), VALID.encode(), f"{VALID}=".encode(), b"", b"null", OTHER.encode()]
    ).flatmap(lambda values: st.tuples(st.just(values), st.integers(0, len(values))))
)
def test_the_order_of_the_values_never_matters(drawn: tuple[list[bytes], int]) -> None:
    values, length = drawn
    expected = identify(values[:length], TOKENS)
    for order in itertools.islice(itertools.permutations(values[:length]), 0, 720, 7):
        assert identify(order, TOKENS) == expected


@pytest.mark.parametrize(
    ("signers", "current"),
    [
        ([SECRET], True),
        ([OLD], False),
        ([OLD, SECRET], True),
        ([SECRET, OLD], True),
        ([OLD, OLD], False),
    ],
)
def test_one_id_under_two_keys_is_one_session(signers: list[str], current: bool) -> None:
    id = new_id()
    values = [Tokens(secret, [], "session").sign(id).encode() for secret in signers]
    assert identify(values, TOKENS) == Presented(Kind.VALID, id, current, hash_id(id))


def test_no_more_than_eight_signatures_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []

    def count(_: Tokens, token: bytes) -> None:
        checked.append(token)

    monkeypatch.setattr(Tokens, "examine", count)
    for many in (MAX_VALUES, MAX_VALUES + 1, 5_000):
        values = READER.values([b"session=a;" * many])
        assert values == [b"a"] * min(many, MAX_VALUES + 1)
        identify(values, TOKENS)
    assert len(checked) == MAX_VALUES


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_the_scan_limit_counts_all_fields_together(count: int, over: int) -> None:
    ours = f"session={VALID}".encode()
    share, rest = divmod(SCAN_LIMIT + over - len(ours), count)
    fields = [*(b"x" * share for _ in range(count)), b"x" * rest, ours]
    assert of_fields(fields).id == (None if over else VALID_ID)


@pytest.mark.parametrize("key", [b"cookie", b"Cookie", b"COOKIE", b"cOOkIE"])
def test_asgi_header_names_may_come_in_any_case(key: bytes) -> None:
    headers = [(b"accept", b"*/*"), (key, f"session={VALID}".encode())]
    assert WAYS_IN.recognize(headers).id == VALID_ID


@pytest.mark.parametrize(
    "key", [b"cookie2", b"set-cookie", b"cookies", b"x-cookie", b"host", b"cookie ", b""]
)
def test_no_other_asgi_header_is_read(key: bytes) -> None:
    assert WAYS_IN.recognize([(key, f"session={VALID}".encode())]).kind is Kind.NONE


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HTTP_COOKIE": ""},
        {"QUERY_STRING": f"session={VALID}", "HTTP_SESSION": VALID, "HTTP_COOKIE2": VALID},
    ],
)
def test_no_other_wsgi_variable_is_read(environ: dict[str, Any]) -> None:
    assert WAYS_IN.recognize_environ(environ).kind is Kind.NONE


def test_what_was_presented_never_shows_the_id() -> None:
    presented = of_fields([f"session={VALID}".encode()])
    assert presented.id == VALID_ID
    assert VALID_ID not in f"{presented} {presented!r} {presented!s} {[presented]}"


@pytest.mark.parametrize(
    "unit",
    [
        b";",
        b"=",
        b" ",
        b'\\"',
        b"\\054",
        b"a=1; ",
        b"session",
        b"session;",
        b"; session ",
        b"xsession=;",
        b"session\t \t",
        b"\tsession=\t",
    ],
)
def test_the_time_to_read_grows_no_faster_than_the_header(unit: bytes) -> None:
    def seconds(size: int) -> float:
        header = [(unit * size)[:size]]
        best = float("inf")
        for _ in range(7):
            start = time.perf_counter()
            READER.values(header)
            best = min(best, time.perf_counter() - start)
        return best

    small = max(seconds(4_096), 1e-6)
    # Linear is 8 and 16 times, quadratic 64 and 256.
    assert seconds(32_768) < 32 * small
    assert seconds(65_536) < 80 * small


def test_a_header_over_the_scan_limit_is_not_looked_at() -> None:
    class Unread(bytes):
        def find(self, *_: Any) -> int:
            raise AssertionError("the header was searched")

    assert READER.values([Unread(SCAN_LIMIT + 1)]) is None
    with pytest.raises(AssertionError):
        READER.values([Unread(SCAN_LIMIT)])


async def starlette_cookies(**settings: Any) -> list[str]:
    """Return the Set-Cookie values with which Starlette stores a session and then ends it."""
    sent: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["session"]:
            scope["session"].clear()
        else:
            scope["session"]["a"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        headers = dict(message["headers"])
        sent.append(headers[b"set-cookie"].decode())

    async def receive() -> Any:
        raise AssertionError("nothing reads the body")

    middleware = SessionMiddleware(app, SECRET, **settings)
    await middleware({"type": "http", "headers": []}, receive, send)
    cookie = sent[0].partition(";")[0].encode()
    await middleware({"type": "http", "headers": [(b"cookie", cookie)]}, receive, send)
    return sent


@AS_STARLETTE_DOES
@pytest.mark.parametrize("max_age", [None, 60, 1_209_600])
@pytest.mark.parametrize("path", ["/", "/app"])
@pytest.mark.parametrize("domain", [None, "example.com"])
@pytest.mark.parametrize("https_only", [False, True])
@pytest.mark.parametrize("same_site", ["lax", "strict", "none"])
@pytest.mark.parametrize("partitioned", [False, True])
def test_set_cookie_is_spelled_as_starlette_spells_it(
    max_age: int | None,
    path: str,
    domain: str | None,
    https_only: bool,
    same_site: str,
    partitioned: bool,
) -> None:
    settings: dict[str, Any] = {
        "path": path,
        "domain": domain,
        "https_only": https_only,
        "same_site": same_site,
        "partitioned": partitioned,
    }
    stored, ended = asyncio.run(
        starlette_cookies(session_cookie="__Host-id", max_age=max_age, **settings)
    )
    value = stored.removeprefix("__Host-id=").partition(";")[0]
    writer = CookieWriter("__Host-id", **settings)
    assert writer.set(value, max_age) == stored
    assert writer.expire() == ended


def test_the_usual_cookie_reads_as_documented() -> None:
    writer = CookieWriter("session")
    assert writer.set("TOKEN", 1_209_600) == (
        "session=TOKEN; path=/; Max-Age=1209600; httponly; samesite=lax"
    )
    assert writer.set("TOKEN", 0) == "session=TOKEN; path=/; Max-Age=0; httponly; samesite=lax"
    assert writer.expire() == (
        "session=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; httponly; samesite=lax"
    )


def test_a_cookie_that_was_written_is_read_back() -> None:
    written = CookieWriter("session").set(VALID, None)
    assert of_fields([written.encode()]) == Presented(Kind.VALID, VALID_ID, True, hash_id(VALID_ID))
    assert of_fields([CookieWriter("session").expire().encode()]).kind is Kind.BAD
