"""Create, save, empty, log in, end: what a request leaves in the store."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sessionware import (
    SerializationError,
    Session,
    SessionTooLarge,
)
from tests.apps import COOKIE, attributes
from tests.asgi.site import NOTHING_STORED, Act, execute, in_turn, row, rows, statements
from tests.byhand import Clock
from tests.wsgi.site import (
    PLAIN,
    WsgiSite,
    WsgiVisitor,
    answering,
    session_in,
    stored,
)


@pytest.fixture
def visitor(site: WsgiSite) -> WsgiVisitor:
    """A browser whose session holds ``a`` and ``b``."""
    return stored(site, a=1, b=[2])


@pytest.mark.parametrize("cookie", [None, f"{COOKIE}=junk"], ids=["no cookie", "bad cookie"])
@pytest.mark.parametrize("act", NOTHING_STORED.values(), ids=NOTHING_STORED)
def test_who_stores_nothing_has_no_row_and_no_cookie(
    browser: WsgiVisitor, act: Act | None, cookie: str | None
) -> None:
    with statements() as executed:
        answer = browser.visit(act, cookie=cookie)
    assert (answer.status, answer.set_cookies, executed, rows()) == (200, [], [], [])


@pytest.mark.parametrize("act", NOTHING_STORED.values(), ids=NOTHING_STORED)
def test_who_stores_nothing_under_a_dead_cookie_has_no_row_and_no_cookie(
    visitor: WsgiVisitor, act: Act | None
) -> None:
    cookie = visitor.cookie
    visitor.visit(Session.invalidate)
    answer = visitor.visit(act, cookie=cookie)
    assert (answer.status, answer.set_cookies, rows()) == (200, [], [])


def test_a_session_is_created_by_what_is_stored(browser: WsgiVisitor) -> None:
    with statements() as executed:
        answer = browser.visit(lambda session: session.setdefault("a", 1))
    assert (executed, len(rows())) == (["INSERT"], 1)
    assert answer.set_cookie.startswith(f"{COOKIE}={browser.token}; path=/; Max-Age=1209600; ")
    assert answer.all("cache-control") == ["no-store"]
    assert answer.all("vary") == ["Cookie"]
    assert browser.content() == {"a": 1}


@pytest.mark.parametrize(
    ("change", "content"),
    [
        pytest.param(lambda s: s["b"].append(3), {"a": 1, "b": [2, 3]}, id="nested list"),
        pytest.param(lambda s: s.update(a=2), {"a": 2, "b": [2]}, id="update"),
        pytest.param(lambda s: s.pop("a"), {"b": [2]}, id="pop"),
        pytest.param(lambda s: s.setdefault("c", {}), {"a": 1, "b": [2], "c": {}}, id="new key"),
    ],
)
def test_a_change_is_saved_with_one_update_and_no_cookie(
    visitor: WsgiVisitor, change: Act, content: dict[str, Any]
) -> None:
    with statements() as executed:
        answer = visitor.visit(change)
    assert executed == ["SELECT", "UPDATE"]
    assert (answer.set_cookies, answer.all("vary")) == ([], ["Cookie"])
    assert visitor.content() == content


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda s: s.update(a=1), id="same value"),
        pytest.param(Session.mark_modified, id="mark_modified"),
        pytest.param(lambda s: s["b"].append(3) or s["b"].pop(), id="there and back"),
    ],
)
def test_what_is_the_same_bytes_as_before_is_not_written(visitor: WsgiVisitor, act: Act) -> None:
    before = row()
    with statements() as executed:
        visitor.visit(act)
    assert (executed, row()) == (["SELECT"], before)


EMPTYING: dict[str, Act] = {
    "clear": Session.clear,
    "invalidate": Session.invalidate,
    "last keys deleted": lambda s: [operator.delitem(s, key) for key in list(s)] and None,
    "last keys popped": lambda s: [s.popitem() for _ in range(len(s))] and None,
}


@pytest.mark.parametrize("act", EMPTYING.values(), ids=EMPTYING)
def test_an_emptied_session_loses_its_row_and_its_cookie(visitor: WsgiVisitor, act: Act) -> None:
    cookie = visitor.cookie
    with statements() as executed:
        answer = visitor.visit(act)
    assert (executed, rows(), visitor.token) == (["SELECT", "DELETE"], [], None)
    assert answer.set_cookie.startswith(f"{COOKIE}=null; path=/; expires=Thu, 01 Jan 1970")
    assert visitor.content(cookie=cookie) == {}


def test_what_is_stored_after_the_end_goes_into_a_new_session(visitor: WsgiVisitor) -> None:
    old, before = visitor.cookie, row()
    visitor.visit(in_turn(Session.invalidate, lambda s: s.update(c=3)))
    assert visitor.cookie != old
    assert row().sid_hash != before.sid_hash
    assert (visitor.content(cookie=old), visitor.content()) == ({}, {"c": 3})


def test_a_login_rotates_the_id_and_keeps_the_data(visitor: WsgiVisitor) -> None:
    old, before = visitor.cookie, row()
    with statements() as executed:
        visitor.visit(lambda s: s.update(user_id="alice"))
    assert executed == ["SELECT", "UPDATE", "INSERT"]
    after = row()
    assert (after.id, after.user_id, after.epoch > before.epoch) == (before.id, "alice", True)
    assert visitor.content() == {"a": 1, "b": [2], "user_id": "alice"}
    assert visitor.content(cookie=old) == {}


def test_from_one_user_to_another_only_what_was_written_in_the_request_stays(
    visitor: WsgiVisitor,
) -> None:
    visitor.visit(lambda s: s.update(user_id="alice", private=1))
    visitor.visit(lambda s: s.update(user_id="bob", own=2))
    assert visitor.content() == {"user_id": "bob", "own": 2}


def test_a_late_response_under_an_id_rotated_away_stores_nothing_and_sends_no_cookie(
    site: WsgiSite, visitor: WsgiVisitor
) -> None:
    slow = site.browser(visitor.token)
    visitor.visit(Session.rotate)
    answer = slow.visit(lambda s: s.update(late=1))
    assert answer.set_cookies == []
    assert visitor.content() == {"a": 1, "b": [2]}


def test_a_save_after_a_parallel_logout_is_dropped(site: WsgiSite, visitor: WsgiVisitor) -> None:
    other = site.browser(visitor.token)

    def act(session: Session) -> None:
        session["a"] = 2
        other.visit(Session.invalidate)

    assert visitor.visit(act).set_cookies == []
    assert rows() == []
    assert site.events[-1] == "stale_save_dropped"


def test_parallel_requests_each_keep_the_keys_they_wrote(
    site: WsgiSite, visitor: WsgiVisitor
) -> None:
    other = site.browser(visitor.token)

    def act(session: Session) -> None:
        session["mine"] = 1
        other.visit(lambda s: s.update(theirs=2))

    visitor.visit(act)
    assert visitor.content() == {"a": 1, "b": [2], "mine": 1, "theirs": 2}


@pytest.mark.parametrize("code", [200, 204, 303, 304, 400, 404, 499])
def test_a_response_below_500_saves(visitor: WsgiVisitor, code: int) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        session_in(environ).update(a="changed", user_id="eve")
        return answering(code=code)(environ, start_response)

    answer = visitor.serve(app)
    assert (answer.status, len(answer.set_cookies)) == (code, 1)
    assert visitor.content() == {"a": "changed", "b": [2], "user_id": "eve"}


@pytest.mark.parametrize("code", [500, 503, 599])
def test_a_response_of_5xx_discards_the_changes(visitor: WsgiVisitor, code: int) -> None:
    before = row()
    answer = visitor.visit(
        in_turn(lambda s: s.update(a="changed", user_id="eve"), lambda s: s["b"].append(3)),
        code=code,
    )
    assert (answer.status, answer.set_cookies, row()) == (code, [], before)


@pytest.mark.parametrize("status", ["200", "200 Fine", "204 ", "2", "OK"])
def test_a_status_line_that_is_short_or_odd_saves(site: WsgiSite, status: str) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        session_in(environ)["a"] = 1
        start_response(status, list(PLAIN))
        return []

    site.browser().serve(app, validated=False)
    assert len(rows()) == 1


def test_an_exception_discards_the_changes_and_is_the_servers(visitor: WsgiVisitor) -> None:
    before = row()

    def act(session: Session) -> None:
        session.update(a="changed", user_id="eve")
        raise ValueError("the app's own")

    with pytest.raises(ValueError, match="the app's own"):
        visitor.visit(act)
    assert row() == before


def test_invalidate_holds_though_the_request_fails_afterwards(visitor: WsgiVisitor) -> None:
    def act(session: Session) -> None:
        session.invalidate()
        session["c"] = 3
        raise ValueError

    cookie = visitor.cookie
    answer = visitor.visit(act, may_fail=True)
    assert (answer.status, rows()) == (500, [])
    assert visitor.content(cookie=cookie) == {}


def test_invalidate_holds_and_expires_the_cookie_with_a_response_of_5xx(
    visitor: WsgiVisitor,
) -> None:
    answer = visitor.visit(in_turn(Session.invalidate, lambda s: s.update(c=3)), code=500)
    assert (rows(), visitor.token) == ([], None)
    assert "expires" in attributes(answer.set_cookie)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param({"deep": [object()]}, SerializationError, id="not serializable"),
        pytest.param("x" * 70_000, SessionTooLarge, id="too large"),
    ],
)
def test_what_cannot_be_stored_fails_the_request_and_leaves_the_row(
    visitor: WsgiVisitor, value: object, error: type[Exception]
) -> None:
    before = row()
    with pytest.raises(error, match="bad"):
        visitor.visit(lambda s: s.update(a=2, bad=value))
    assert rows() == [before]
    answer = visitor.visit(lambda s: s.update(a=2, bad=value), may_fail=True)
    assert (answer.status, answer.set_cookies, rows()) == (500, [], [before])


def test_save_commits_at_once_and_the_response_has_the_cookie(browser: WsgiVisitor) -> None:
    def act(session: Session) -> Any:
        session["a"] = 1
        new = session.is_new
        session.save()
        stored_now = len(rows())
        session["b"] = 2
        session.save()
        return [new, session.is_new, stored_now]

    answer = browser.visit(act)
    assert (answer.json(), len(answer.set_cookies)) == ([True, False, 1], 1)
    assert browser.content() == {"a": 1, "b": 2}


def test_what_save_committed_stays_though_the_request_fails_afterwards(
    visitor: WsgiVisitor,
) -> None:
    def act(session: Session) -> None:
        session["a"] = "committed"
        session.save()
        session["a"] = "discarded"
        raise ValueError

    visitor.visit(act, may_fail=True)
    assert visitor.content() == {"a": "committed", "b": [2]}


@pytest.mark.parametrize("damage", [b"", b"\xff", b"\x01garbage"])
def test_a_corrupt_row_reads_as_empty_and_is_never_overwritten(
    make_site: Callable[..., WsgiSite], damage: bytes
) -> None:
    site = make_site(cache_ttl=0)
    visitor = stored(site, a=1)
    execute("UPDATE sessions SET data = ?", damage)
    before = row()
    cookie = visitor.cookie
    for act in (None, dict, Session.clear, Session.invalidate, Session.rotate):
        answer = visitor.visit(act, cookie=cookie)
        assert (answer.status, answer.set_cookies, rows()) == (200, [], [before])
    assert visitor.content(cookie=cookie) == {}
    assert "corrupt" in site.events
    visitor.visit(lambda s: s.update(new=1), cookie=cookie)
    assert (rows()[0], len(rows())) == (before, 2)


def test_a_session_of_its_own_lifetime_says_so_in_its_cookie(site: WsgiSite, clock: Clock) -> None:
    browser = site.browser()
    answer = browser.visit(in_turn(lambda s: s.update(a=1), lambda s: s.set_expiry(60)))
    assert attributes(answer.set_cookie)["max-age"] == "60"
    clock.tick(60)
    assert browser.content() == {}


def test_a_mapping_put_in_place_of_the_session_is_stored(visitor: WsgiVisitor) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["sessionware.session"] = {"other": 1}
        return answering()(environ, start_response)

    visitor.serve(app)
    assert visitor.content() == {"other": 1}


@pytest.mark.parametrize("value", [None, 1, [("a", 1)]])
def test_anything_else_in_place_of_the_session_is_left_alone(
    visitor: WsgiVisitor, value: object
) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["sessionware.session"] = value
        return answering()(environ, start_response)

    assert visitor.serve(app).status == 200
    assert visitor.content() == {"a": 1, "b": [2]}
