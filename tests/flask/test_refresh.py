"""`session.permanent`, lifetimes, and cookies that are sent again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import flask
import pytest
from werkzeug.http import parse_date

from tests.apps import attributes
from tests.asgi.failing import FailingStore
from tests.asgi.site import row, rows, statements
from tests.byhand import DAY, Clock
from tests.flask.conftest import Visitor, set_cookie_of, storing


def permanently(**content: Any) -> Callable[[Any], None]:
    def act(session: Any) -> None:
        session.permanent = True
        session.update(content)

    return act


def lifetime(set_cookie: str) -> int | None:
    """Max-Age; Expires must say the same."""
    found = attributes(set_cookie)
    assert ("max-age" in found) == ("expires" in found)
    return int(found["max-age"]) if "max-age" in found else None


def test_a_session_lasts_until_the_browser_closes_unless_it_is_permanent(
    visitor: Visitor, clock: Clock
) -> None:
    first = set_cookie_of(visitor.visit(storing(a=1)))
    assert lifetime(first) is None
    kept = set_cookie_of(visitor.visit(permanently()))
    assert lifetime(kept) == 31 * DAY // 1000
    expires = parse_date(attributes(kept)["expires"])
    assert expires is not None
    assert expires.timestamp() * 1000 == clock.now + 31 * DAY
    assert row().expires_at == clock.now + 31 * DAY


@pytest.mark.parametrize("coherence", ["validate", "bounded"])
def test_permanent_taken_back_makes_it_a_cookie_of_the_browsers_run_again(
    make_visitor: Callable[..., Visitor], coherence: str
) -> None:
    """Whether the store is asked for the session or only the cache."""
    visitor = make_visitor(coherence=coherence)
    visitor.visit(permanently(a=1))
    answer = visitor.visit(lambda session: setattr(session, "permanent", False))
    assert lifetime(set_cookie_of(answer)) is None
    assert visitor.visit(dict).headers.getlist("Set-Cookie") == []


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("act", [None, dict, storing(b=2)], ids=["untouched", "read", "written"])
def test_a_permanent_sessions_cookie_is_sent_with_every_response_where_it_is_configured(
    make_visitor: Callable[..., Visitor], refresh: bool, act: Any
) -> None:
    visitor = make_visitor(SESSION_REFRESH_EACH_REQUEST=refresh)
    visitor.visit(permanently(a=1))
    before = visitor.token
    answer = visitor.visit(act)
    if refresh:
        assert set_cookie_of(answer).startswith(f"session={before};")
        assert answer.headers["Vary"] == "Cookie"
        assert answer.headers["Cache-Control"] == "no-store"
    else:
        assert answer.headers.getlist("Set-Cookie") == []


def test_a_process_that_never_saw_the_session_refreshes_it_too(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor, elsewhere = make_visitor(), make_visitor()
    visitor.visit(permanently(a=1))
    assert visitor.token is not None
    elsewhere.token = visitor.token
    assert lifetime(set_cookie_of(elsewhere.visit(None))) == 31 * DAY // 1000


def test_the_lifetime_in_the_store_moves_with_the_refresh(visitor: Visitor, clock: Clock) -> None:
    visitor.visit(permanently(a=1))
    clock.tick(20 * 24 * 3600)
    assert lifetime(set_cookie_of(visitor.visit(None))) == 31 * DAY // 1000
    assert row().expires_at == clock.now + 31 * DAY


def test_without_refresh_it_moves_with_saves_only(
    make_visitor: Callable[..., Visitor], clock: Clock
) -> None:
    visitor = make_visitor(SESSION_REFRESH_EACH_REQUEST=False)
    visitor.visit(permanently(a=1))
    clock.tick(20 * 24 * 3600)
    visitor.visit(dict)
    clock.tick(12 * 24 * 3600)
    assert visitor.content() == {}


def test_an_explicit_rolling_wins_over_the_configuration(
    make_visitor: Callable[..., Visitor], clock: Clock
) -> None:
    visitor = make_visitor(rolling=False)
    visitor.visit(permanently(a=1))
    before = row().expires_at
    clock.tick(20 * 24 * 3600)
    assert lifetime(set_cookie_of(visitor.visit(None))) == 11 * DAY // 1000
    assert row().expires_at == before


def test_an_explicit_max_age_is_the_cookies_in_any_case(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor = make_visitor(max_age=1000)
    assert lifetime(set_cookie_of(visitor.visit(storing(a=1)))) == 1000
    assert lifetime(set_cookie_of(visitor.visit(permanently()))) == 1000


def test_set_expiry_gives_one_session_a_lifetime_of_its_own(visitor: Visitor, clock: Clock) -> None:
    def keep(session: Any) -> None:
        session["a"] = 1
        session.set_expiry(3600)

    assert lifetime(set_cookie_of(visitor.visit(keep))) == 3600
    assert row().expires_at == clock.now + 3_600_000


def test_a_lifetime_longer_than_browsers_take_is_cut_to_theirs(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor = make_visitor(PERMANENT_SESSION_LIFETIME=timedelta(days=3650))
    assert lifetime(set_cookie_of(visitor.visit(permanently(a=1)))) == 400 * DAY // 1000


def test_a_session_that_is_permanent_and_holds_nothing_is_not_stored(visitor: Visitor) -> None:
    @visitor.app.before_request
    def keep() -> None:
        flask.session.permanent = True

    assert visitor.visit(dict).headers.getlist("Set-Cookie") == []
    assert rows() == []
    assert lifetime(set_cookie_of(visitor.visit(storing(a=1)))) == 31 * DAY // 1000
    visitor.visit(lambda session: session.pop("a"))
    assert visitor.token is None
    assert rows() == []


LATE: dict[str, Callable[[Any], object]] = {
    "read": dict,
    "written": storing(b=2),
    "untouched": lambda session: None,
}
MEANWHILE: dict[str, Callable[[Any], object]] = {
    "login": storing(user_id="alice"),
    "logout": lambda session: session.clear(),
}


@pytest.mark.parametrize("there", MEANWHILE)
@pytest.mark.parametrize("here", LATE)
@pytest.mark.parametrize("same_process", [True, False])
def test_a_late_response_does_not_put_an_old_id_over_a_parallel_login_or_logout(
    make_visitor: Callable[..., Visitor], here: str, there: str, same_process: bool
) -> None:
    visitor = make_visitor()
    tab = Visitor(visitor.app) if same_process else make_visitor()
    visitor.visit(permanently(a=1))
    assert visitor.token is not None
    tab.token = visitor.token

    def slow(session: Any) -> None:
        LATE[here](session)
        assert tab.visit(MEANWHILE[there]).status_code == 200

    late = visitor.visit(slow)
    assert (late.status_code, late.headers.getlist("Set-Cookie")) == (200, [])
    left = {"_permanent": True, "a": 1, "user_id": "alice"} if there == "login" else {}
    assert tab.content() == left


def test_a_store_that_fails_at_the_refresh_fails_no_request(
    make_visitor: Callable[..., Visitor],
) -> None:
    store = FailingStore()
    visitor = make_visitor(store=store, cache_ttl=0)
    visitor.visit(permanently(a=1))

    def read_before_it_fails(session: Any) -> Any:
        content = dict(session)
        store.down = {"*"}
        return content

    for act in (read_before_it_fails, None):
        answer = visitor.visit(act)
        assert (answer.status_code, answer.headers.getlist("Set-Cookie")) == (200, [])


def test_a_refresh_costs_no_write_and_for_who_is_not_permanent_nothing(visitor: Visitor) -> None:
    visitor.visit(permanently(a=1))
    with statements() as seen:
        visitor.visit(None)
    assert set(seen) <= {"SELECT"}
    stranger = Visitor(visitor.app)
    stranger.visit(storing(a=1))
    with statements() as seen:
        stranger.visit(None)
    assert seen == []
