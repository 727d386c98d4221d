from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import MutableHeaders

from sessionware import headers
from tests.services import AS_STARLETTE_DOES

Lines = list[tuple[str, str]]
Rule = Callable[[Lines], Lines]


def through_asgi(
    rule: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]],
) -> Rule:
    def apply(lines: Lines) -> Lines:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines]
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in rule(raw)]

    return apply


VARY: dict[str, Rule] = {
    "asgi": through_asgi(headers.add_vary_cookie),
    "wsgi": headers.add_vary_cookie_wsgi,
}
NO_STORE: dict[str, Rule] = {
    "asgi": through_asgi(headers.ensure_no_store),
    "wsgi": headers.ensure_no_store_wsgi,
}
CANONICAL = {
    "asgi": {"vary": "vary", "cache-control": "cache-control"},
    "wsgi": {"vary": "Vary", "cache-control": "Cache-Control"},
}

interfaces = pytest.mark.parametrize("interface", ["asgi", "wsgi"])
rules = pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rules[interface], id=f"{name}-{interface}")
        for name, rules in {"vary": VARY, "no-store": NO_STORE}.items()
        for interface in rules
    ],
)


def values_of(name: str, lines: Lines) -> list[str]:
    return [value for key, value in lines if key.lower() == name]


def members_of(name: str, lines: Lines) -> list[str]:
    joined = ",".join(values_of(name, lines))
    return [part.strip().lower() for part in joined.split(",") if part.strip()]


@interfaces
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["Cookie"]),
        ([""], ["Cookie"]),
        ([" , ,"], ["Cookie"]),
        (["Accept-Encoding"], ["Accept-Encoding, Cookie"]),
        (["Accept,  Origin"], ["Accept, Origin, Cookie"]),
        (["Accept", "Origin"], ["Accept, Origin, Cookie"]),
        (["X-Cookie"], ["X-Cookie, Cookie"]),
        (["Set-Cookie"], ["Set-Cookie, Cookie"]),
        (["Cookie"], ["Cookie"]),
        (["cookie"], ["cookie"]),
        (["Accept,COOKIE ,Origin"], ["Accept,COOKIE ,Origin"]),
        (["Accept", "Cookie"], ["Accept", "Cookie"]),
        (["*"], ["*"]),
        ([" * "], [" * "]),
        (["Accept", "*"], ["Accept", "*"]),
    ],
)
@pytest.mark.parametrize("spelling", ["vary", "Vary", "VARY"])
def test_cookie_joins_what_the_response_varies_on(
    interface: str, spelling: str, before: list[str], after: list[str]
) -> None:
    lines = [("X-First", "1"), *((spelling, value) for value in before), ("X-Last", "2")]
    result = VARY[interface](lines)
    assert values_of("vary", result) == after
    assert [line for line in result if line[0].lower() != "vary"] == [lines[0], lines[-1]]


@interfaces
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["no-store"]),
        ([""], ["no-store"]),
        (["private"], ["no-store"]),
        (["public, max-age=600"], ["no-store"]),
        (["no-cache", "s-maxage=60"], ["no-store"]),
        (["no-storex"], ["no-store"]),
        (["x-no-store"], ["no-store"]),
        (["no-store=1"], ["no-store"]),
        (['private="a, no-store"'], ["no-store"]),
        (['private="a, no-store, b'], ["no-store"]),
        (['private="\\", no-store, \\""'], ["no-store"]),
        (["no-store"], ["no-store"]),
        (["NO-STORE"], ["NO-STORE"]),
        (["no-cache,no-store ,must-revalidate"], ["no-cache,no-store ,must-revalidate"]),
        (["max-age=0", "no-store"], ["max-age=0", "no-store"]),
        (['private="a, b", no-store'], ['private="a, b", no-store']),
    ],
)
@pytest.mark.parametrize("spelling", ["cache-control", "Cache-Control", "CACHE-CONTROL"])
def test_only_a_weaker_cache_control_is_replaced(
    interface: str, spelling: str, before: list[str], after: list[str]
) -> None:
    lines = [("X-First", "1"), *((spelling, value) for value in before), ("X-Last", "2")]
    result = NO_STORE[interface](lines)
    assert values_of("cache-control", result) == after
    assert [line for line in result if line[0].lower() != "cache-control"] == [lines[0], lines[-1]]


@interfaces
def test_a_header_that_is_replaced_stays_in_its_place(interface: str) -> None:
    lines = [("A", "1"), ("Vary", "x"), ("B", "2"), ("vary", "y"), ("C", "3")]
    vary = (CANONICAL[interface]["vary"], "x, y, Cookie")
    assert VARY[interface](lines) == [("A", "1"), vary, ("B", "2"), ("C", "3")]


@interfaces
def test_a_header_that_is_new_comes_last_in_the_usual_spelling(interface: str) -> None:
    names = CANONICAL[interface]
    assert VARY[interface]([("A", "1")]) == [("A", "1"), (names["vary"], "Cookie")]
    assert NO_STORE[interface]([("A", "1")])[1] == (names["cache-control"], "no-store")


@rules
@pytest.mark.parametrize(
    "lines",
    [[], [("vary", "a"), ("vary", "b")], [("vary", "Cookie"), ("cache-control", "no-store")]],
    ids=["none", "two", "nothing to do"],
)
def test_the_application_s_own_list_is_never_changed(rule: Rule, lines: Lines) -> None:
    before = list(lines)
    rule(lines).append(("set-cookie", "a=1"))
    assert lines == before


def test_the_application_s_own_list_is_not_handed_back_either() -> None:
    raw = [(b"vary", b"Cookie"), (b"cache-control", b"no-store")]
    text = [("Vary", "Cookie"), ("Cache-Control", "no-store")]
    assert headers.add_vary_cookie(raw) is not raw
    assert headers.ensure_no_store(raw) is not raw
    assert headers.add_vary_cookie_wsgi(text) is not text
    assert headers.ensure_no_store_wsgi(text) is not text


any_lines = st.lists(
    st.tuples(
        st.sampled_from(["vary", "Vary", "cache-control", "Cache-Control", "x-vary", "set-cookie"]),
        st.text(st.characters(max_codepoint=255), max_size=12)
        | st.sampled_from(["Cookie", "*", "no-store", "Accept, cookie", "private, max-age=1"]),
    ),
    max_size=6,
)


@rules
@given(lines=any_lines)
def test_a_rule_applied_twice_changes_nothing_more(rule: Rule, lines: Lines) -> None:
    once = rule(lines)
    assert rule(once) == once


@interfaces
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(["vary", "x-other"]),
            st.sampled_from(["Accept", "Origin, Accept", "cookie", "", "X-A ,X-B"]),
        ),
        max_size=5,
    )
)
@AS_STARLETTE_DOES
def test_the_vary_members_are_starlette_s_without_the_duplicates(
    interface: str, lines: Lines
) -> None:
    starlette = MutableHeaders(raw=[(name.encode(), value.encode()) for name, value in lines])
    starlette.add_vary_header("Cookie")
    ours = VARY[interface](lines)
    assert set(members_of("vary", ours)) == set(members_of("vary", list(starlette.items())))
    if "cookie" not in members_of("vary", lines):
        assert len(values_of("vary", ours)) == len(starlette.getlist("vary")) == 1
