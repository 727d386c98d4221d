"""Changes after the response has begun: an error, unless they are saved and need no cookie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from sessionware import ResponseAlreadyStarted, Session, SessionGone
from tests.asgi.site import Act, in_turn, row, rows
from tests.wsgi.site import (
    OK,
    PLAIN,
    WsgiSite,
    WsgiVisitor,
    session_in,
    stored,
)

LATE: dict[str, Act] = {
    "write": lambda s: s.update(late=1),
    "nested": lambda s: s["b"].append("late"),
    "delete": lambda s: s.__delitem__("a"),
    "clear": Session.clear,
    "login": lambda s: s.update(user_id="late"),
    "rotate": Session.rotate,
    "invalidate": Session.invalidate,
    "set_expiry": lambda s: s.set_expiry(60),
}


def streaming(act: Act) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(OK, list(PLAIN))
        yield b"before "
        act(session_in(environ))
        yield b"after"

    return app


def writing(act: Act) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(OK, list(PLAIN))
        write(b"before ")
        act(session_in(environ))
        return [b"after"]

    return app


PLACES = pytest.mark.parametrize("place", [streaming, writing])


@PLACES
@pytest.mark.parametrize("act", LATE.values(), ids=LATE)
def test_a_late_change_is_lost_and_raises_at_the_end_of_the_request(
    site: WsgiSite, place: Callable[[Act], WSGIApplication], act: Act
) -> None:
    """Also where the session was not even loaded when the response began."""
    visitor = stored(site, a=1, b=[2])
    before = row()
    with pytest.raises(ResponseAlreadyStarted, match=r"session\.save\(\)"):
        visitor.serve(place(act))
    assert row() == before
    assert site.events == ["created", "late_change"]
    answer = visitor.serve(place(act), may_fail=True)
    assert (answer.status, answer.body, answer.complete) == (200, b"before after", True)


@PLACES
@pytest.mark.parametrize("act", [dict, lambda s: s.update(a=1), Session.mark_modified])
def test_what_changes_nothing_late_is_no_error(
    site: WsgiSite, place: Callable[[Act], WSGIApplication], act: Act
) -> None:
    visitor = stored(site, a=1)
    before = row()
    assert visitor.serve(place(act)).body == b"before after"
    assert row() == before


@PLACES
def test_a_late_save_commits_where_the_cookie_is_already_there(
    site: WsgiSite, place: Callable[[Act], WSGIApplication]
) -> None:
    visitor = stored(site, a=1)
    answer = visitor.serve(place(in_turn(lambda s: s.update(late=1), Session.save)))
    assert (answer.body, answer.set_cookies) == (b"before after", [])
    assert visitor.content() == {"a": 1, "late": 1}


def test_a_late_save_refuses_what_needs_a_cookie(browser: WsgiVisitor) -> None:
    def act(session: Session) -> None:
        session["late"] = 1
        with pytest.raises(ResponseAlreadyStarted, match="Set-Cookie"):
            session.save()
        session.clear()

    answer = browser.serve(streaming(act))
    assert (answer.set_cookies, rows()) == ([], [])


def test_a_late_save_of_a_session_that_ended_meanwhile_says_so(site: WsgiSite) -> None:
    visitor = stored(site, a=1)
    other = site.browser(visitor.token)

    def act(session: Session) -> None:
        session["late"] = 1
        other.visit(Session.invalidate)
        with pytest.raises(SessionGone):
            session.save()
        session.pop("late")

    visitor.serve(streaming(act))
    assert rows() == []
