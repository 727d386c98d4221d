"""Load: at the first access, once, whichever way that is."""

from __future__ import annotations

import collections
import copy
import json
import operator
import pickle
import types
from collections.abc import Callable
from string import Template
from typing import Any
from urllib.parse import urlencode

import jinja2
import pytest

from sessionware import Session
from sessionware.tokens import Tokens, new_id
from tests.apps import COOKIE, SECRET
from tests.asgi.site import Act, in_turn, rows, statements
from tests.byhand import Clock
from tests.wsgi.site import WsgiSite, WsgiVisitor, session_in, showing, stored

CONTENT = {"a": 1, "b": [2]}


def matched(session: Session) -> Any:
    match session:
        case {"a": found, **rest}:
            return [found, rest]
    return "no match"


def updated(session: Session) -> dict[Any, Any]:
    other: dict[Any, Any] = {}
    dict.update(other, session)
    return other


def merged_in_place(session: Session) -> dict[Any, Any]:
    other: dict[Any, Any] = {}
    other |= session
    return other


def rendered(text: str) -> Act:
    template = jinja2.Environment(autoescape=True).from_string(text)
    return lambda session: template.render(session=session)


def keywords(**found: Any) -> dict[str, Any]:
    return found


def format_of(text: str, session: Session) -> str:
    return text.format(session)


def popped(session: Session) -> Any:
    return [session.pop("a"), session.popitem(), dict(session)]


def defaulted(session: Session) -> Any:
    return [session.setdefault("a", 0), dict(session)]


READINGS: dict[str, tuple[Act, Any]] = {
    "dict": (dict, CONTENT),
    "unpacking": (lambda s: {**s}, CONTENT),
    "unpacking beside": (lambda s: {"z": 0, **s}, {"z": 0, **CONTENT}),
    "keyword arguments": (lambda s: keywords(**s), CONTENT),
    "copy()": (lambda s: s.copy(), CONTENT),
    "copy.copy": (copy.copy, CONTENT),
    "copy.deepcopy": (copy.deepcopy, CONTENT),
    "pickle": (lambda s: pickle.loads(pickle.dumps(s)), CONTENT),
    "pickle, oldest protocol": (lambda s: pickle.loads(pickle.dumps(s, 0)), CONTENT),
    "pickle, in Python": (lambda s: pickle.loads(pickle._dumps(s)), CONTENT),  # type: ignore[attr-defined]
    "json.dumps": (lambda s: json.loads(json.dumps(s)), CONTENT),
    "json.dumps, indented": (lambda s: json.loads(json.dumps(s, indent=1)), CONTENT),
    "json.dumps, sorted": (lambda s: json.loads(json.dumps(s, sort_keys=True)), CONTENT),
    "json.dumps, skipping keys": (lambda s: json.loads(json.dumps(s, skipkeys=True)), CONTENT),
    "json.dumps, nested": (lambda s: json.loads(json.dumps([{"s": s}])), [{"s": CONTENT}]),
    "json iterator": (lambda s: json.loads("".join(json.JSONEncoder().iterencode(s))), CONTENT),
    "==": (lambda s: s == CONTENT, True),
    "== on the right": (lambda s: operator.eq(CONTENT, s), True),
    "== {}": (lambda s: s == {}, False),
    "!=": (lambda s: s != CONTENT, False),
    "!= on the right": (lambda s: operator.ne(CONTENT, s), False),
    "== in a list": (lambda s: operator.eq([CONTENT], [s]), True),
    "== a Counter": (lambda s: collections.Counter(**{"a": 1}) == s, False),
    "in a tuple": (lambda s: CONTENT in (s,), True),
    "len": (len, 2),
    "bool": (bool, True),
    "not": (operator.not_, False),
    "in": (lambda s: "a" in s, True),
    "not in": (lambda s: "z" not in s, True),
    "[]": (lambda s: s["b"], [2]),
    "itemgetter": (operator.itemgetter("b", "a"), ([2], 1)),
    "get": (lambda s: s.get("a"), 1),
    "get of nothing": (lambda s: s.get("z", 3), 3),
    "for": (lambda s: [key for key in s], ["a", "b"]),  # noqa: C416
    "iter": (lambda s: next(iter(s)), "a"),
    "list": (list, ["a", "b"]),
    "tuple": (tuple, ("a", "b")),
    "set": (set, {"a", "b"}),
    "frozenset": (frozenset, {"a", "b"}),
    "set difference": (lambda s: {"a", "z"}.difference(s), {"z"}),
    "set union": (lambda s: {"z"}.union(s), {"a", "b", "z"}),
    "sorted": (sorted, ["a", "b"]),
    "reversed": (lambda s: list(reversed(s)), ["b", "a"]),
    "max": (max, "b"),
    "star": (lambda s: [*s], ["a", "b"]),
    "enumerate": (lambda s: list(enumerate(s)), [(0, "a"), (1, "b")]),
    "join": (lambda s: "".join(s), "ab"),
    "fromkeys": (dict.fromkeys, {"a": None, "b": None}),
    "keys": (lambda s: list(s.keys()), ["a", "b"]),
    "keys, as a set": (lambda s: s.keys() & {"a"}, {"a"}),
    "values": (lambda s: list(s.values()), [1, [2]]),
    "items": (lambda s: list(s.items()), [("a", 1), ("b", [2])]),
    "|": (lambda s: s | {"z": 0}, {**CONTENT, "z": 0}),
    "| on the right": (lambda s: {"z": 0} | s, {"z": 0, **CONTENT}),
    "|=": (merged_in_place, CONTENT),
    "dict.update": (updated, CONTENT),
    "OrderedDict": (collections.OrderedDict, CONTENT),
    "OrderedDict |": (lambda s: collections.OrderedDict(z=0) | s, {"z": 0, **CONTENT}),
    "defaultdict": (lambda s: collections.defaultdict(int, s), CONTENT),
    "Counter": (lambda s: collections.Counter(s)["a"], 1),
    "UserDict": (lambda s: collections.UserDict(s).data, CONTENT),
    "ChainMap": (lambda s: dict(collections.ChainMap({"z": 0}, s)), {**CONTENT, "z": 0}),
    "mapping proxy": (lambda s: len(types.MappingProxyType(s)), 2),
    "mapping proxy, copied": (lambda s: dict(types.MappingProxyType(s)), CONTENT),
    "namespace": (lambda s: vars(types.SimpleNamespace(**s)), CONTENT),
    "match": (matched, [1, {"b": [2]}]),
    "%": (lambda s: operator.mod("%(a)s", s), "1"),
    "format_map": (lambda s: "{a}".format_map(s), "1"),
    "format": (lambda s: format_of("{[a]}", s), "1"),
    "Template": (lambda s: Template("$a").substitute(s), "1"),
    "urlencode": (urlencode, "a=1&b=%5B2%5D"),
    "Jinja: item": (rendered("{{ session.a }}"), "1"),
    "Jinja: loop": (rendered("{% for key in session %}{{ key }}{% endfor %}"), "ab"),
    "Jinja: truth": (rendered("{% if session %}yes{% endif %}"), "yes"),
    "Jinja: length": (rendered("{{ session|length }}"), "2"),
    "Jinja: tojson": (rendered("{{ session|tojson }}"), '{"a": 1, "b": [2]}'),
    "Jinja: dictsort": (rendered("{{ session|dictsort|first|last }}"), "1"),
    "pop": (popped, [1, ("b", [2]), {}]),
    "setdefault": (defaulted, [1, CONTENT]),
    "is_new": (lambda s: s.is_new, False),
    "handle": (lambda s: len(s.handle), 12),
    "created_at": (lambda s: s.created_at is not None, True),
    "authenticated_at": (lambda s: s.authenticated_at, None),
    "revalidate": (Session.revalidate, True),
    "take": (lambda s: s.take("a"), 1),
    "incr": (lambda s: s.incr("a"), 2),
}


