"""Quart with ``QuartSessions`` as its session interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sessionware import (
    ConfigurationError,
    SessionManager,
    SessionTooLarge,
    StoreUnavailable,
    session_of,
)
from tests.apps import SECRET, Browser, attributes
from tests.asgi.failing import FailingStore
from tests.frameworks.importing import framework
from tests.frameworks.rules import Rules, is_unavailable, rows

framework("quart")

from quart import Quart, request, session  # noqa: E402

from sessionware.quart import QuartSessions  # noqa: E402
from tests.frameworks.quart_site import app_of, browser_of  # noqa: E402

LATE = "after the response had begun"


def alone(error: BaseException) -> BaseException:
    """The one exception of a group: Quart has a request in a task group since 0.23."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return error


class TestQuart(Rules):
    def browser(self, manager: SessionManager) -> Browser:
        return browser_of(app_of(QuartSessions(manager=manager)))


pytestmark = pytest.mark.anyio


async def test_the_global_is_the_requests_session(own: Quart) -> None:
    @own.get("/global")
    async def look() -> Any:
        session["a"] = 1
        return {"same": dict(session) == session_of(request), "new": session.new}

    browser = browser_of(own)
    assert (await browser.get("/global")).json() == {"same": True, "new": True}
    assert (await browser.get("/global")).json() == {"same": True, "new": False}


async def test_a_view_that_is_no_coroutine_has_the_session_too(own: Quart) -> None:
    @own.get("/sync")
    def count() -> Any:
        session["n"] = session.get("n", 0) + 1
        return {"n": session["n"]}

    browser = browser_of(own)
    await browser.get("/sync")
    assert (await browser.get("/sync")).json() == {"n": 2}


async def test_only_a_permanent_session_has_a_cookie_that_outlives_the_browser(own: Quart) -> None:
    own.config["PERMANENT_SESSION_LIFETIME"] = 3600

    @own.get("/permanent/<int:value>")
    async def permanent(value: int) -> str:
        session.permanent = bool(value)
        return "ok"

    browser = browser_of(own)
    assert "max-age" not in attributes((await browser.get("/write?a=1")).set_cookie)
    kept = attributes((await browser.get("/permanent/1")).set_cookie)
    assert kept["max-age"] == "3600"
    assert "expires" in kept
    assert "max-age" not in attributes((await browser.get("/permanent/0")).set_cookie)


async def refreshed(own: Quart) -> Browser:
    """A browser with a permanent session."""

    @own.get("/permanent")
    async def permanent() -> str:
        session.permanent = True
        session["a"] = 1
        return "ok"

    browser = browser_of(own)
    await browser.get("/permanent")
    return browser


async def test_a_permanent_sessions_cookie_is_sent_with_every_response(own: Quart) -> None:
    browser = await refreshed(own)
    token = browser.token
    answer = await browser.get("/noop", cookie=f"session={token}")
    assert answer.token == token
    assert answer.all("vary") == ["Cookie"]
    own.config["SESSION_REFRESH_EACH_REQUEST"] = False
    assert (await browser.get("/noop")).set_cookies == []


async def test_a_late_refresh_does_not_bring_an_old_id_back(own: Quart) -> None:
    browser = await refreshed(own)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @own.get("/slow")
    async def slow() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    late = asyncio.ensure_future(browser.get("/slow", cookie=f"session={browser.token}"))
    await begun.wait()
    await browser.get("/login?user_id=alice")
    go_on.set()
    assert (await late).set_cookies == []


async def test_the_configuration_is_read_at_each_request(own: Quart) -> None:
    browser = browser_of(own)
    await browser.get("/write?a=1")
    old = own.secret_key
    own.secret_key = "another secret for tests, long enough: 456789"
    assert (await browser.get("/read")).json() == {}
    own.config["SECRET_KEY_FALLBACKS"] = [old]
    assert (await browser.get("/read")).json() == {"a": "1"}
    own.config["SESSION_COOKIE_SAMESITE"] = "Strict"
    own.config["SESSION_COOKIE_PATH"] = "/app"
    chosen = attributes((await browser.get("/write?a=2", cookie=None)).set_cookie)
    assert chosen["samesite"].lower() == "strict"
    assert chosen["path"] == "/app"


