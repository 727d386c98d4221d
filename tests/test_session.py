"""Session: a dict to everyone, Starlette's verdicts about use and change, no data in its repr."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from starlette.middleware.sessions import Session as StarletteSession

from sessionware import ReauthenticationRequired, Session, SessionManager, StoreUnavailable
from sessionware.session import NoSession
from sessionware.states import SessionState
from sessionware.tracking import SessionLink
from tests.services import AS_STARLETTE_DOES

CONTENT = {"user": "alice", "cart": ["tea", {"n": 2}], "secret": "hunter2"}

KEYS = st.sampled_from("abcd")
VALUES = st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=2))
DICTS = st.dictionaries(KEYS, VALUES, max_size=3)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return "gave", call()
    except (KeyError, TypeError, ValueError) as error:
        return "raised", type(error), error.args


class LikeStarlettes(RuleBasedStateMachine):
    """The same calls on our Session and on Starlette's, which is the oracle."""

    @initialize(content=DICTS)
    def begin(self, content: dict[str, Any]) -> None:
        self.ours, self.theirs = Session(content), StarletteSession(content)

    def both(self, call: Callable[[Any], Any]) -> None:
        assert outcome(lambda: call(self.ours)) == outcome(lambda: call(self.theirs))

    @rule(key=KEYS, value=VALUES)
    def set(self, key: str, value: Any) -> None:
        self.both(lambda session: session.__setitem__(key, value))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.both(lambda session: session.__delitem__(key))

    @rule(key=KEYS, default=st.one_of(st.just(()), st.tuples(VALUES)))
    def pop(self, key: str, default: tuple[Any, ...]) -> None:
        self.both(lambda session: session.pop(key, *default))

    @rule()
    def popitem(self) -> None:
        self.both(lambda session: session.popitem())

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key: str, value: Any) -> None:
        self.both(lambda session: session.setdefault(key, value))

    @rule(change=DICTS, named=DICTS, pairs=st.booleans())
    def update(self, change: dict[str, Any], named: dict[str, Any], pairs: bool) -> None:
        given = list(change.items()) if pairs else change
        self.both(lambda session: session.update(given, **named))

    @rule(change=DICTS)
    def merge_in_place(self, change: dict[str, Any]) -> None:
        def merge(session: Any) -> bool:
            before = session
            session |= change
            return session is before

        self.both(merge)

    @rule()
    def clear(self) -> None:
        self.both(lambda session: session.clear())

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        self.both(lambda session: session.get(key, 0))

    @rule()
    def begin_another_request(self) -> None:
        for session in (self.ours, self.theirs):
            session.accessed = session.modified = False

    @invariant()
    def verdicts_and_content_are_the_same(self) -> None:
        if not hasattr(self, "ours"):
            return
        assert self.ours.modified == self.theirs.modified
        # Starlette marks reads in request.session; ours marks them itself.
        assert self.ours.accessed or not self.theirs.accessed
        assert list(dict.items(self.ours)) == list(dict.items(self.theirs))


TestLikeStarlettes = AS_STARLETTE_DOES(LikeStarlettes.TestCase)
TestLikeStarlettes.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


COPIES: dict[str, Callable[[Session], Any]] = {
    "dict()": dict,
    "{**s}": lambda session: {**session},
    "copy method": lambda session: session.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda session: pickle.loads(pickle.dumps(session)),
    "json": lambda session: json.loads(json.dumps(session)),
    # From Python 3.13 on, `dumps` is in C with an indent too.
    "json in Python": lambda session: json.loads("".join(json.JSONEncoder().iterencode(session))),
    "s | {}": lambda session: session | {},
    "{} | s": lambda session: {} | session,
    "comprehension": lambda session: {key: session[key] for key in session},
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_is_a_plain_dict_with_everything_in_it(make: Callable[[Session], Any]) -> None:
    session = Session(CONTENT)
    made = make(session)
    assert made == CONTENT
    assert type(made) is dict
    assert session.accessed
    assert not session.modified


def test_a_deep_copy_shares_nothing_and_a_shallow_one_its_values() -> None:
    session = Session(CONTENT)
    assert copy.deepcopy(session)["cart"] is not session["cart"]
    assert copy.copy(session)["cart"] is session["cart"]


def test_it_is_a_dict_and_equal_to_one_in_both_directions() -> None:
    session = Session({"a": 1}, b=2)
    assert isinstance(session, dict)
    assert session == {"a": 1, "b": 2} == session
    assert session != {"a": 1}
    assert Session([("a", 1)]) == Session(a=1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(session)


def test_what_was_asked_for_shows_no_data_either() -> None:
    session = Session({"key": "old secret"})
    session["key"] = "secret"
    assert "secret" not in repr(session.take_intents())


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda session: f"{[session]}"])
def test_its_repr_shows_no_data(show: Callable[[Session], str]) -> None:
    shown = show(Session(CONTENT))
    assert "<Session with 3 keys>" in shown
    assert not any(word in shown for word in ("user", "alice", "tea", "hunter2"))