@pytest.mark.parametrize(("read", "expected"), READINGS.values(), ids=READINGS)
def test_whichever_way_a_session_is_first_read_it_is_loaded(
    site: WsgiSite, read: Act, expected: Any
) -> None:
    """Never empty, and never with the key that stands for what is not loaded."""
    browser = stored(site, **CONTENT)
    site.manager.store.cache.clear()
    found: list[Any] = []
    with statements() as executed:
        answer = browser.visit(lambda session: found.append(read(session)))
    assert found == [expected]
    assert (answer.status, executed[0], answer.all("vary")) == (200, "SELECT", ["Cookie"])


@pytest.mark.parametrize("cookie", [None, f"{COOKIE}=junk"], ids=["no cookie", "bad cookie"])
def test_without_a_valid_cookie_each_reading_finds_an_empty_session(
    browser: WsgiVisitor, cookie: str | None
) -> None:
    with statements() as executed:
        answer = browser.visit(
            lambda s: [dict(s), json.dumps(s), {**s}, len(s), list(s), s == {}], cookie=cookie
        )
    assert answer.json() == [{}, "{}", {}, 0, [], True]
    assert (executed, answer.set_cookies) == ([], [])


def test_the_session_of_an_id_that_the_store_does_not_know_reads_as_empty(
    browser: WsgiVisitor,
) -> None:
    for read, empty in ((json.dumps, "{}"), (dict, {}), (len, 0), (list, []), (bool, False)):
        cookie = f"{COOKIE}={Tokens(SECRET, [], COOKIE).sign(new_id())}"
        assert browser.visit(read, cookie=cookie).json() == empty


def test_a_log_line_of_a_session_shows_no_content_and_loads_nothing(site: WsgiSite) -> None:
    browser = stored(site, secret="PAYLOAD")
    with statements() as executed:
        shown = browser.visit(lambda s: f"{s} {s!r} {[s]} %s" % s).json()
    assert "PAYLOAD" not in shown
    assert executed == []


@pytest.mark.parametrize("show", [repr, str, "{}".format], ids=["repr", "str", "format"])
def test_what_a_page_shows_of_a_session_depends_on_the_cookie(
    site: WsgiSite, show: Callable[[Session], str]
) -> None:
    known, stranger = stored(site, a=1).visit(show), site.browser().visit(show)
    assert known.body != stranger.body
    assert known.all("vary") == stranger.all("vary") == ["Cookie"]


