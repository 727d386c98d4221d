"""Where a session's ID comes from, and where it does not (R01, R02, R17, R18, R62)."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from base64 import urlsafe_b64decode

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import sessionware
from sessionware import MemoryStore, SessionManager, session_of
from sessionware.tokens import Tokens, hash_id, new_id
from tests.apps import COOKIE, SECRET, Browser, Managers, app_of, attributes
from tests.byhand import Visitor, storing
from tests.security.conftest import Database

pytestmark = pytest.mark.anyio

FORKS = 4
EACH = 50
FORKING = f"""
import os
from sessionware import SessionManager

manager = SessionManager(secret_key={SECRET!r}, purge_interval=None)
for _ in range({FORKS}):
    if os.fork() == 0:
        for _ in range({EACH}):
            session = manager.open(None)
            session["k"] = 1
            os.write(1, dict(manager.close(session))["Set-Cookie"].encode() + b"\\n")
        os._exit(0)
for _ in range({FORKS}):
    assert os.wait()[1] == 0
"""


async def test_ten_thousand_sessions_have_ten_thousand_ids_of_256_bits(
    make_manager: Managers,
) -> None:
    manager = make_manager(store=MemoryStore())
    seen = set()
    for _ in range(10_000):
        session = await manager.aopen(None)
        session["k"] = 1
        seen.add(dict(await manager.aclose(session))["Set-Cookie"].partition(";")[0])
    assert len(seen) == 10_000
    shape = re.compile(rf"{COOKIE}=([A-Za-z0-9_-]{{43}})\.[A-Za-z0-9_-]{{43}}")
    ids = [shape.fullmatch(each) for each in seen]
    assert all(ids)
    assert {len(urlsafe_b64decode(each[1] + "=")) for each in ids if each} == {32}


async def test_seeding_random_twice_the_same_does_not_repeat_an_id(browser: Browser) -> None:
    tokens = set()
    for _ in range(2):
        random.seed(1)
        browser.token = None
        tokens.add((await browser.get("/write?k=v")).token)
    assert len(tokens) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_workers_forked_before_the_first_use_never_make_the_same_id() -> None:
    source = os.path.dirname(sessionware.__path__[0])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == FORKS * EACH
    assert len(set(lines)) == len(lines)


async def test_an_id_that_the_server_did_not_issue_is_never_adopted_even_signed_with_its_key(
    make_manager: Managers, database: Database
) -> None:
    browser = Browser(app_of(make_manager(store=database.engine)))
    foreign = new_id()
    browser.token = Tokens(SECRET, [], COOKIE).sign(foreign)
    answer = await browser.get("/write?k=v")
    assert not answer.token.startswith(foreign)
    assert [row.sid_hash for row in database.rows()] == [hash_id(answer.token.partition(".")[0])]


def test_an_id_that_is_taken_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = SessionManager(secret_key=SECRET, store=MemoryStore(), purge_interval=None)
    first, second = Visitor(manager), Visitor(manager)
    first.visit(storing(a=1))
    assert first.cookie is not None
    taken = first.cookie.partition("=")[2].partition(".")[0]
    monkeypatch.setattr("sessionware.states.new_id", lambda: taken)
    second.visit(storing(b=2))
    assert second.cookie != first.cookie
    assert (first.content(), second.content()) == ({"a": 1}, {"b": 2})
    manager.shutdown()


async def test_an_id_is_taken_from_the_cookie_only(browser: Browser) -> None:
    await browser.get("/write?k=v")
    token = browser.token
    assert token is not None
    pair = f"{COOKIE}={token}"
    names = (COOKIE, "Authorization", "X-Session", "X-Session-Id", "Cookie2", "Set-Cookie")
    elsewhere = [(name, value) for name in names for value in (token, pair, f"Bearer {token}")]
    for path in (f"/read?{pair}", f"/read;{pair}", "/read"):
        answer = await browser.get(path, cookie=None, headers=elsewhere)
        assert answer.status == 404 or answer.json() == {}
        assert answer.set_cookies == []
    assert (await browser.get("/read")).json() == {"k": "v"}


async def test_the_cookie_carries_32_random_bytes_and_a_mac_and_nothing_else(
    browser: Browser,
) -> None:
    token = (await browser.get("/login?user=marker")).token
    parts = [urlsafe_b64decode(part + "=") for part in token.split(".")]
    assert [len(part) for part in parts] == [32, 32]
    assert all(b"marker" not in part and b"{" not in part[:1] for part in parts)


async def test_a_handler_finds_the_id_nowhere_in_the_sessions_public_attributes(
    manager: SessionManager,
) -> None:
    async def public(request: Request) -> Response:
        session = session_of(request)
        names = [name for name in dir(session) if not name.startswith("_")]
        # `link` is for adapters, and what it returns says nothing of itself either.
        values = [getattr(session, name) for name in names]
        return JSONResponse([names, [repr(value) for value in values]])

    browser = Browser(app_of(manager, Route("/public", public)))
    await browser.get("/write?k=v")
    assert browser.token is not None
    answer = await browser.get("/public")
    names, values = answer.json()
    assert not {"id", "sid", "session_id", "session_key", "sid_hash"} & set(names)
    assert not any(browser.token.partition(".")[0] in value for value in values)


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
async def test_host_and_forwarding_headers_decide_nothing_of_the_cookie(
    make_manager: Managers, sqlite_url: str, scheme: str, secure: bool
) -> None:
    app = app_of(make_manager(store=sqlite_url, https_only=secure))
    spoofed = [
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https" if scheme == "http" else "http"),
        ("Forwarded", "host=evil.example;proto=https"),
        ("X-Forwarded-Prefix", "/evil"),
    ]
    plain = await Browser(app, scheme=scheme).get("/write?k=v")
    answer = await Browser(app, scheme=scheme).get("/write?k=v", headers=spoofed)
    assert attributes(answer.set_cookie) == attributes(plain.set_cookie)
    assert "domain" not in attributes(answer.set_cookie)
    assert ("secure" in attributes(answer.set_cookie)) is secure
