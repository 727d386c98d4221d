"""Events: counted all, logged one a second and kind, passed on, and never in the way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from logging.handlers import BufferingHandler

import pytest

from sessionware import MemoryStore, SessionEvent
from sessionware.events import EventSink
from tests.apps import Managers
from tests.byhand import Visitor, login


class Ticking:
    """In place of time.monotonic."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    ticking = Ticking()
    monkeypatch.setattr("sessionware.events.time.monotonic", ticking)
    return ticking


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """All that sessionware logs."""
    handler = BufferingHandler(capacity=1_000_000)
    logger = logging.getLogger("sessionware")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.buffer
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_ten_thousand_of_a_kind_in_a_second_are_one_line_and_all_counted(
    monotonic: Ticking, lines: list[logging.LogRecord]
) -> None:
    sink = EventSink()
    for _ in range(10_000):
        sink.emit("bad_signature")
    assert len(lines) == 1
    assert sink.counts() == {"bad_signature": 10_000}


def test_each_kind_has_its_own_second(monotonic: Ticking, lines: list[logging.LogRecord]) -> None:
    sink = EventSink()
    for _ in range(3):
        sink.emit("expired")
        sink.emit("corrupt", "0123456789ab", "a record is too short")
    monotonic.now += 0.99
    sink.emit("expired")
    monotonic.now += 0.01
    sink.emit("expired")
    assert [record.getMessage() for record in lines] == [
        "session event expired session=- total=1 ",
        "session event corrupt session=0123456789ab total=1 a record is too short",
        "session event expired session=- total=5 ",
    ]


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("created", logging.DEBUG),
        ("expired", logging.DEBUG),
        ("bad_signature", logging.INFO),
        ("stale_save_dropped", logging.INFO),
        ("duplicate", logging.WARNING),
        ("corrupt", logging.WARNING),
        ("late_change", logging.WARNING),
        ("store_error", logging.WARNING),
    ],
)
def test_what_needs_somebody_to_look_is_a_warning(
    kind: str, level: int, lines: list[logging.LogRecord]
) -> None:
    EventSink().emit(kind)  # type: ignore[arg-type]
    assert lines[0].levelno == level


def test_every_event_is_passed_on_whether_it_is_logged_or_not(monotonic: Ticking) -> None:
    seen: list[SessionEvent] = []
    sink = EventSink(seen.append)
    sink.emit("created", "0123456789ab")
    sink.emit("created", detail="more")
    assert seen == [
        SessionEvent("created", "0123456789ab"),
        SessionEvent("created", None, "more"),
    ]


def fail(event: SessionEvent) -> None:
    raise RuntimeError(f"hunter2 {event}")


def test_what_on_event_raises_is_logged_without_its_text_and_goes_no_further(
    lines: list[logging.LogRecord],
) -> None:
    sink = EventSink(fail)
    sink.emit("created")
    assert "on_event raised RuntimeError" in [record.getMessage() for record in lines]
    assert not any("hunter2" in record.getMessage() or record.exc_info for record in lines)
    assert sink.counts() == {"created": 1}


def test_an_on_event_that_always_raises_does_not_flood_the_log(
    monotonic: Ticking, lines: list[logging.LogRecord]
) -> None:
    sink = EventSink(fail)
    for _ in range(20):
        sink.emit("bad_signature")
    assert 1 <= len(lines) <= 2


def test_on_event_may_ask_for_the_counts() -> None:
    """It is not called under the lock."""
    asked: list[dict[str, int]] = []
    sink = EventSink(lambda event: asked.append(sink.counts()))
    sink.emit("created")
    assert asked == [{"created": 1}]


def test_no_count_is_lost_between_threads() -> None:
    sink = EventSink()

    def emit_often() -> None:
        for _ in range(500):
            sink.emit("conflict")

    threads = [threading.Thread(target=emit_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sink.counts() == {"conflict": 4_000}


def test_counts_are_a_copy() -> None:
    sink = EventSink()
    sink.counts()["created"] = 5
    assert sink.counts() == {}


def test_a_sessions_whole_life_leaves_no_secret_in_log_or_events(
    lines: list[logging.LogRecord],
) -> None:
    seen: list[SessionEvent] = []
    visitor = Visitor(Managers()(store=MemoryStore(), on_event=seen.append))
    cookies = []
    for act in (login("alice@example.org"), login("bob@example.org"), _store_secret):
        visitor.visit(act)
        cookies.append(visitor.cookie)
    Visitor(visitor.manager, cookies[0]).visit()
    Visitor(visitor.manager, "session=forged").visit()
    Visitor(visitor.manager, f"{cookies[0]}; {cookies[1]}").visit()
    visitor.visit(lambda session: session.invalidate())
    kinds = {event.kind for event in seen}
    assert kinds >= {"created", "rotated", "retired_id_used", "bad_signature", "duplicate", "ended"}
    assert lines
    told = "\n".join([*(record.getMessage() for record in lines), *map(repr, seen)])
    secrets = [part for cookie in cookies for part in str(cookie).partition("=")[2].split(".")]
    for secret in (*secrets, "alice", "bob", "hunter2"):
        assert secret not in told


def _store_secret(session: dict[str, str]) -> None:
    session["password"] = "hunter2"
