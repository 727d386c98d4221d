"""What a Flask application does with its session, through real requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import flask
import pytest
from blockbuster import BlockBuster
from flask.sessions import NullSession, SessionMixin
from markupsafe import Markup

from sessionware import ResponseAlreadyStarted, Session, SessionTooLarge, manager_of, session_of
from sessionware.flask import FlaskSession, FlaskSessions
from tests.asgi.site import rows, statements
from tests.flask.conftest import Visitor, inside, manager_for, set_cookie_of, storing


def test_flask_session_and_request_session_are_one_session_of_ours(visitor: Visitor) -> None:
    def look(session: Any) -> Any:
        own: Any = session._get_current_object()
        request: Any = flask.request
        assert isinstance(own, FlaskSession)
        assert isinstance(own, Session)
        assert isinstance(own, SessionMixin)
        assert request.session is own
        assert session_of(request) is own
        assert manager_of(request) is manager_of(session) is manager_for(visitor.app)
        return "seen"

    assert visitor.visit(look).json == "seen"


RICH: dict[str, Any] = {
    "tuple": (1, (2, 3)),
    "bytes": b"\x00\xff",
    "markup": Markup("<b>bold</b>"),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "datetime": datetime(2026, 5, 17, 12, 30, tzinfo=UTC),
    "tagged": {" t": [1]},
    "nested": [{"pair": (1, b"x")}],
}


def stores_rich_types(visitor: Visitor) -> None:
    visitor.visit(storing(**RICH))
    seen: dict[str, Any] = {}
    visitor.visit(seen.update)
    assert seen == RICH
    for key, value in RICH.items():
        assert type(seen[key]) is type(value)


def test_types_that_flasks_json_knows_come_back_as_they_were(visitor: Visitor) -> None:
    stores_rich_types(visitor)


def test_they_do_on_postgresql_too(
    make_visitor: Callable[..., Visitor], postgres_url: str, table_name: str
) -> None:
    stores_rich_types(make_visitor(store=postgres_url, table_name=table_name))


def test_nested_changes_are_saved_without_modified(visitor: Visitor) -> None:
    visitor.visit(storing(cart=[]))
    visitor.visit(lambda session: session["cart"].append("tea"))
    assert visitor.content() == {"cart": ["tea"]}


def test_flashed_messages_reach_the_next_request_once(visitor: Visitor) -> None:
    def show(session: Any) -> Any:
        return flask.get_flashed_messages(with_categories=True)

    visitor.visit(lambda session: flask.flash("saved", "info"))
    assert visitor.visit(show).json == [["info", "saved"]]
    assert visitor.visit(show).json == []
    assert rows() == []


def test_new_says_whether_it_was_stored(visitor: Visitor) -> None:
    assert visitor.visit(lambda session: session.new).json is True
    visitor.visit(storing(a=1))
    assert visitor.visit(lambda session: session.new).json is False


def test_a_request_that_never_looks_loads_nothing(visitor: Visitor) -> None:
    visitor.visit(storing(a=1))
    with statements() as seen:
        answer = visitor.visit(None)
    assert (answer.headers.get("Vary"), answer.headers.get("Set-Cookie"), seen) == (None, None, [])


def test_without_a_secret_it_reads_as_empty_and_says_why_it_cant_be_written(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor = make_visitor(SECRET_KEY=None)
    request: Any = flask.request
    reasons: list[str] = []

    def write(session: Any) -> Any:
        assert isinstance(request.session, NullSession)
        assert not session
        for each in (session, request.session):
            with pytest.raises(RuntimeError, match="no secret key was set") as caught:
                each["a"] = 1
            reasons.append(str(caught.value))
        return "read"

    assert visitor.visit(write).json == "read"
    assert len(reasons) == 2
    with (
        pytest.raises(RuntimeError, match="did not open a session"),
        visitor.client.session_transaction(),
    ):
        pass


def test_a_secret_may_be_set_after_init_app(make_visitor: Callable[..., Visitor]) -> None:
    visitor = make_visitor(SECRET_KEY=None)
    visitor.app.secret_key = "set later than that 0123456789"
    visitor.visit(storing(a=1))
    assert visitor.content() == {"a": 1}


def test_a_session_transaction_reads_and_writes_the_visitors_session(visitor: Visitor) -> None:
    with visitor.client.session_transaction() as session:
        assert session == {}
        session["a"] = 1
    with visitor.client.session_transaction() as session:
        assert session["a"] == 1
        session["b"] = (2,)
    seen: dict[str, Any] = {}
    visitor.visit(seen.update)
    assert seen == {"a": 1, "b": (2,)}
    with visitor.client.session_transaction() as session:
        session.clear()
    assert visitor.token is None
    assert rows() == []


def test_a_session_transaction_that_stores_nothing_leaves_nothing(visitor: Visitor) -> None:
    with visitor.client.session_transaction() as session:
        assert not session
    assert visitor.token is None
    assert rows() == []


def test_inside_with_client_the_session_can_be_looked_at_after_the_request(
    visitor: Visitor,
) -> None:
    with visitor.client as client:
        visitor.visit(storing(a=1))
        assert flask.session["a"] == 1
        assert flask.session.modified
        client.get("/")
        assert flask.session["a"] == 1


def test_a_nested_request_context_has_a_session_of_its_own(visitor: Visitor) -> None:
    def nest(session: Any) -> Any:
        session["outer"] = 1
        with visitor.app.test_request_context():
            assert flask.session == {}
            flask.session["inner"] = 1
        return dict(session)

    assert visitor.visit(nest).json == {"outer": 1}
    assert visitor.content() == {"outer": 1}


def test_a_copied_request_context_has_the_same_session(visitor: Visitor) -> None:
    def copy(session: Any) -> Any:
        session["a"] = 1

        @flask.copy_current_request_context
        def work() -> None:
            flask.session["b"] = flask.session["a"] + 1

        work()
        return dict(session)

    assert visitor.visit(copy).json == {"a": 1, "b": 2}
    assert visitor.content() == {"a": 1, "b": 2}


def test_a_stream_reads_the_session_that_its_request_had(visitor: Visitor) -> None:
    visitor.visit(storing(a=1))

    def stream(session: Any) -> flask.Response:
        def body() -> Iterator[str]:
            yield "a is "
            yield str(flask.session["a"])

        return flask.Response(flask.stream_with_context(body()))

    assert visitor.visit(stream).text == "a is 1"


def test_what_is_changed_before_the_stream_begins_is_saved(visitor: Visitor) -> None:
    def stream(session: Any) -> flask.Response:
        session["a"] = 1
        return flask.Response(flask.stream_with_context(iter(["x", "y"])))

    assert set_cookie_of(visitor.visit(stream))
    assert visitor.content() == {"a": 1}


def test_a_change_after_the_response_has_begun_is_an_error_at_its_end(visitor: Visitor) -> None:
    def stream(session: Any) -> flask.Response:
        def body() -> Iterator[str]:
            yield "x"
            flask.session["late"] = 1
            yield "y"

        return flask.Response(flask.stream_with_context(body()))

    visitor.visit(storing(a=1))
    with pytest.raises(ResponseAlreadyStarted):
        visitor.visit(stream)
    assert visitor.content() == {"a": 1}


def test_a_late_change_is_saved_by_hand_where_the_cookie_is_there(visitor: Visitor) -> None:
    def stream(session: Any) -> flask.Response:
        def body() -> Iterator[str]:
            yield "x"
            flask.session["late"] = 1
            session_of(flask.request).save()

        return flask.Response(flask.stream_with_context(body()))

    visitor.visit(storing(a=1))
    visitor.visit(stream)
    assert visitor.content() == {"a": 1, "late": 1}


def streaming(late: Callable[[FlaskSession], object]) -> Callable[[Any], flask.Response]:
    """A view whose body does ``late`` while it is being sent."""

    def view(session: FlaskSession) -> flask.Response:
        def body() -> Iterator[str]:
            yield "one"
            late(session)
            yield "two"

        return flask.Response(flask.stream_with_context(body()))

    return view


def test_an_async_view_uses_the_session(visitor: Visitor, blockbuster: BlockBuster) -> None:
    # The loop is the view's alone: nobody waits behind it.
    blockbuster.deactivate()

    async def count() -> str:
        flask.session["visits"] = flask.session.get("visits", 0) + 1
        await session_of(flask.request).asave()
        return str(flask.session["visits"])

    visitor.app.add_url_rule("/count", view_func=count)
    assert [visitor.client.get("/count").text for _ in range(3)] == ["1", "2", "3"]


def test_a_4xx_saves_and_a_5xx_does_not(visitor: Visitor) -> None:
    def answering(code: int, key: str) -> Callable[[Any], Any]:
        def act(session: Any) -> Any:
            session[key] = 1
            return "as you like", code

        return act

    visitor.visit(answering(404, "refused"))
    failed = visitor.visit(answering(500, "failed"))
    assert failed.headers.getlist("Set-Cookie") == []
    assert visitor.content() == {"refused": 1}


@pytest.mark.parametrize("testing", [False, True])
def test_an_exception_discards_changes_but_no_logout(visitor: Visitor, testing: bool) -> None:
    visitor.app.testing = testing

    def fail(act: Callable[[Any], Any]) -> None:
        def failing(session: Any) -> None:
            act(session)
            raise ZeroDivisionError

        if testing:
            with pytest.raises(ZeroDivisionError):
                visitor.visit(failing)
        else:
            assert visitor.visit(failing).status_code == 500

    visitor.visit(storing(a=1))
    fail(storing(a=2))
    assert visitor.content() == {"a": 1}
    fail(lambda session: session.invalidate())
    assert rows() == []


@pytest.mark.parametrize("value", ["x" * 100_000, object()])
def test_what_cant_be_stored_is_a_500_and_nothing_is_stored(visitor: Visitor, value: Any) -> None:
    visitor.visit(storing(a=1))
    assert visitor.visit(storing(a=value)).status_code == 500
    assert visitor.content() == {"a": 1}


def test_an_error_at_the_save_is_the_applications_to_handle(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor = make_visitor()

    @visitor.app.errorhandler(SessionTooLarge)
    def too_large(error: SessionTooLarge) -> Any:
        return f"over {error.limit}", 413

    visitor.visit(storing(a=1))
    answer = visitor.visit(storing(a="x" * 100_000))
    assert (answer.status_code, answer.text) == (413, "over 65536")
    assert visitor.content() == {"a": 1}


def test_what_the_answer_to_such_an_error_puts_right_is_stored(
    make_visitor: Callable[..., Visitor],
) -> None:
    visitor = make_visitor()

    @visitor.app.errorhandler(SessionTooLarge)
    def too_large(error: SessionTooLarge) -> Any:
        flask.session.pop("a")
        flask.session["note"] = "too large"
        return "put right"

    answer = visitor.visit(storing(a="x" * 100_000))
    assert (answer.text, answer.headers["Vary"]) == ("put right", "Cookie")
    assert visitor.content() == {"note": "too large"}


def test_blueprints_and_hooks_share_the_session(visitor: Visitor) -> None:
    blueprint = flask.Blueprint("shop", __name__, url_prefix="/shop")

    @blueprint.before_request
    def before() -> None:
        flask.session["before"] = 1

    @blueprint.after_request
    def after(response: flask.Response) -> flask.Response:
        flask.session["after"] = flask.session["view"] + 1
        return response

    @blueprint.get("/")
    def view() -> str:
        flask.session["view"] = flask.session["before"] + 1
        return "ok"

    visitor.app.register_blueprint(blueprint)
    assert visitor.client.get("/shop/").status_code == 200
    assert visitor.content() == {"before": 1, "view": 2, "after": 3}


def test_parallel_requests_keep_each_others_keys(visitor: Visitor) -> None:
    visitor.visit(storing(a=1))
    tab = Visitor(visitor.app)
    assert visitor.token is not None
    tab.token = visitor.token

    def write_while_another_tab_does(session: Any) -> None:
        session["c"] = 3
        tab.visit(storing(b=2))

    visitor.visit(write_while_another_tab_does)
    assert visitor.content() == {"a": 1, "b": 2, "c": 3}


@pytest.fixture
def wrapped(visitor: Visitor) -> Visitor:
    return inside(visitor)


def test_an_outer_middleware_of_ours_with_the_same_manager_shares_the_session(
    wrapped: Visitor,
) -> None:
    assert isinstance(wrapped.app.session_interface, FlaskSessions)
    set_cookie_of(wrapped.visit(storing(a=1)))
    set_cookie_of(wrapped.visit(storing(user_id="alice")))
    assert wrapped.content() == {"a": 1, "user_id": "alice"}
    assert len(rows()) == 1


def test_inside_it_a_logout_holds_whichever_way_the_session_is_found(wrapped: Visitor) -> None:
    def act(session: FlaskSession) -> str:
        user: str = session["user_id"]
        session_of(flask.request).invalidate()
        return user

    wrapped.visit(storing(user_id="alice"))
    assert wrapped.visit(act).json == "alice"
    assert wrapped.content() == {}
    assert rows() == []


def test_inside_it_a_change_after_the_response_has_begun_is_an_error_too(wrapped: Visitor) -> None:
    wrapped.visit(storing(a=1))
    with pytest.raises(ResponseAlreadyStarted):
        wrapped.visit(streaming(lambda session: session.update(late=1)))
    assert wrapped.content() == {"a": 1}


def test_inside_it_a_late_change_is_saved_by_hand_too(wrapped: Visitor) -> None:
    def late(session: FlaskSession) -> None:
        del session["a"]
        session.update(late=1, a=2)
        session.save()

    wrapped.visit(storing(a=1))
    assert wrapped.visit(streaming(late)).text == "onetwo"
    assert wrapped.content() == {"a": 2, "late": 1}


@pytest.mark.parametrize("nested", [False, True])
def test_inside_it_a_late_save_keeps_what_another_tab_stored_before(
    nested: bool, wrapped: Visitor
) -> None:
    tab = Visitor(wrapped.app)

    def late(session: FlaskSession) -> None:
        if nested:
            session["cart"].append("milk")
        else:
            session["late"] = 1
        session.save()

    def beside_another_tab(session: FlaskSession) -> flask.Response:
        session["mine"] = 1
        tab.visit(storing(other=2))
        return streaming(late)(session)

    wrapped.visit(storing(cart=["tea"]))
    tab.token = wrapped.token or ""
    assert wrapped.visit(beside_another_tab).text == "onetwo"
    own = {"cart": ["tea", "milk"]} if nested else {"cart": ["tea"], "late": 1}
    assert wrapped.content() == {**own, "mine": 1, "other": 2}
