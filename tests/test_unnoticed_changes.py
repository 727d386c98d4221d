"""No change is missed, however the application came by what it changed.

The comparison of what a session holds with what was loaded is lighter where nothing was handed out
that can be changed. The oracle here compares always, and to the last type.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from sessionware import Session
from sessionware.states import SessionState, state_of
from tests.apps import Managers

MANAGER = Managers()(store="sqlite://", coherence="bounded")

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(0, 2), st.just(1.0), st.sampled_from(["", "a", "1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    ),
    max_leaves=6,
)
KEYS = st.sampled_from("abcd")
CONTENT = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)


def loaded(content: dict[str, Any]) -> tuple[Session, SessionState]:
    """A session as a warm request has it: stored, cached, decoded before."""
    session = MANAGER.open(None)
    session.update(copy.deepcopy(content))
    (_, _, (_, cookie)) = MANAGER.close(session)
    presented = MANAGER.identify(MANAGER.cookies.values([cookie.partition(";")[0].encode()]))
    # Decoded once, for the next one to be left undecoded.
    MANAGER.load_now(presented)
    found = MANAGER.load_now(presented, folded=True)
    assert found is not None
    state = state_of(found)
    assert state.folded is not None
    return found, state


def containers(value: Any) -> list[Any]:
    """The value and whatever in it can be changed."""
    if type(value) is dict:
        return [value, *(each for inner in value.values() for each in containers(inner))]
    if type(value) in (list, tuple):
        found = [each for inner in value for each in containers(inner)]
        return [value, *found] if type(value) is list else found
    return []


def the_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(the_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(the_same, one, other))
    return bool(one == other)


# Each gives what it got hold of.
READS: dict[str, Callable[[Session, str], Any]] = {
    "[]": lambda session, key: session[key] if key in session else None,  # noqa: SIM401
    "get": lambda session, key: session.get(key),
    "get with a default": lambda session, key: session.get(key, []),
    "values": lambda session, key: list(session.values()),
    "items": lambda session, key: [value for _, value in session.items()],
    "keys": lambda session, key: [session[each] for each in session.keys()],  # noqa: SIM118
    "iter": lambda session, key: [session[each] for each in session],
    "copy": lambda session, key: session.copy(),
    "copy.copy": lambda session, key: copy.copy(session),
    "deepcopy": lambda session, key: copy.deepcopy(session),
    "dict()": lambda session, key: dict(session),
    "{**s}": lambda session, key: {**session},
    "s | d": lambda session, key: session | {},
    "d | s": lambda session, key: {} | session,
    "d.update": lambda session, key: updated(session),
    "f(**s)": lambda session, key: (lambda **content: content)(**session),
    "map": lambda session, key: list(map(session.get, "abcd")),
    "match": lambda session, key: matched(session),
    "setdefault": lambda session, key: session.setdefault(key, []),
    "pickle": lambda session, key: pickle.loads(pickle.dumps(session)),
    "json": lambda session, key: json.loads(json.dumps(session)),
    "len, bool, in": lambda session, key: (len(session), bool(session), key in session),
    "==": lambda session, key: session == {key: Keeper()},
}


class Keeper:
    """Keeps what it is compared with."""

    kept: Any = None

    def __eq__(self, other: object) -> bool:
        HELD.append(other)
        return True

    __hash__ = None  # type: ignore[assignment]


HELD: list[Any] = []


def updated(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = {}
    found.update(session)
    return found


def matched(session: Session) -> Any:
    match session:
        case {"a": one, **rest}:
            return one, rest
        case {"b": one}:
            return one
    return None


def alter(container: Any, how: int) -> None:
    """Change a dict or a list in place, one time in two in its type only."""
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    if how % 2 and keys:
        key = keys[how % len(keys)]
        value = container[key]
        swaps = {list: tuple, bool: int, int: float, float: int, str: bytes_of}
        container[key] = swaps.get(type(value), str)(value)  # type: ignore[operator]
    elif isinstance(container, dict):
        container["new"] = how
    elif how % 3 or not container:
        container.append(how)
    else:
        container.pop()


def bytes_of(text: str) -> bytes:
    return text.encode()


STEPS = st.one_of(
    st.tuples(st.just("read"), st.sampled_from(sorted(READS)), KEYS),
    st.tuples(st.just("alter"), st.integers(0, 50), st.integers(0, 11)),
    st.tuples(st.just("set"), KEYS, VALUES),
    st.tuples(st.just("mark"), st.none(), st.none()),
)


@settings(max_examples=1_000, deadline=None)
@given(content=CONTENT, steps=st.lists(STEPS, min_size=1, max_size=8))
def test_what_looks_untouched_is_untouched(
    content: dict[str, Any], steps: list[tuple[str, Any, Any]]
) -> None:
    session, state = loaded(content)
    HELD.clear()
    for kind, one, other in steps:
        if kind == "read":
            HELD.append(READS[one](session, other))
        elif kind == "set":
            session[one] = other
            HELD.append(other)
        elif kind == "mark":
            session.mark_accessed()
        else:
            changeable = [each for held in HELD for each in containers(held)]
            if changeable:
                alter(changeable[one % len(changeable)], other)

    before = session.accessed
    untouched = MANAGER.endings.is_as_loaded(state, session)
    if untouched and before:
        assert the_same(dict(dict.items(session)), content)
    assert not untouched or not session.has_intents


@settings(max_examples=300, deadline=None)
@given(content=CONTENT, ways=st.lists(st.tuples(st.sampled_from(sorted(READS)), KEYS), max_size=5))
def test_what_was_only_read_looks_untouched(
    content: dict[str, Any], ways: list[tuple[str, str]]
) -> None:
    session, state = loaded(content)
    for way, key in ways:
        if way != "setdefault" or key in content:
            READS[way](session, key)
    assert MANAGER.endings.is_as_loaded(state, session)


@settings(max_examples=300, deadline=None)
@given(content=CONTENT, way=st.sampled_from(sorted(READS)), key=KEYS, where=st.integers(0, 50))
def test_a_change_after_the_response_has_begun_is_seen(
    content: dict[str, Any], way: str, key: str, where: int
) -> None:
    session, state = loaded(content)
    HELD.clear()
    HELD.append(READS[way](session, key) if way != "setdefault" or key in content else None)
    if not MANAGER.is_only_read(session):
        return
    changeable = [each for held in HELD for each in containers(held)]
    if changeable:
        alter(changeable[where % len(changeable)], 2)
    # Folded: nobody has used it.
    if state.folded is None and not the_same(dict(dict.items(session)), content):
        assert session.exposed
        assert not MANAGER.endings.still_holds(state, session)


class Cart(BaseModel):
    a: Any


def through_pydantic(session: Session) -> None:
    Cart.model_validate(session).a.append("more")


def through_dict(session: Session) -> None:
    dict.__getitem__(session, "a").append("more")


@pytest.mark.parametrize("change", [through_pydantic, through_dict])
def test_what_code_takes_from_the_dict_itself_is_compared_too(
    change: Callable[[Session], None],
) -> None:
    session, state = loaded({"a": ["tea"]})
    session.mark_accessed()
    change(session)
    assert not MANAGER.endings.is_as_loaded(state, session)


def test_a_value_that_nobody_can_change_is_no_reason_to_compare_types() -> None:
    session, _ = loaded({"a": "tea", "b": [1]})
    assert (session["a"], session.get("a"), session.get("none"), len(session)) == (
        "tea", "tea", None, 2,
    )  # fmt: skip
    assert not session.exposed
    assert session["b"] == [1]
    assert session.exposed


@pytest.fixture(scope="module", autouse=True)
def close() -> Any:
    yield
    MANAGER.shutdown()