async def test_without_a_secret_the_session_says_so(
    store: FailingStore, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of(QuartSessions(store=store))
    browser = browser_of(app)
    assert (await browser.get("/read")).json() == {}
    assert (await browser.get("/write?a=1")).status == 500
    assert "no secret key was set" in caplog.text
    assert store.calls == []


async def test_settings_that_are_wrong_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="max_age"):
        QuartSessions(max_agee=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("flag", ["SECURE", "PARTITIONED"])
async def test_a_text_is_no_flag(flag: str, own: Quart, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"SESSION_COOKIE_{flag}"
    with monkeypatch.context() as configured:
        configured.setitem(own.config, name, "False")
        with pytest.raises((ConfigurationError, BaseExceptionGroup)) as raised:
            await browser_of(own).get("/write?a=1")
    assert f"pass {name}=True" in str(alone(raised.value))


async def test_a_session_transaction_prepares_and_reads_a_session(own: Quart) -> None:
    client = own.test_client()
    async with client.session_transaction() as prepared:
        prepared["a"] = 1
    assert await (await client.get("/read")).get_json() == {"a": 1}
    await client.get("/write?b=2")
    async with client.session_transaction() as found:
        assert dict(found) == {"a": 1, "b": "2"}


async def test_a_session_transaction_that_cannot_be_stored_says_so(
    own: Quart, store: FailingStore
) -> None:
    store.down.add("insert")
    with pytest.raises(StoreUnavailable):
        async with own.test_client().session_transaction() as prepared:
            prepared["a"] = 1


async def test_a_path_that_is_excluded_has_no_session(store: FailingStore) -> None:
    app = app_of(QuartSessions(store=store, exclude=["/noop", "/read"]), SECRET_KEY=SECRET)
    browser = browser_of(app)
    await browser.get("/write?a=1")
    store.calls.clear()
    assert (await browser.get("/read")).json() == {}
    await browser.get("/noop")
    assert store.calls == []


async def test_the_apps_own_handler_answers_for_a_failing_store(
    own: Quart, store: FailingStore
) -> None:
    @own.errorhandler(StoreUnavailable)
    async def sorry(error: StoreUnavailable) -> Any:
        return "sorry", 503

    browser = browser_of(own)
    await browser.get("/write?a=1")
    store.down.update(("load", "stamp"))
    answer = await browser.get("/read")
    assert (answer.status, answer.body) == (503, b"sorry")
    store.down.clear()
    store.down.add("replace")
    answer = await browser.get("/write?a=2")
    assert (answer.status, answer.body) == (503, b"sorry")
    assert answer.all("content-length") == ["5"]
    assert answer.set_cookies == []


async def test_an_error_at_the_save_is_the_applications_to_handle(own: Quart) -> None:
    @own.errorhandler(SessionTooLarge)
    async def too_large(error: SessionTooLarge) -> Any:
        return f"over {error.limit}", 413

    browser = browser_of(own)
    await browser.get("/write?a=1")
    answer = await browser.get("/write?a=" + "x" * 100_000)
    assert (answer.status, answer.body) == (413, b"over 65536")
    assert answer.all("vary") == ["Cookie"]
    assert (await browser.get("/read")).json() == {"a": "1"}


async def test_what_the_answer_to_such_an_error_puts_right_is_stored(own: Quart) -> None:
    @own.errorhandler(SessionTooLarge)
    async def too_large(error: SessionTooLarge) -> Any:
        session.pop("a")
        session["note"] = "too large"
        return "put right"

    browser = browser_of(own)
    answer = await browser.get("/write?a=" + "x" * 100_000)
    assert answer.body == b"put right"
    assert answer.all("vary") == ["Cookie"]
    assert (await browser.get("/read")).json() == {"note": "too large"}


async def test_what_is_put_right_and_cannot_be_stored_is_503(
    own: Quart, store: FailingStore
) -> None:
    @own.errorhandler(SessionTooLarge)
    async def too_large(error: SessionTooLarge) -> Any:
        session["a"] = 2
        store.down.add("replace")
        return "put right"

    browser = browser_of(own)
    await browser.get("/write?a=1")
    assert is_unavailable(await browser.get("/write?a=" + "x" * 100_000))
    assert (await browser.get("/read")).json() == {"a": "1"}


async def test_a_handler_of_every_exception_does_not_hide_a_failing_store(
    own: Quart, store: FailingStore
) -> None:
    @own.errorhandler(Exception)
    async def sorry(error: Exception) -> Any:
        return "oh", 500

    browser = browser_of(own)
    await browser.get("/write?a=1")
    store.down.add("*")
    assert is_unavailable(await browser.get("/read"))


async def test_a_views_own_500_does_not_hide_a_failing_store(
    own: Quart, store: FailingStore
) -> None:
    @own.get("/careful")
    async def careful() -> Any:
        try:
            return dict(session)
        except StoreUnavailable:
            return "oh", 500

    browser = browser_of(own)
    await browser.get("/write?a=1")
    store.down.add("*")
    assert is_unavailable(await browser.get("/careful"))


async def test_a_logout_holds_though_the_exception_is_let_through(
    own: Quart, store: FailingStore
) -> None:
    own.config["PROPAGATE_EXCEPTIONS"] = True
    browser = browser_of(own)
    await browser.get("/write?a=1")
    await browser.get("/logout_and_boom", may_fail=True)
    assert rows(store) == 0


async def test_a_change_by_a_body_that_is_being_sent_is_an_error(own: Quart) -> None:
    @own.get("/stream")
    async def stream() -> Any:
        held = request.session  # type: ignore[attr-defined]
        held["a"] = 1

        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            held["late"] = True

        return body()

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await browser_of(own).get("/stream")
    assert LATE in str(alone(raised.value))


async def test_a_change_after_the_response_is_made_is_an_error(own: Quart) -> None:
    @own.teardown_request
    async def late(error: BaseException | None) -> None:
        request.session["late"] = True  # type: ignore[attr-defined]

    with pytest.raises(Exception) as raised:  # noqa: PT011
        await browser_of(own).get("/write?a=1")
    assert LATE in str(alone(raised.value))


async def test_a_store_with_an_async_driver_works_and_is_let_go_of(sqlite_url: str) -> None:
    url = sqlite_url.replace("sqlite:", "sqlite+aiosqlite:")
    app = app_of(QuartSessions(store=url, purge_interval=None), SECRET_KEY=SECRET)
    async with app.test_app():
        browser = browser_of(app)
        await browser.get("/write?a=1")
        assert (await browser.get("/read")).json() == {"a": "1"}