READS: dict[str, Callable[[Session], object]] = {
    "[]": lambda session: session["user"],
    "get": lambda session: session.get("none"),
    "in": lambda session: "none" in session,
    "len": len,
    "bool": bool,
    "==": lambda session: session == {},
    "!=": lambda session: session != {},
    "reflected ==": lambda session: session == {},
    "iter": lambda session: list(session),
    "reversed": lambda session: list(reversed(session)),
    "keys": lambda session: session.keys(),
    "values": lambda session: session.values(),
    "items": lambda session: session.items(),
    "unpacking as keywords": lambda session: dict(**session),
    "update of another": lambda session: {}.update(session),
    "pop of a missing key": lambda session: session.pop("none", None),
    "popitem": lambda session: session.popitem(),
    "setdefault of a key that is there": lambda session: session.setdefault("user", 1),
    "sorted": sorted,
    "match": lambda session: _matches(session),
    "repr": repr,
    "is_new": lambda session: session.is_new,
    "created_at": lambda session: session.created_at,
    "authenticated_at": lambda session: session.authenticated_at,
    "mark_accessed": lambda session: session.mark_accessed(),
    **COPIES,
}


def _matches(session: Session) -> bool:
    match session:
        case {"none": _}:
            return True
    return False


# Starlette's own suite wants these unnoted on a session that was built by hand.
LOOKS = {"pop of a missing key", "setdefault of a key that is there"}


@pytest.mark.parametrize("name", READS)
def test_every_way_of_reading_marks_it_accessed(
    name: str, detached_manager: SessionManager
) -> None:
    session = Session(CONTENT)
    session.attach(SessionState(detached_manager))
    assert not session.accessed
    READS[name](session)
    assert session.accessed


@pytest.mark.parametrize("name", sorted(READS))
def test_one_built_by_hand_notes_what_starlettes_does(name: str) -> None:
    session = Session(CONTENT)
    READS[name](session)
    assert session.accessed is (name not in LOOKS)


# json's C code asks an empty dict for its size only; Starlette's request.session is marked before.
UNMARKED = {"repr", "json"}


@pytest.mark.parametrize("name", sorted(READS.keys() - UNMARKED))
def test_no_way_of_reading_passes_a_failed_load_off_as_an_empty_session(
    name: str, detached_manager: SessionManager
) -> None:
    session = unloadable(detached_manager)
    with pytest.raises(StoreUnavailable):
        READS[name](session)


def unloadable(manager: SessionManager) -> Session:
    """A session that the store could not be asked for."""
    state = SessionState(manager)
    state.failure = StoreUnavailable("down")
    session = Session()
    session.attach(state)
    return session


@pytest.fixture
def detached_manager() -> SessionManager:
    return SessionManager(secret_key="k" * 40, purge_interval=None)


def test_a_failed_load_can_still_be_shown(detached_manager: SessionManager) -> None:
    session = unloadable(detached_manager)
    assert "Session" in repr(session)


