"""A row that can't be read: anonymous, reported, and left exactly as it is."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from sessionware import Session
from sessionware.records import HEADER_BYTES
from tests.asgi.site import Act, Site, StoredRow, Visitor, execute, from_handler, row, rows

pytestmark = pytest.mark.anyio


class Bomb:
    """Unpickled, it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("exploded", "w")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "NULs": lambda data: bytes(len(data)),
    "garbage": lambda data: os.urandom(200),
    "cut in the header": lambda data: data[: HEADER_BYTES - 1],
    "cut after the header": lambda data: data[:HEADER_BYTES],
    "cut in the content": lambda data: data[:-1],
    "more after the content": lambda data: data + b"}",
    "a later format": lambda data: b"\x02" + data[1:],
    "an unknown flag": lambda data: data[:1] + b"\x80" + data[2:],
    "sealed it says": lambda data: data[:1] + b"\x02" + data[2:],
    "custom it says": lambda data: data[:1] + b"\x04" + data[2:],
    "pickle": lambda data: pickle.dumps({"user_id": "admin", "bomb": Bomb()}),
    "pickle for content": lambda data: data[:HEADER_BYTES] + pickle.dumps(Bomb()),
    "plain JSON": lambda data: b'{"user_id": "admin"}',
    "a list": lambda data: data[:HEADER_BYTES] + b'["user_id"]',
    "a number": lambda data: data[:HEADER_BYTES] + b"1",
    "null": lambda data: data[:HEADER_BYTES] + b"null",
    "no UTF-8": lambda data: data[:HEADER_BYTES] + b'{"a":"\xff"}',
    "JSON too deep": lambda data: data[:HEADER_BYTES] + b'{"a":' + b"[" * 100_000,
}


def damaged(damage: Callable[[bytes], bytes]) -> StoredRow:
    """The only row, after its data has been damaged."""
    execute("UPDATE sessions SET data = ?", damage(row().data))
    return row()


async def stored(site: Site, **content: Any) -> Visitor:
    browser = site.browser()
    await browser.visit(lambda session: session.update(content or {"user_id": "alice"}))
    return browser


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(cache_ttl=0, rolling=True)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_a_row_that_cannot_be_read_is_anonymous_reported_and_left_alone(
    site: Site, damage: Callable[[bytes], bytes]
) -> None:
    browser = await stored(site)
    before = damaged(damage)
    acts: list[Act | None] = [
        None, dict, Session.clear, Session.invalidate, Session.rotate,
        lambda session: session.pop("user_id", None),
    ]  # fmt: skip
    for act in acts:
        answer = await browser.visit(act)
        assert (answer.status, answer.set_cookies) == (200, [])
    assert await browser.content() == {}
    assert rows() == [before]
    assert site.events[-len(acts) - 1 :] == ["corrupt"] * (len(acts) + 1)
    assert not os.path.exists("exploded")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_what_is_stored_in_its_place_goes_into_another_row(
    site: Site, damage: Callable[[bytes], bytes]
) -> None:
    browser = await stored(site)
    before, old = damaged(damage), browser.cookie
    answer = await browser.visit(lambda session: session.update(new=1))
    assert (answer.status, len(answer.set_cookies)) == (200, 1)
    assert await browser.content() == {"new": 1}
    assert await browser.content(cookie=old) == {}
    assert rows()[0] == before


TIMES = ["created_at", "authenticated_at", "last_seen", "expires_at", "purge_after"]
FOREIGN: dict[str, tuple[str, object]] = {
    **{f"text in {column}": (column, "soon") for column in (*TIMES, "version", "epoch")},
    **{f"a fraction in {column}": (column, 1e13 + 0.5) for column in TIMES},
    **{f"no moment in {column}": (column, 2**63 - 1) for column in TIMES},
    **{f"a full counter in {column}": (column, 2**63 - 1) for column in ("version", "epoch")},
    **{f"bytes in {column}": (column, b"x") for column in ("user_id", "ip", "user_agent")},
}


@pytest.mark.parametrize(("column", "value"), FOREIGN.values(), ids=FOREIGN)
async def test_a_column_that_holds_what_is_never_written_there_makes_its_row_unreadable(
    make_site: Callable[..., Site], column: str, value: object
) -> None:
    site = make_site(cache_ttl=0, rolling=True, idle_timeout=1800, absolute_timeout=86400)
    browser = await stored(site)
    execute(f"UPDATE sessions SET {column} = ?", value)
    before = row()
    acts: list[Act | None] = [None, dict, Session.rotate, Session.invalidate]
    for act in acts:
        answer = await browser.visit(act)
        assert (answer.status, answer.set_cookies) == (200, [])
        assert site.events[-1] == "corrupt"
    old, answer = browser.cookie, await browser.visit(lambda session: session.update(new=1))
    assert (answer.status, await browser.content()) == (200, {"new": 1})
    assert await browser.content(cookie=old) == {}
    assert rows()[0] == before
    assert await site.manager.alist_sessions("alice") == []


