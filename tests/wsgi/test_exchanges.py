"""How a response comes to its end: read, closed, broken off, started again."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import FileWrapper

import pytest

from sessionware import ResponseAlreadyStarted, Session
from tests.asgi.site import Act, rows
from tests.wsgi.site import (
    OK,
    PLAIN,
    Body,
    Exchange,
    WsgiSite,
    WsgiVisitor,
    chunks_of,
    session_in,
    stored,
)


def exchange_with(site: WsgiSite, app: WSGIApplication, token: str | None = None) -> Exchange:
    """A request by hand, for what only a server sees."""
    number = site.expect(app)
    browser = site.browser(token)
    cookie = None if token is None else browser.cookie
    return Exchange(site.app, browser._environ("/", cookie, [("x-handler", number)], "GET"))


def run(exchange: Exchange) -> Iterable[bytes]:
    exchange.result = exchange.app(exchange.environ, exchange.start_response)
    return exchange.result


@pytest.mark.parametrize("body", [[b"one"], (b"one", b"two"), [], ()])
def test_a_list_or_tuple_reaches_the_server_as_it_is(site: WsgiSite, body: Any) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        session_in(environ)["a"] = 1
        start_response(OK, [])
        return body  # type: ignore[no-any-return]

    exchange = exchange_with(site, app)
    assert run(exchange) is body
    assert len(rows()) == 1


def wrapper_function(file: Any, size: int = 8192) -> Iterable[bytes]:
    """As uWSGI's: a function, whose result it knows again by its identity."""
    return iter(lambda: file.read(size), b"")


@pytest.mark.parametrize("wrapper", [FileWrapper, wrapper_function], ids=["class", "function"])
def test_a_wrapped_file_reaches_the_server_as_it_is_so_that_it_can_use_sendfile(
    site: WsgiSite, wrapper: Any
) -> None:
    made: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        session_in(environ)["a"] = 1
        start_response(OK, [])
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"content"), 4))
        return made[0]  # type: ignore[no-any-return]

    exchange = exchange_with(site, app)
    exchange.environ["wsgi.file_wrapper"] = wrapper
    assert run(exchange) is made[0]
    assert len(rows()) == 1
    assert list(made[0]) == [b"cont", b"ent"]
    if isinstance(wrapper, type):
        assert exchange.environ["wsgi.file_wrapper"] is wrapper


def test_a_body_is_closed_once_when_it_was_read(browser: WsgiVisitor) -> None:
    body = Body([b"one"])
    answer = browser.serve(returning(body))
    assert (answer.body, body.closed) == (b"one", 1)


def returning(body: Any, act: Act = lambda s: s.update(a=1)) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        act(session_in(environ))
        start_response(OK, list(PLAIN))
        return body  # type: ignore[no-any-return]

    return app


def test_a_body_that_nobody_reads_is_closed_and_its_session_saved(site: WsgiSite) -> None:
    body = Body(iter([b"one"]))
    exchange = exchange_with(site, returning(body))
    run(exchange)
    assert rows() == []
    exchange.close()
    assert (body.closed, len(rows())) == (1, 1)
    # Whoever closed it, such as a middleware that answers HEAD, has the headers all the same.
    assert [name for name, _ in exchange.headers] == [
        "Content-Type",
        "Vary",
        "Cache-Control",
        "Set-Cookie",
    ]


def starting(start_response: StartResponse) -> Iterator[bytes]:
    start_response(OK, list(PLAIN))
    yield b"one"


def test_a_generator_that_never_ran_has_saved_nothing_but_a_logout_holds(site: WsgiSite) -> None:
    for act, left in ((lambda s: s.update(a=2), 1), (Session.invalidate, 0)):

        def app(
            environ: WSGIEnvironment, start_response: StartResponse, act: Any = act
        ) -> Iterable[bytes]:
            act(session_in(environ))
            return starting(start_response)

        visitor = stored(site, a=0)
        exchange = exchange_with(site, app, visitor.token)
        run(exchange)
        exchange.close()
        assert (exchange.status, len(rows())) == (None, left)
        assert visitor.content() == ({"a": 0} if left else {})
        visitor.visit(Session.clear)


def test_a_body_that_the_client_stops_reading_is_closed_and_what_was_saved_stays(
    site: WsgiSite,
) -> None:
    body = Body([b"one", b"two"])
    exchange = exchange_with(site, returning(body))
    assert next(iter(run(exchange))) == b"one"
    exchange.close()
    exchange.close()
    assert (body.closed, len(rows())) == (1, 1)


