"""No change is missed, however the application came by what it changed.

The comparison of what a session holds with what was loaded is lighter where nothing was handed out
that can be changed. The oracle here compares always, and to the last type.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from sessionware import Session, clock
from sessionware.codecs import UNTOLD
from sessionware.cookies import Kind, Presented
from sessionware.errors import ResponseAlreadyStarted
from sessionware.records import HEADER_BYTES
from sessionware.states import SessionState, state_of
from sessionware.stores.protocol import Row
from sessionware.tokens import hash_id
from tests.apps import Managers

MANAGER = Managers()(store="sqlite://", coherence="bounded")

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2),
    st.just(1.0),
    st.sampled_from(["", "a", "1"]),
    st.sampled_from([date(2024, 1, 1), (1,), b"a"]),
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


def loaded(
    content: dict[str, Any], *, told: bool = False, folded: bool = True
) -> tuple[Session, SessionState]:
    """A session as a warm request has it: stored and cached. ``told``: a request before has made
    its snapshot.
    """
    session = MANAGER.open(None)
    session.update(copy.deepcopy(content))
    (_, _, (_, cookie)) = MANAGER.close(session)
    presented = MANAGER.identify(MANAGER.cookies.values([cookie.partition(";")[0].encode()]))
    if told:
        before = MANAGER.load_now(presented)
        assert before is not None
        before.items()
        assert MANAGER.is_only_read(before)
    found = MANAGER.load_now(presented, folded=folded)
    assert found is not None
    state = state_of(found)
    assert (state.loaded != UNTOLD) is told
    assert (state.folded is not None) is folded
    return found, state


def stored(state: SessionState) -> dict[Any, Any]:
    """What the next request finds in the store; nothing in what is no session any more."""
    assert state.id is not None
    row = MANAGER.store.load(hash_id(state.id), clock.now())
    if not isinstance(row, Row):
        return {}
    record = MANAGER.rows.records.read(row.data, sid_hash=row.sid_hash)
    return MANAGER.codec.decode(record.payload, record.rich)


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
    "json": lambda session, key: json.loads(json.dumps(session, default=str)),
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


def carry_out(session: Session, steps: list[tuple[str, Any, Any]]) -> None:
    HELD.clear()
    for kind, one, other in steps:
        if kind == "read":
            HELD.append(READS[one](session, other))
        elif kind == "set":
            session[one] = other
            HELD.append(other)
        elif kind == "update":
            session.update(one)
            HELD.append(one)
        elif kind == "delete":
            session.pop(one, None)
        elif kind == "mark":
            session.mark_accessed()
        else:
            changeable = [each for held in HELD for each in containers(held)]
            if changeable:
                alter(changeable[one % len(changeable)], other)


@settings(max_examples=1_000, deadline=None)
@given(content=CONTENT, steps=st.lists(STEPS, min_size=1, max_size=8), told=st.booleans())
def test_what_looks_untouched_is_untouched(
    content: dict[str, Any], steps: list[tuple[str, Any, Any]], told: bool
) -> None:
    session, state = loaded(content, told=told)
    carry_out(session, steps)

    before = session.accessed
    untouched = MANAGER.endings.is_as_loaded(state, session)
    if untouched and before:
        assert the_same(dict(dict.items(session)), content)
    assert not untouched or not (session.asking or session.modified)


WRITING_STEPS = st.one_of(
    STEPS,
    st.tuples(st.just("set"), KEYS, SCALARS),
    st.tuples(st.just("update"), CONTENT, st.none()),
    st.tuples(st.just("delete"), KEYS, st.none()),
)


@settings(max_examples=600, deadline=None)
@given(
    content=CONTENT,
    steps=st.lists(WRITING_STEPS, min_size=1, max_size=6),
    more=st.lists(WRITING_STEPS, max_size=4),
    told=st.booleans(),
    folded=st.booleans(),
)
def test_what_a_request_leaves_is_stored_to_the_last_type(
    content: dict[str, Any],
    steps: list[tuple[str, Any, Any]],
    more: list[tuple[str, Any, Any]],
    told: bool,
    folded: bool,
) -> None:
    session, state = loaded(content, told=told, folded=folded)
    carry_out(session, steps)
    session.mark_accessed()
    if more:
        # What is held over a save in the middle is still held.
        session.save()
        held = HELD[:]
        for step in more:
            carry_out(session, [step]) if step[0] != "alter" else alter_one(held, step)
    mine = copy.deepcopy(dict(dict.items(session)))
    if state.id is None:
        return
    session_id = state.id
    MANAGER.close(session)
    state.id = session_id
    assert ordered(stored(state)) == ordered(mine)


def alter_one(held: list[Any], step: tuple[str, Any, Any]) -> None:
    changeable = [each for one in held for each in containers(one)]
    if changeable:
        alter(changeable[step[1] % len(changeable)], step[2])


def ordered(content: dict[Any, Any]) -> str:
    """To the last type; the order of the session's own keys is nobody's business."""
    return repr(sorted(content.items()))


@settings(max_examples=600, deadline=None)
@given(
    content=st.one_of(st.just({}), CONTENT),
    steps=st.lists(WRITING_STEPS, min_size=1, max_size=5),
    user=st.sampled_from([None, "alice", 7]),
    switch=st.sampled_from([None, "alice", "bob"]),
    act=st.sampled_from([None, "rotate", "clear", "expiry", "invalidate"]),
)
def test_the_straight_way_decides_what_the_general_one_decides(
    content: dict[str, Any],
    steps: list[tuple[str, Any, Any]],
    user: Any,
    switch: Any,
    act: str | None,
) -> None:
    if user is not None:
        content = {**content, "user_id": user}
    session = loaded(content)[0] if content else MANAGER.open(None)
    state = state_of(session)
    carry_out(session, steps)
    if switch is not None:
        session["user_id"] = switch
    if act == "expiry":
        session.set_expiry(60)
    elif act is not None:
        getattr(session, act)()
    session.mark_accessed()
    now = clock.now()
    endings = MANAGER.endings

    straight = endings.straight(state, session, now)
    if straight is None:
        return
    general = endings.general(state, session, now)
    assert straight.change is not None
    assert general.change is not None
    assert straight == replace(general, change=replace(general.change, nonce=straight.change.nonce))


@pytest.mark.parametrize("user", [None, "alice"])
def test_the_commonest_requests_go_the_straight_way(user: str | None) -> None:
    own = {} if user is None else {"user_id": user}
    session, state = loaded({"a": [1], "n": 1, **own})
    session["n"] = session["n"] + 1
    session["new"] = ["of", {"our": "own"}]
    assert MANAGER.endings.straight(state, session, clock.now()) is not None
    fresh = MANAGER.open(None)
    fresh.update({"a": [1], **own})
    assert MANAGER.endings.straight(state_of(fresh), fresh, clock.now()) is not None


@settings(max_examples=400, deadline=None)
@given(
    content=CONTENT,
    steps=st.lists(WRITING_STEPS, min_size=1, max_size=5),
    late=st.lists(WRITING_STEPS, min_size=1, max_size=3),
)
def test_a_change_after_the_response_of_a_writing_request_is_late(
    content: dict[str, Any],
    steps: list[tuple[str, Any, Any]],
    late: list[tuple[str, Any, Any]],
) -> None:
    session, _ = loaded(content)
    carry_out(session, steps)
    held = HELD[:]
    MANAGER.close(session)
    session.mark_accessed()
    before = copy.deepcopy(dict(dict.items(session)))
    for step in late:
        carry_out(session, [step]) if step[0] != "alter" else alter_one(held, step)
        held += HELD
    changed = ordered(before) != ordered(dict(dict.items(session)))
    try:
        MANAGER.check_late_change(session)
    except ResponseAlreadyStarted:
        assert (
            changed
            or session.asking
            or session.modified
            or list(before) != list(dict.keys(session))
        )
    else:
        assert not changed or as_json(before) == as_json(dict(dict.items(session)))


@pytest.mark.parametrize("flagged", [False, True], ids=["", "modified is set"])
@pytest.mark.parametrize(
    ("before", "late"),
    [([1], [2]), ([1, 2], (1, 2)), ([1], {1}), ("2024-01-01", date(2024, 1, 1))],
    ids=str,
)
def test_what_is_assigned_late_is_a_change_though_it_be_the_same_as_json(
    before: Any, late: Any, flagged: bool
) -> None:
    session = MANAGER.open(None)
    session["a"] = before
    MANAGER.close(session)
    # As an application may, and as the adapters for Flask and Quart leave it.
    session.modified = flagged
    session["a"] = late
    with pytest.raises(ResponseAlreadyStarted):
        MANAGER.check_late_change(session)


def as_json(content: dict[Any, Any]) -> Any:
    """What is the same as JSON, and was not assigned, is taken for the same that late."""
    return msgspec.json.decode(msgspec.json.encode(content, enc_hook=repr))


@settings(max_examples=300, deadline=None)
@given(
    content=CONTENT,
    ways=st.lists(st.tuples(st.sampled_from(sorted(READS)), KEYS), max_size=5),
    told=st.booleans(),
)
def test_what_was_only_read_looks_untouched(
    content: dict[str, Any], ways: list[tuple[str, str]], told: bool
) -> None:
    session, state = loaded(content, told=told)
    for way, key in ways:
        if way != "setdefault" or key in content:
            READS[way](session, key)
    assert MANAGER.endings.is_as_loaded(state, session)


@settings(max_examples=300, deadline=None)
@given(
    content=CONTENT,
    way=st.sampled_from(sorted(READS)),
    key=KEYS,
    where=st.integers(0, 50),
    told=st.booleans(),
)
def test_a_change_after_the_response_has_begun_is_seen(
    content: dict[str, Any], way: str, key: str, where: int, told: bool
) -> None:
    session, state = loaded(content, told=told)
    HELD.clear()
    session.mark_accessed()
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


@pytest.mark.parametrize("change", [through_pydantic, through_dict])
@pytest.mark.parametrize("more", ["milk", ("milk",), [1]])
def test_what_was_changed_unannounced_is_stored_with_what_was_assigned(
    change: Callable[[Session], None], more: Any
) -> None:
    session, state = loaded({"a": ["tea"], "n": 1})
    session["n"] = 2
    change(session)
    dict.__getitem__(session, "a").append(more)
    MANAGER.close(session)
    assert stored(state) == {"a": ["tea", "more", more], "n": 2}


def test_what_another_program_has_written_in_its_own_way_looks_untouched() -> None:
    _, state = loaded({"a": [1], "b": 2})
    row = state.row
    assert row is not None
    data = row.data[:HEADER_BYTES] + b'{"a": [1],  "b": 2}'
    assert MANAGER.store.replace(row, row._replace(data=data, version=2), clock.now())
    MANAGER.store.cache.clear()
    presented = Presented(Kind.VALID, state.id, True, row.sid_hash)
    for _ in ("from the store", "from the cache", "as it is known"):
        found = MANAGER.load(presented)
        assert (found["b"], found["a"]) == (2, [1])
        assert MANAGER.is_only_read(found)


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("damage", ["all", "the payload", "no dict"])
def test_a_damaged_record_is_found_though_this_process_has_written_it(
    folded: bool, damage: str
) -> None:
    _, state = loaded({"a": 1}, folded=folded)
    row = state.row
    assert row is not None
    header = row.data[:HEADER_BYTES]
    data = {"all": b"?" * 60, "the payload": header + b"{", "no dict": header + b"[]"}[damage]
    assert MANAGER.store.replace(row, row._replace(data=data, version=2), clock.now())
    presented = Presented(Kind.VALID, state.id, True, row.sid_hash)
    corrupt = MANAGER.events.counts().get("corrupt", 0)

    found = MANAGER.load_now(presented, folded=folded)
    assert found is not None
    assert dict(found) == {}
    assert found.is_new
    assert MANAGER.events.counts()["corrupt"] == corrupt + 1
    assert MANAGER.is_only_read(found)
    found["b"] = 1
    MANAGER.close(found)
    kept = MANAGER.store.load(row.sid_hash, clock.now())
    assert isinstance(kept, Row)
    assert kept.data == data


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