@pytest.mark.parametrize("column", ["last_seen", "expires_at"])
async def test_times_that_are_never_written_are_not_taken_over_into_the_cache(
    make_site: Callable[..., Site], column: str
) -> None:
    site = make_site(coherence="validate")
    browser = await stored(site)
    assert await browser.content() == {"user_id": "alice"}
    execute(f"UPDATE sessions SET {column} = 'soon'")
    for _ in range(2):
        assert await browser.content() == {}
    assert site.events[-2:] == ["corrupt", "corrupt"]


@pytest.mark.parametrize("column", ["version", "last_seen", "expires_at"])
async def test_a_column_that_is_damaged_during_the_request_is_left_alone_too(
    site: Site, column: str
) -> None:
    browser = await stored(site)

    async def slow(request: Request) -> None:
        request.session["late"] = 1
        await from_handler(execute, f"UPDATE sessions SET {column} = 'soon', epoch = epoch + 1")

    answer = await browser.serve(slow)
    assert (answer.status, answer.set_cookies) == (200, [])
    assert getattr(row(), column) == "soon"
    assert site.events[-1] == "stale_save_dropped"


async def test_a_row_that_is_damaged_during_the_request_is_left_alone_too(site: Site) -> None:
    browser = await stored(site)

    async def slow(request: Request) -> None:
        request.session["late"] = 1
        await from_handler(execute, "UPDATE sessions SET data = x'00', version = version + 1")

    answer = await browser.serve(slow)
    assert (answer.status, answer.set_cookies) == (200, [])
    assert row().data == b"\0"
    assert site.events[-1] == "stale_save_dropped"


SEALED: dict[str, Callable[[bytes], bytes]] = {
    "one bit of the content": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "one bit of the owner": lambda data: data[:16] + bytes([data[16] ^ 1]) + data[17:],
    "plain it says": lambda data: data[:1] + b"\x00" + data[2:],
    "plain it is": lambda data: data[:1] + b"\x00" + data[2:HEADER_BYTES] + b'{"user_id":"admin"}',
}


@pytest.mark.parametrize("damage", SEALED.values(), ids=SEALED)
async def test_under_encryption_any_change_makes_a_row_unreadable(
    make_site: Callable[..., Site], damage: Callable[[bytes], bytes]
) -> None:
    site = make_site(cache_ttl=0, encryption_key=b"k" * 31 + b"1")
    browser = await stored(site)
    before = damaged(damage)
    assert await browser.content() == {}
    assert rows() == [before]
    assert site.events[-1] == "corrupt"


async def test_under_encryption_the_content_of_another_row_is_unreadable(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(cache_ttl=0, encryption_key=b"k" * 31 + b"1")
    alice, bob = await stored(site), await stored(site, user_id="bob")
    data = [stored.data for stored in rows()]
    for record, other in zip(rows(), reversed(data), strict=True):
        execute("UPDATE sessions SET data = ? WHERE id = ?", other, record.id)
    for browser in (alice, bob):
        assert await browser.content() == {}
    assert site.events[-2:] == ["corrupt", "corrupt"]


@pytest.mark.parametrize(
    ("written_with", "read_with"),
    [
        ({}, {"encryption_key": b"k" * 31 + b"1"}),
        ({"encryption_key": b"k" * 31 + b"1"}, {}),
        ({"encryption_key": b"k" * 31 + b"1"}, {"encryption_key": b"k" * 31 + b"2"}),
    ],
    ids=["plain", "sealed", "another key"],
)
async def test_a_row_of_other_settings_is_anonymous_and_comes_back_with_its_own(
    make_site: Callable[..., Site], written_with: dict[str, Any], read_with: dict[str, Any]
) -> None:
    writer = make_site(cache_ttl=0, **written_with)
    browser = await stored(writer)
    before = row()
    reader = make_site(cache_ttl=0, **read_with)
    assert await reader.browser(browser.token).content() == {}
    assert reader.events == ["corrupt"]
    assert rows() == [before]
    assert await browser.content() == {"user_id": "alice"}


async def test_a_row_of_another_serializer_is_anonymous(make_site: Callable[..., Site]) -> None:
    class Reversed:
        def dumps(self, content: dict[str, Any]) -> bytes:
            return json.dumps(content).encode()[::-1]

        def loads(self, raw: bytes) -> dict[str, Any]:
            content: dict[str, Any] = json.loads(raw[::-1])
            return content

    browser = await stored(make_site(cache_ttl=0))
    other = make_site(cache_ttl=0, serializer=Reversed())
    assert await other.browser(browser.token).content() == {}
    assert await (await stored(other, a=1)).content() == {"a": 1}


async def test_a_serializer_that_fails_on_a_row_makes_it_corrupt_and_no_5xx(
    make_site: Callable[..., Site],
) -> None:
    class Fragile:
        broken = False

        def dumps(self, content: dict[str, Any]) -> bytes:
            return json.dumps(content).encode()

        def loads(self, raw: bytes) -> dict[str, Any]:
            if self.broken:
                raise KeyError("deep inside")
            content: dict[str, Any] = json.loads(raw)
            return content

    fragile = Fragile()
    site = make_site(cache_ttl=0, serializer=fragile)
    browser = await stored(site)
    before = row()
    fragile.broken = True
    assert await browser.content() == {}
    assert (rows(), site.events[-1]) == ([before], "corrupt")
    fragile.broken = False
    assert await browser.content() == {"user_id": "alice"}