def test_a_late_change_is_told_though_the_client_stopped_reading(site: WsgiSite) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(OK, list(PLAIN))
        yield b"one"
        session_in(environ)["late"] = 1
        yield b"two"

    exchange = exchange_with(site, app)
    chunks = iter(run(exchange))
    assert [next(chunks), next(chunks)] == [b"one", b"two"]
    # The server drops the iterator before it calls close().
    del chunks
    with pytest.raises(ResponseAlreadyStarted):
        exchange.close()


def test_a_change_in_close_is_saved_where_nobody_read_the_body(site: WsgiSite) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_in(environ)
        start_response(OK, list(PLAIN))
        return Body([b"one"], lambda: session.update(a=1))

    exchange = exchange_with(site, app)
    run(exchange)
    exchange.close()
    assert len(rows()) == 1


def test_a_change_in_close_after_the_response_raises_and_the_response_is_whole(
    browser: WsgiVisitor,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = session_in(environ)
        start_response(OK, list(PLAIN))
        return Body([b"one"], lambda: session.update(a=1))

    with pytest.raises(ResponseAlreadyStarted):
        browser.serve(app)
    answer = browser.serve(app, may_fail=True)
    assert (answer.body, answer.complete, rows()) == (b"one", True, [])


@pytest.mark.parametrize("validated", [True, False], ids=["validated", "plain"])
def test_a_close_that_raises_is_the_servers_to_handle_after_what_was_saved(
    browser: WsgiVisitor, validated: bool
) -> None:
    def fail() -> None:
        raise ValueError("while closing")

    with pytest.raises(ValueError, match="while closing"):
        browser.serve(returning(Body([b"one"], fail)), validated=validated)
    assert len(rows()) == 1


def test_a_close_that_raises_fails_a_request_whose_body_nobody_read(site: WsgiSite) -> None:
    def fail() -> None:
        raise ValueError("while closing")

    for act, left in ((lambda s: s.update(a=2), 1), (Session.invalidate, 0)):
        visitor = stored(site, a=0)
        exchange = exchange_with(site, returning(Body([b"one"], fail), act), visitor.token)
        run(exchange)
        with pytest.raises(ValueError, match="while closing"):
            exchange.close()
        assert len(rows()) == left
        visitor.visit(Session.clear)


def test_a_wrapped_file_is_closed_where_the_save_fails(site: WsgiSite) -> None:
    file = io.BytesIO(b"content")

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        session_in(environ)["a"] = object()
        start_response(OK, [])
        return environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]

    exchange = exchange_with(site, app)
    exchange.environ["wsgi.file_wrapper"] = FileWrapper
    with pytest.raises(Exception, match="object"):
        run(exchange)
    assert file.closed


@pytest.mark.parametrize("where", ["app", "body"])
def test_an_exception_after_start_response_but_before_the_first_byte_discards_all(
    site: WsgiSite, where: str
) -> None:
    visitor = stored(site, a=0)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session_in(environ)["a"] = 1
        start_response(OK, list(PLAIN))
        if where == "app":
            raise ValueError("the app's own")
        return failing(b"")

    exchange = exchange_with(site, app, visitor.token)
    with pytest.raises(ValueError, match="the app's own"):
        exchange.run()
    # The server has seen no headers, and is free to send its own page.
    assert (exchange.status, visitor.content()) == (None, {"a": 0})


