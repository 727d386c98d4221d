"""Every shape that a response may have (PEP 3333): saved before its first byte leaves."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest

from sessionware import Session
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


def as_list(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    session["a"] = 1
    start()
    return [b"o", b"", b"ne"]


def as_tuple(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    start()
    session["a"] = 1
    return (b"one",)


def as_empty_list(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    start()
    session["a"] = 1
    return []


def as_generator(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    session["a"] = 1
    start()
    return chunks_of(b"one")


def started_in_generator(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    session["a"] = 0
    start()
    session["a"] = 1
    yield b"o"
    yield b"ne"


def changed_in_generator(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    start()
    return changing(session, b"one")


def changing(session: Session, *chunks: bytes) -> Iterator[bytes]:
    session["a"] = 1
    yield from chunks


def changed_after_empty_chunks(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    start()
    yield b""
    yield b""
    session["a"] = 1
    yield b"one"
    yield b""


def empty_generator(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    start()
    return changing(session)


def only_empty_chunks(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    start()
    return changing(session, b"", b"")


def as_object(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    start()
    return Body(changing(session, b"one"))


def by_write(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    write = start()
    session["a"] = 1
    write(b"o")
    write(b"ne")
    return []


def by_write_and_body(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    write = start()
    write(b"")
    session["a"] = 1
    write(b"o")
    return [b"ne"]


def by_write_in_generator(session: Session, start: Callable[[], Any]) -> Iterable[bytes]:
    write = start()
    session["a"] = 1
    write(b"o")
    yield b"ne"


SHAPES: dict[str, tuple[Any, bytes]] = {
    "list": (as_list, b"one"),
    "tuple": (as_tuple, b"one"),
    "empty list": (as_empty_list, b""),
    "generator": (as_generator, b"one"),
    "generator that starts the response": (started_in_generator, b"one"),
    "generator that changes the session": (changed_in_generator, b"one"),
    "empty chunks first": (changed_after_empty_chunks, b"one"),
    "empty generator": (empty_generator, b""),
    "only empty chunks": (only_empty_chunks, b""),
    "object": (as_object, b"one"),
    "write": (by_write, b"one"),
    "write and a body": (by_write_and_body, b"one"),
    "write in a generator": (by_write_in_generator, b"one"),
}


def app_of(shape: Any, status: str = OK) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        result: Iterable[bytes] = shape(
            session_in(environ), lambda: start_response(status, list(PLAIN))
        )
        return result

    return app


@pytest.mark.parametrize("validated", [True, False], ids=["validated", "plain"])
@pytest.mark.parametrize(("shape", "body"), SHAPES.values(), ids=SHAPES)
def test_a_body_of_any_shape_arrives_whole_and_its_session_is_saved(
    browser: WsgiVisitor, shape: Any, body: bytes, validated: bool
) -> None:
    answer = browser.serve(app_of(shape), validated=validated)
    assert (answer.status, answer.body, answer.complete) == (200, body, True)
    assert len(answer.set_cookies) == 1
    assert browser.content() == {"a": 1}


@pytest.mark.parametrize(("shape", "body"), SHAPES.values(), ids=SHAPES)
def test_the_save_is_committed_before_the_first_byte_leaves(
    site: WsgiSite, shape: Any, body: bytes
) -> None:
    seen: list[Any] = []

    class Watching(Exchange):
        def start_response(self, status: str, headers: Any, exc_info: Any = None, /) -> Any:
            token = dict(headers)["Set-Cookie"].partition(";")[0]
            seen.append(site.browser().content(cookie=token))
            return super().start_response(status, headers, exc_info)

    number = site.expect(app_of(shape))
    environ = site.browser()._environ("/", None, [("x-handler", number)], "GET")
    Watching(site.app, environ).run()
    assert seen == [{"a": 1}]


@pytest.mark.parametrize(("shape", "body"), SHAPES.values(), ids=SHAPES)
def test_a_failed_response_of_any_shape_discards_the_changes(
    site: WsgiSite, shape: Any, body: bytes
) -> None:
    visitor = stored(site, a=0)
    answer = visitor.serve(app_of(shape, "500 Sorry"))
    assert (answer.status, answer.body, answer.set_cookies) == (500, body, [])
    assert visitor.content() == {"a": 0}


@pytest.mark.parametrize(("shape", "body"), SHAPES.values(), ids=SHAPES)
def test_a_head_request_saves_like_any_other(browser: WsgiVisitor, shape: Any, body: bytes) -> None:
    answer = browser.serve(app_of(shape), method="HEAD")
    assert (answer.status, len(answer.set_cookies)) == (200, 1)
    assert browser.content() == {"a": 1}


@pytest.mark.parametrize(("shape", "body"), SHAPES.values(), ids=SHAPES)
def test_the_servers_of_the_standard_library_can_send_it(
    site: WsgiSite, shape: Any, body: bytes
) -> None:
    number = site.expect(app_of(shape))
    environ = site.browser()._environ("/", None, [("x-handler", number)], "GET")
    output = io.BytesIO()
    handler = SimpleHandler(io.BytesIO(), output, sys.stderr, {})
    handler.base_env = environ
    handler.origin_server = False
    handler.run(site.app)
    head, _, sent = output.getvalue().partition(b"\r\n\r\n")
    assert sent == body
    assert head.startswith(b"Status: 200 OK\r\n")
    assert head.count(b"Set-Cookie: ") == 1
    if shape in (as_tuple, as_empty_list):
        assert b"Content-Length: %d" % len(body) in head
