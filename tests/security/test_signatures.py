"""Which cookies verify, under which keys, and what a failure tells (R03, R19, R21, R22)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from itsdangerous import Signer, TimestampSigner

from sessionware import tokens
from sessionware.tokens import Tokens, new_id
from tests.apps import COOKIE, SECRET, Answer, Browser, Managers, app_of
from tests.security.conftest import Clock, Database

pytestmark = pytest.mark.anyio

OLD = "the old secret, long enough: 0123456789abcdef"
NEW = "the new secret, long enough: fedcba9876543210"
FORGED: list[Callable[[str], str]] = [
    lambda id: Tokens(NEW, [], COOKIE).sign(id),
    lambda id: f"{id}.{'A' * 43}",
    lambda id: f"{id}.",
    lambda id: id,
]


def header(token: str) -> str:
    return f"{COOKIE}={token}"


async def test_a_forged_cookie_reaches_neither_cache_nor_database(
    make_manager: Managers, database: Database
) -> None:
    manager = make_manager(store=database.engine)
    browser = Browser(app_of(manager))
    await browser.get("/write?k=v")
    assert browser.token is not None
    id = browser.token.partition(".")[0]
    database.statements.clear()
    before = manager.stats()
    for _ in range(250):
        for forge in FORGED:
            assert (await browser.get("/read", cookie=header(forge(id)))).json() == {}
    assert database.statements == []
    after = manager.stats()
    assert [after[name] - before[name] for name in ("cache_hits", "cache_misses")] == [0, 0]


@pytest.mark.parametrize(
    "signer",
    [
        TimestampSigner(SECRET),
        Signer(SECRET),
        Signer(SECRET, salt=tokens.SALT_PREFIX, key_derivation="hmac"),
        Signer(SECRET, salt=b"itsdangerous.Signer", digest_method=sha256),
    ],
)
async def test_what_another_user_of_itsdangerous_signed_with_the_same_secret_does_not_verify(
    browser: Browser, signer: Signer
) -> None:
    await browser.get("/write?k=v")
    assert browser.token is not None
    signed = signer.sign(browser.token.partition(".")[0]).decode()
    assert (await browser.get("/read", cookie=header(signed))).json() == {}


async def test_the_cookie_of_another_app_with_the_same_secret_and_database_does_not_verify(
    make_manager: Managers, sqlite_url: str
) -> None:
    here = Browser(app_of(make_manager(store=sqlite_url)))
    there = Browser(app_of(make_manager(store=sqlite_url, session_cookie="other")), name="other")
    await there.get("/write?k=v")
    assert there.token is not None
    assert (await here.get("/read", cookie=header(there.token))).json() == {}
    assert (await there.get("/read")).json() == {"k": "v"}


class TestKeyRotation:
    """[old], then [new] with the old one as a fallback, then [new] alone."""

    @pytest.fixture
    def deployments(self, make_manager: Managers, sqlite_url: str) -> list[Browser]:
        keys: list[dict[str, Any]] = [
            {"secret_key": OLD},
            {"secret_key": NEW, "secret_key_fallbacks": [OLD]},
            {"secret_key": NEW},
        ]
        # Tests let more than a tenth of this pass, so that a save renews the cookie.
        managers = [make_manager(store=sqlite_url, max_age=3600, **key) for key in keys]
        return [Browser(app_of(manager)) for manager in managers]

    async def test_a_session_of_the_old_key_lives_on_and_is_signed_anew_with_its_next_cookie(
        self, deployments: list[Browser], time: Clock
    ) -> None:
        first, second, third = deployments
        token = (await first.get("/write?k=v")).token
        second.token = token
        answer = await second.get("/read")
        assert (answer.json(), answer.set_cookies) == ({"k": "v"}, [])
        time.advance(1000)
        signed_anew = (await second.get("/write?l=w")).token
        assert signed_anew.partition(".")[0] == token.partition(".")[0]
        third.token = signed_anew
        assert (await third.get("/read")).json() == {"k": "v", "l": "w"}

    async def test_the_newest_key_signs_and_never_a_fallback(
        self, deployments: list[Browser]
    ) -> None:
        second = deployments[1]
        for path in ("/write?k=v", "/rotate", "/login?user=alice"):
            token = (await second.get(path)).token
            assert Tokens(NEW, [], COOKIE).verify(token.encode())
            assert not Tokens(OLD, [], COOKIE).verify(token.encode())

    async def test_a_cookie_that_was_never_signed_anew_dies_with_its_key(
        self, deployments: list[Browser]
    ) -> None:
        first, _, third = deployments
        third.token = (await first.get("/write?k=v")).token
        answer = await third.get("/read")
        assert (answer.json(), answer.set_cookies) == ({}, [])

    async def test_the_old_deployment_does_not_accept_the_new_key(
        self, deployments: list[Browser]
    ) -> None:
        first, second, _ = deployments
        first.token = (await second.get("/write?k=v")).token
        assert (await first.get("/read")).json() == {}


@pytest.mark.parametrize("path", ["/read", "/noop", "/logout", "/clear", "/write?k=v"])
async def test_unknown_expired_ended_and_badly_signed_cookies_get_the_same_bytes(
    make_manager: Managers, sqlite_url: str, time: Clock, path: str
) -> None:
    browser = Browser(app_of(make_manager(store=sqlite_url, max_age=100)))
    await browser.get("/write?a=b")
    expired = browser.token
    time.advance(101)
    browser.token = None
    await browser.get("/write?a=b")
    ended = browser.token
    await browser.get("/logout")
    assert expired is not None
    assert ended is not None
    good = Tokens(SECRET, [], COOKIE)
    presented = {
        "unknown": good.sign(new_id()),
        "expired": expired,
        "ended": ended,
        "badly signed": Tokens(NEW, [], COOKIE).sign(new_id()),
        "misshapen": "x",
    }
    answers = {
        kind: masked(await browser.get(path, cookie=header(token)))
        for kind, token in presented.items()
    }
    assert len(set(answers.values())) == 1, answers


def masked(answer: Answer) -> str:
    """All of an answer but the new session's own token."""
    headers = repr(answer.headers)
    for value in answer.set_cookies:
        headers = headers.replace(value.partition(";")[0].partition("=")[2], "TOKEN")
    return f"{answer.status} {headers} {answer.body!r}"


def test_signatures_are_compared_in_constant_time() -> None:
    source = inspect.getsource(tokens._SessionSigner.key_index)
    assert "compare_digest(" in source
    assert "==" not in source