def failing(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks
    raise ValueError("the app's own")


def test_an_exception_in_the_middle_of_a_body_leaves_what_was_saved(browser: WsgiVisitor) -> None:
    with pytest.raises(ValueError, match="the app's own"):
        browser.serve(returning(failing(b"one")))
    answer = browser.serve(returning(failing(b"one")), may_fail=True)
    assert (answer.status, answer.body, answer.complete) == (200, b"one", False)
    assert len(answer.set_cookies) == 1
    assert browser.content() == {"a": 1}


def test_an_exception_after_the_first_byte_is_not_hidden_by_a_late_change(
    browser: WsgiVisitor,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(OK, list(PLAIN))
        yield b"one"
        session_in(environ)["late"] = 1
        raise ValueError("the app's own")

    with pytest.raises(ValueError, match="the app's own"):
        browser.serve(app)
    assert rows() == []


class Stop(BaseException):
    """As gunicorn's SystemExit in a request that takes too long."""


def test_a_request_that_is_broken_off_saves_nothing(site: WsgiSite) -> None:
    visitor = stored(site, a=0)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(OK, list(PLAIN))
        session_in(environ)["a"] = 1
        raise Stop
        yield b""

    with pytest.raises(Stop):
        exchange_with(site, app, visitor.token).run()
    assert visitor.content() == {"a": 0}


def replacing(*first: bytes, status: str = "500 Sorry", then: Act = bool) -> WSGIApplication:
    """An app that fails after some chunks, and starts its response again as PEP 3333 has it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            session_in(environ)["a"] = 1
            start_response(OK, list(PLAIN))
            yield from first
            raise ValueError("the app's own")
        except ValueError:
            then(session_in(environ))
            start_response(status, [*PLAIN, ("X-Second", "1")], sys.exc_info())
            yield b"an error page"

    return app


@pytest.mark.parametrize("first", [(), (b"",)], ids=["nothing", "an empty chunk"])
@pytest.mark.parametrize(("status", "left"), [("500 Sorry", 0), ("404 Not Found", 1)])
def test_a_response_started_again_before_the_first_byte_takes_the_firsts_place(
    browser: WsgiVisitor, first: tuple[bytes, ...], status: str, left: int
) -> None:
    answer = browser.serve(replacing(*first, status=status))
    assert (answer.status, answer.body) == (int(status[:3]), b"an error page")
    assert answer.all("x-second") == ["1"]
    assert (len(answer.set_cookies), len(rows())) == (left, left)


def test_a_response_started_again_after_the_first_byte_raises_what_it_was_told(
    browser: WsgiVisitor,
) -> None:
    with pytest.raises(ValueError, match="the app's own"):
        browser.serve(replacing(b"one"))
    assert len(rows()) == 1


def test_a_response_started_again_where_the_server_has_held_back_the_headers_has_the_cookie(
    site: WsgiSite,
) -> None:
    """As under a middleware that compresses: bytes have left the application, but no further."""

    class Buffering(Exchange):
        def write(self, data: bytes, /) -> None:
            self.chunks.append(data)

    number = site.expect(replacing(b"one"))
    environ = site.browser()._environ("/", None, [("x-handler", number)], "GET")
    exchange = Buffering(site.app, environ)
    exchange.run()
    assert exchange.status == "500 Sorry"
    assert [name for name, _ in exchange.headers if name == "Set-Cookie"] == ["Set-Cookie"]


@pytest.mark.parametrize("between", [(), (b"one",)])
def test_starting_a_response_twice_without_exc_info_is_refused(
    browser: WsgiVisitor, between: tuple[bytes, ...]
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(OK, list(PLAIN))
        yield from between
        start_response(OK, list(PLAIN))

    with pytest.raises(AssertionError, match="twice"):
        browser.serve(app, validated=False)


@pytest.mark.parametrize("body", [[], [b"one"], chunks_of(), chunks_of(b"one")])
def test_a_body_without_start_response_is_refused(browser: WsgiVisitor, body: Any) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session_in(environ)["a"] = 1
        return body  # type: ignore[no-any-return]

    with pytest.raises(AssertionError, match="start_response"):
        browser.serve(app, validated=False)
    assert rows() == []


def test_headers_changed_between_start_response_and_the_first_byte_count(
    browser: WsgiVisitor,
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = list(PLAIN)
        start_response(OK, headers)
        headers.append(("X-Late", "1"))
        yield b"one"

    assert browser.serve(app).all("x-late") == ["1"]


def test_no_traceback_is_held_once_the_response_has_begun(site: WsgiSite) -> None:
    """A traceback holds its frames, and they hold the request (PEP 3333 warns of the circle)."""
    exchange = exchange_with(site, replacing())
    iterator = iter(run(exchange))
    next(iterator)
    held = gc.get_referents(exchange.result)
    assert site.manager in held
    assert not any(isinstance(value, tuple) for value in held)
    exchange.close()


def test_what_the_middleware_adds_to_the_environ_shows_no_id_and_no_data(
    site: WsgiSite,
) -> None:
    visitor = stored(site, secret="PAYLOAD")
    assert visitor.token is not None
    seen: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ.pop("HTTP_COOKIE")
        dict(session_in(environ))
        seen.append(repr(environ))
        start_response(OK, list(PLAIN))
        return []

    visitor.serve(app)
    assert visitor.token.partition(".")[0] not in seen[0]
    assert "PAYLOAD" not in seen[0]