WRITES: dict[str, Callable[[Session], object]] = {
    "[]=": lambda session: session.__setitem__("a", 1),
    "del": lambda session: session.__delitem__("user"),
    "pop": lambda session: session.pop("user"),
    "popitem": lambda session: session.popitem(),
    "setdefault": lambda session: session.setdefault("a", 1),
    "update": lambda session: session.update(a=1),
    "|=": lambda session: session.__ior__({"a": 1}),
    "clear": lambda session: session.clear(),
    "invalidate": lambda session: session.invalidate(),
    "set_expiry": lambda session: session.set_expiry(60),
    "mark_modified": lambda session: session.mark_modified(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_way_of_writing_marks_it_modified(write: Callable[[Session], object]) -> None:
    session = Session(CONTENT)
    write(session)
    assert session.modified
    assert session.accessed


@pytest.mark.parametrize(
    "write",
    [WRITES[name] for name in ("[]=", "setdefault", "update", "|=", "clear", "invalidate")],
)
def test_a_path_without_a_session_refuses_writes_and_says_why(
    write: Callable[[Session], object],
) -> None:
    session = NoSession()
    with pytest.raises(RuntimeError, match="exclude"):
        write(session)
    assert session == {}


def test_what_was_assigned_is_remembered_until_it_is_carried_out() -> None:
    session = Session(a=1, b=2)
    session["c"] = 1
    session.setdefault("d", 1)
    session.setdefault("a", 1)
    session.update({"e": 1}, f=1)
    session |= {"g": 1}
    assert session.written == set("cdefg")
    session.rotate()
    session.forget_intents()
    assert (session.written, session.asked.rotation, session.modified) == (
        frozenset(),
        False,
        False,
    )
    assert len(session) == 7


@pytest.mark.parametrize("end", [Session.clear, Session.invalidate])
def test_emptying_it_forgets_what_was_assigned_before(end: Callable[[Session], None]) -> None:
    session = Session()
    session["before"] = 1
    end(session)
    assert session == {}
    session["after"] = 1
    assert session.written == {"after"}


def test_an_end_outweighs_a_rotation_and_an_expiry() -> None:
    session = Session(CONTENT)
    session.rotate(authenticated=True)
    session.set_expiry(60)
    session.invalidate()
    asked = session.asked
    assert (asked.ended, asked.rotation, asked.expiry_set) == (True, False, False)


def test_a_rotation_that_proved_the_user_stays_one() -> None:
    session = Session()
    session.rotate(authenticated=True)
    session.rotate()
    assert session.asked.reauthenticated
    assert not session.modified


GOOD_EXPIRIES = [
    None,
    0,
    1,
    0.5,
    timedelta(days=400),
    timedelta(0),
    datetime(2030, 1, 1, tzinfo=UTC),
    datetime(2001, 1, 1, tzinfo=UTC),
]
BAD_EXPIRIES: list[tuple[Any, type[Exception]]] = [
    (-1, ValueError),
    (-0.1, ValueError),
    (float("nan"), ValueError),
    (float("inf"), ValueError),
    (10**400, ValueError),
    (timedelta(seconds=-1), ValueError),
    (datetime(2030, 1, 1), ValueError),
    (True, TypeError),
    ("60", TypeError),
    (b"60", TypeError),
    (60j, TypeError),
]


@pytest.mark.parametrize("value", GOOD_EXPIRIES, ids=str)
def test_set_expiry_takes_it(value: Any) -> None:
    session = Session()
    session.set_expiry(value)
    assert session.asked.expiry_set
    assert session.asked.expiry == value


@pytest.mark.parametrize(("value", "error"), BAD_EXPIRIES, ids=lambda value: repr(value)[:20])
def test_set_expiry_refuses_it_and_changes_nothing(value: Any, error: type[Exception]) -> None:
    session = Session()
    with pytest.raises(error, match="set_expiry"):
        session.set_expiry(value)
    assert not session.asked.expiry_set
    assert not session.modified


NEEDS_A_MANAGER: dict[str, Callable[[Session], Any]] = {
    "save": lambda session: session.save(),
    "take": lambda session: session.take("a"),
    "incr": lambda session: session.incr("a"),
    "revalidate": lambda session: session.revalidate(),
    "handle": lambda session: session.handle,
    "asave": lambda session: session.asave(),
    "atake": lambda session: session.atake("a"),
    "aincr": lambda session: session.aincr("a"),
    "arevalidate": lambda session: session.arevalidate(),
}


def stepped(value: Any) -> None:
    """Run a coroutine that never waits."""
    assert isinstance(value, Coroutine)
    try:
        value.send(None)
    finally:
        value.close()


@pytest.mark.parametrize("name", NEEDS_A_MANAGER)
def test_without_a_manager_what_needs_one_says_so(name: str) -> None:
    session = Session(a=1)
    with pytest.raises(RuntimeError, match="no manager"):
        stepped(NEEDS_A_MANAGER[name](session))
    assert session == {"a": 1}


def test_without_a_manager_it_is_new_and_nobody_is_logged_in() -> None:
    session = Session(a=1)
    assert session.is_new
    assert session.created_at is None
    assert session.authenticated_at is None
    assert session.link() is None
    with pytest.raises(ReauthenticationRequired):
        session.require_recent(10**9)


class Link:
    """Says when its session was stored and how long ago the login was."""

    is_new, handle, created_at, authenticated_at = False, "0123456789ab", 1_500, 2_000

    def __init__(self, age: float | None) -> None:
        self.age = age

    def seconds_since_login(self) -> float | None:
        return self.age

    def touched(self, session: Session) -> None:
        pass


def linked(age: float | None) -> Session:
    session = Session()
    link: Any = Link(age)
    tie: SessionLink = link
    session.attach(tie)
    return session


def test_its_times_are_aware_utc_datetimes() -> None:
    session = linked(0)
    assert session.created_at == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert session.authenticated_at == datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC)
    assert session.handle == "0123456789ab"
    assert not session.is_new


@pytest.mark.parametrize(("age", "recent"), [(0, True), (60, True), (60.001, False), (None, False)])
def test_require_recent_wants_a_login_within_the_seconds(age: float | None, recent: bool) -> None:
    session = linked(age)
    if recent:
        session.require_recent(60)
    else:
        with pytest.raises(ReauthenticationRequired, match="60 seconds"):
            session.require_recent(60)


def test_no_login_is_recent_enough_for_what_is_no_number() -> None:
    with pytest.raises(ReauthenticationRequired):
        linked(0).require_recent(math.nan)


def test_an_ended_session_is_a_new_one_that_nobody_has_logged_in_to() -> None:
    session = linked(0)
    session.invalidate()
    assert session.is_new
    assert session.created_at is session.authenticated_at is None
    with pytest.raises(ReauthenticationRequired):
        session.require_recent(60)
