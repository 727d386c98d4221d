"""What is in the table is data: sealed if wanted, never code, never a way to another session
(R23, R24, R53).
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sessionware import SessionEvent, session_of
from sessionware.records import HEADER_BYTES
from tests.apps import Browser, Managers, app_of
from tests.security.conftest import Database

pytestmark = pytest.mark.anyio

FIRST, SECOND = "1f" * 32, "2e" * 32


class Exploit:
    """Leaves a mark in the current folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return eval, ("__import__('os').mkdir('unpickled')",)


def keep_header(payload: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:HEADER_BYTES] + payload


def set_byte(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([value]) + data[at + 1 :]


CORRUPT: dict[str, Callable[[bytes], object]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: b"\x01",
    "header cut": lambda data: data[: HEADER_BYTES - 1],
    "no payload": lambda data: data[:HEADER_BYTES],
    "payload cut": lambda data: data[:-1],
    "rubbish after": lambda data: data + b"x",
    "zeros": lambda data: bytes(len(data)),
    "random": lambda data: os.urandom(len(data)),
    "a later format": set_byte(0, 2),
    "unknown flags": set_byte(1, 0x80),
    "flagged as encrypted": set_byte(1, 2),
    "flagged as another serializer's": set_byte(1, 4),
    "unknown kind of expiry": set_byte(HEADER_BYTES - 9, 9),
    "a list": keep_header(b"[1]"),
    "null": keep_header(b"null"),
    "a string": keep_header(b'"user_id"'),
    "not JSON": keep_header(b"user_id=alice"),
    "JSON in single quotes": keep_header(b"{'user_id': 'alice'}"),
    "NaN": keep_header(b'{"k": NaN}'),
    "an endless number": keep_header(b'{"k": 1e400}'),
    "invalid utf-8": keep_header(b'{"k": "\xff"}'),
    "utf-16": keep_header('{"k": "v"}'.encode("utf-16")),
    "100,000 brackets": keep_header(b'{"k":' + b"[" * 100_000),
    "gzip": lambda data: gzip.compress(data),
    "JSON without a header": lambda data: data[HEADER_BYTES:],
    "text in place of bytes": lambda data: "text " * 20,
    "text that looks like JSON": lambda data: json.dumps({"user_id": "alice", "pad": "x" * 99}),
    "a number": lambda data: 7,
    "a pickle": lambda data: pickle.dumps(Exploit()),
    "a pickle after the header": keep_header(pickle.dumps({"k": Exploit()})),
}


@pytest.fixture
def events() -> list[SessionEvent]:
    return []


@pytest.mark.parametrize("coherence", ["validate", "bounded", "stamps"])
@pytest.mark.parametrize("damage", CORRUPT.values(), ids=CORRUPT)
async def test_a_corrupt_row_is_an_anonymous_visitor_and_an_event_and_stays_as_it_is(
    make_manager: Managers,
    database: Database,
    events: list[SessionEvent],
    tmp_path: Path,
    damage: Callable[[bytes], object],
    coherence: str,
) -> None:
    browser = Browser(app_of(make_manager(store=database.engine)))
    await browser.get("/login?user=alice")
    token = browser.token
    data = database.run("SELECT data FROM sessions")[0][0]
    database.run("UPDATE sessions SET data = ?", damage(data))
    damaged = database.rows()
    fresh = make_manager(store=database.engine, on_event=events.append, coherence=coherence)
    browser = Browser(app_of(fresh), token)
    for _ in range(2):
        answer = await browser.get("/read")
        assert (answer.status, answer.json(), answer.set_cookies) == (200, {}, [])
    assert [event.kind for event in events] == ["corrupt", "corrupt"]
    for path in ("/rotate", "/logout", "/clear"):
        assert (await browser.get(path, cookie=f"session={token}")).set_cookies == []
    answer = await browser.get("/write?mine=1")
    assert answer.json() == {"mine": "1"}
    assert answer.token != token
    assert database.rows()[: len(damaged)] == damaged
    assert not (tmp_path / "unpickled").exists()


async def test_a_row_that_turns_corrupt_during_a_request_is_not_overwritten(
    make_manager: Managers, database: Database
) -> None:
    async def damaged(request: Request) -> Response:
        session_of(request)["mine"] = 1
        damage = "UPDATE sessions SET data = ?, version = version + 1"
        await anyio.to_thread.run_sync(database.run, damage, b"damaged")
        return PlainTextResponse("done")

    browser = Browser(app_of(make_manager(store=database.engine), Route("/damaged", damaged)))
    await browser.get("/write?k=v")
    answer = await browser.get("/damaged")
    assert answer.set_cookies == []
    assert [row.data for row in database.rows()] == [b"damaged"]


class TestEncryption:
    """With ``encryption_key``, through the app."""

    @pytest.fixture
    def sealed(self, make_manager: Managers, database: Database) -> Callable[..., Browser]:
        def make(key: str | None = FIRST, *fallbacks: str, token: str | None = None) -> Browser:
            manager = make_manager(
                store=database.engine,
                encryption_key=key,
                encryption_key_fallbacks=fallbacks,
            )
            return Browser(app_of(manager), token)

        return make

    async def test_the_payload_is_in_no_column_of_any_table(
        self, sealed: Callable[..., Browser], database: Database
    ) -> None:
        browser = sealed()
        for path in ("/write?k=PAYLOAD-MARKER", "/rotate", "/write?l=PAYLOAD-MARKER"):
            answer = await browser.get(path)
        assert answer.json() == {"k": "PAYLOAD-MARKER", "l": "PAYLOAD-MARKER"}
        values = [value for row in database.rows() for value in row]
        assert all(b"MARKER" not in value for value in values if isinstance(value, bytes))
        assert all("MARKER" not in str(value) for value in values)

    async def test_the_data_of_two_rows_exchanged_opens_neither(
        self, sealed: Callable[..., Browser], database: Database
    ) -> None:
        alice, bob = sealed(), sealed()
        await alice.get("/login?user=alice")
        await bob.get("/login?user=bob")
        (first, of_alice), (second, of_bob) = database.run("SELECT id, data FROM sessions")
        for row_id, data in ((first, of_bob), (second, of_alice)):
            database.run("UPDATE sessions SET data = ? WHERE id = ?", data, row_id)
        for browser in (sealed(token=alice.token), sealed(token=bob.token)):
            assert (await browser.get("/read")).json() == {}

    async def test_the_same_content_is_never_sealed_to_the_same_bytes(
        self, sealed: Callable[..., Browser], database: Database
    ) -> None:
        browser = sealed()
        sealed_bytes = set()
        for step in range(100):
            await browser.get(f"/write?k={step % 2}")
            (row,) = database.rows()
            sealed_bytes.add(row.data[HEADER_BYTES:][-32:])
        assert len(sealed_bytes) == 100

    @pytest.mark.parametrize(
        ("written_with", "read_with"), [(None, FIRST), (FIRST, None), (FIRST, SECOND)]
    )
    async def test_a_row_of_another_setting_is_refused_and_left_alone(
        self,
        sealed: Callable[..., Browser],
        database: Database,
        written_with: str | None,
        read_with: str | None,
    ) -> None:
        writer = sealed(written_with)
        await writer.get("/login?user=alice")
        before = database.rows()
        assert (await sealed(read_with, token=writer.token).get("/read")).json() == {}
        assert database.rows() == before

    @pytest.mark.parametrize("position", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, -1])
    async def test_a_single_bit_changed_anywhere_makes_the_visitor_anonymous(
        self, sealed: Callable[..., Browser], database: Database, position: int
    ) -> None:
        writer = sealed()
        await writer.get("/login?user=alice")
        data = bytearray(database.rows()[0].data)
        data[position] ^= 1
        database.run("UPDATE sessions SET data = ?", bytes(data))
        assert (await sealed(token=writer.token).get("/read")).json() == {}

    async def test_keys_are_exchanged_without_a_logout_and_a_removed_key_opens_nothing(
        self, sealed: Callable[..., Browser]
    ) -> None:
        browser = sealed(FIRST)
        await browser.get("/write?k=v")
        kept = sealed(FIRST)
        await kept.get("/write?k=v")
        between = sealed(SECOND, FIRST, token=browser.token)
        assert (await between.get("/read")).json() == {"k": "v"}
        await between.get("/write?l=w")
        after: Any = sealed(SECOND, token=browser.token)
        assert (await after.get("/read")).json() == {"k": "v", "l": "w"}
        assert (await sealed(SECOND, token=kept.token).get("/read")).json() == {}