@pytest.mark.parametrize("settings", [{"cache_ttl": 0}, {}, {"coherence": "bounded"}])
def test_a_request_that_never_looks_at_its_session_costs_nothing(
    make_site: Callable[..., WsgiSite], settings: dict[str, Any]
) -> None:
    browser = stored(make_site(**settings), a=1)
    with statements() as executed:
        # wsgiref.validate prints the environ, which counts as a look.
        answers = [browser.visit(None, validated=False), browser.get("/noop")]
    assert executed == []
    for answer in answers:
        assert (answer.status, answer.set_cookies, answer.all("vary")) == (200, [], [])


def test_taking_the_session_out_of_the_environ_is_no_look_at_it(site: WsgiSite) -> None:
    browser = stored(site, a=1)
    with statements() as executed:
        browser.visit(lambda session: isinstance(session, dict) and session is not None)
    assert executed == []


@pytest.mark.parametrize(
    ("settings", "cost"),
    [({"cache_ttl": 0}, ["SELECT"]), ({}, ["SELECT"]), ({"coherence": "bounded"}, [])],
    ids=["no cache", "validate", "bounded"],
)
def test_a_session_is_read_at_its_first_access_and_once(
    make_site: Callable[..., WsgiSite], settings: dict[str, Any], cost: list[str]
) -> None:
    browser = stored(make_site(**settings), a=1)
    spent: list[list[str]] = []

    def read(session: Session) -> None:
        with statements() as executed:
            assert session["a"] == 1
        spent.append(executed)
        with statements() as executed:
            assert (len(session), dict(session), "a" in session) == (1, {"a": 1}, True)
        spent.append(executed)

    with statements() as executed:
        browser.visit(read)
    assert (spent, executed) == ([cost, []], cost)


def test_a_first_access_by_writing_loads_what_is_there(site: WsgiSite) -> None:
    for number, write in enumerate(
        [
            lambda s: s.update(z=1),
            lambda s: s.setdefault("z", 1),
            lambda s: operator.setitem(s, "z", 1),
            lambda s: s.__ior__({"z": 1}) and None,
        ]
    ):
        browser = stored(site, **CONTENT)
        browser.visit(write)
        assert browser.content() == {**CONTENT, "z": 1}, number
    browser = stored(site, **CONTENT)
    browser.visit(lambda s: operator.delitem(s, "a"))
    assert browser.content() == {"b": [2]}


@pytest.mark.parametrize(
    "act", [Session.clear, Session.invalidate, Session.rotate], ids=["clear", "end", "rotate"]
)
def test_what_needs_no_content_still_meets_the_row(
    site: WsgiSite, act: Callable[[Session], None]
) -> None:
    browser = stored(site, a=1)
    old = browser.token
    answer = browser.visit(act)
    assert len(answer.set_cookies) == 1
    assert browser.token != old
    assert site.browser(old).content() == {}
    assert len(rows()) == (1 if act is Session.rotate else 0)


def test_a_session_is_taken_as_of_its_first_access_not_of_the_requests_begin(
    site: WsgiSite,
) -> None:
    browser = stored(site, a=1)
    other = site.browser(browser.token)

    def app(environ: Any, start_response: Any) -> Any:
        other.visit(lambda session: session.update(b=2))
        return showing(dict(session_in(environ)))(environ, start_response)

    assert browser.serve(app).json() == {"a": 1, "b": 2}


def test_a_session_that_expired_is_empty_and_its_row_and_cookie_are_left(
    site: WsgiSite, clock: Clock
) -> None:
    browser = stored(site, a=1)
    before = rows()
    clock.tick(14 * 24 * 3600)
    answer = browser.visit(in_turn(dict, len))
    assert (answer.json(), answer.set_cookies, rows()) == (None, [], before)
    assert browser.content() == {}
    assert site.events == ["created", "expired", "expired"]


def test_two_different_valid_cookies_are_nobodys_session_and_cost_nothing(site: WsgiSite) -> None:
    first, second = stored(site, a=1), stored(site, a=2)
    with statements() as executed:
        answer = site.browser().visit(dict, cookie=f"{first.cookie}; {second.cookie}")
    assert (answer.json(), answer.set_cookies, executed) == ({}, [], [])
    assert site.events[-1] == "duplicate"


def test_the_id_is_taken_from_the_cookie_only(site: WsgiSite) -> None:
    token = stored(site, a=1).token
    assert token is not None
    answer = site.browser().visit(dict, f"/;{COOKIE}={token}?{COOKIE}={token}", HTTP_COOKIE2=token)
    assert answer.json() == {}


def test_each_request_has_a_copy_of_its_own(site: WsgiSite) -> None:
    browser = stored(site, cart=[1])
    other = site.browser(browser.token)

    def act(session: Session) -> Any:
        session["cart"].append(2)
        return other.content()

    assert browser.visit(act).json() == {"cart": [1]}
    assert browser.content() == {"cart": [1, 2]}
