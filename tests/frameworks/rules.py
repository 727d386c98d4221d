"""What a session has to do in every framework: one set of requests, made to each of them.

A framework's test file builds an app that answers ``/NAME`` with ``serve("NAME", ...)`` and has its
sessions from the manager it is given; it inherits the tests.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from sessionware import SessionManager, manager_of, session_of
from tests.apps import SECRET, Answer, Browser
from tests.asgi.failing import FailingStore


class Refused(Exception):
    """To be answered with this status by the framework's own means."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def read(session: Any, arguments: Mapping[str, str]) -> object:
    return dict(session)


def write(session: Any, arguments: Mapping[str, str]) -> object:
    """``/write?color=red``"""
    session.update(arguments)
    return dict(session)


def append(session: Any, arguments: Mapping[str, str]) -> object:
    """``/append?item=tea`` changes a list inside the session, from the second time on."""
    session.setdefault("cart", []).append(arguments["item"])
    return dict(session)


def login(session: Any, arguments: Mapping[str, str]) -> object:
    """``/login?user_id=alice``"""
    return write(session, arguments)


def logout(session: Any, arguments: Mapping[str, str]) -> object:
    session.invalidate()
    return "bye"


def noop(session: Any, arguments: Mapping[str, str]) -> object:
    """Doesn't look at the session."""
    return "hello"


def boom(session: Any, arguments: Mapping[str, str]) -> object:
    session.update(arguments)
    raise RuntimeError("boom")


def logout_and_boom(session: Any, arguments: Mapping[str, str]) -> object:
    session.invalidate()
    raise RuntimeError("boom")


def logout_and_spoil(session: Any, arguments: Mapping[str, str]) -> object:
    """Logs out, then stores what can't be stored."""
    session.invalidate()
    session["object"] = object()
    return "bye"


def rotate(session: Any, arguments: Mapping[str, str]) -> object:
    session.rotate()
    return "rotated"


def expire(session: Any, arguments: Mapping[str, str]) -> object:
    session.set_expiry(60)
    return "soon"


def refuse(session: Any, arguments: Mapping[str, str]) -> object:
    session.update(arguments)
    raise Refused(404)


def fail(session: Any, arguments: Mapping[str, str]) -> object:
    session.update(arguments)
    raise Refused(500)


ACTS: dict[str, Callable[[Any, Mapping[str, str]], object]] = {
    act.__name__: act
    for act in (
        *(read, write, append, login, logout, noop, boom, logout_and_boom, logout_and_spoil),
        *(rotate, expire, refuse, fail),
    )
}


def serve(
    name: str, request: Any, session: Callable[[], Any], arguments: Mapping[str, str]
) -> object:
    """Answer a request; ``session`` gets it in the framework's way, where it is needed."""
    if name == "noop":
        return noop(None, arguments)
    if name == "manager":
        return {"cookie": manager_of(request).settings.session_cookie}
    if name == "find":
        manager = manager_of(request)
        return {"same": session_of(request) is session(), "cookie": manager.settings.session_cookie}
    return ACTS[name](session(), arguments)


NAMES = (*ACTS, "find", "manager")


@pytest.mark.anyio
class Rules:
    """The tests of one framework; ``eager`` is for who loads the session before it is used."""

    eager = True

    @abstractmethod
    def browser(self, manager: SessionManager) -> Browser:
        """A browser in front of the framework's app."""

    @pytest.fixture
    def store(self) -> FailingStore:
        return FailingStore()

    @pytest.fixture
    def manager(self, store: FailingStore) -> Iterator[SessionManager]:
        manager = SessionManager(secret_key=SECRET, store=store, purge_interval=None)
        yield manager
        manager.shutdown()

    @pytest.fixture
    def visitor(self, manager: SessionManager) -> Browser:
        return self.browser(manager)

    async def test_data_comes_back(self, visitor: Browser) -> None:
        first = await visitor.get("/write?color=red")
        assert first.set_cookie
        again = await visitor.get("/read")
        assert again.json() == {"color": "red"}
        assert again.set_cookies == []
        assert "cookie" in again.all("vary")[0].lower()

    async def test_a_nested_change_is_saved(self, visitor: Browser) -> None:
        await visitor.get("/append?item=tea")
        await visitor.get("/append?item=milk")
        assert (await visitor.get("/read")).json() == {"cart": ["tea", "milk"]}

    async def test_a_login_changes_the_id_and_keeps_the_data(self, visitor: Browser) -> None:
        await visitor.get("/append?item=tea")
        before = visitor.token
        await visitor.get("/login?user_id=alice")
        assert visitor.token != before
        assert (await visitor.get("/read")).json() == {"cart": ["tea"], "user_id": "alice"}
        fixed = await visitor.get("/read", cookie=f"session={before}")
        assert fixed.json() == {}

    async def test_a_logout_deletes_row_and_cookie(
        self, visitor: Browser, store: FailingStore
    ) -> None:
        await visitor.get("/login?user_id=alice")
        stolen = visitor.token
        await visitor.get("/logout")
        assert visitor.token is None
        assert rows(store) == 0
        assert (await visitor.get("/read", cookie=f"session={stolen}")).json() == {}

    async def test_a_request_that_never_looks_sets_no_cookie_and_asks_no_store(
        self, visitor: Browser, store: FailingStore
    ) -> None:
        stranger = await visitor.get("/noop")
        assert stranger.set_cookies == []
        assert store.calls == []

        await visitor.get("/write?a=1")
        store.calls.clear()
        known = await visitor.get("/noop")
        assert known.set_cookies == []
        assert known.all("vary") == []
        asked = [call for call in store.calls if call != "prepare"]
        assert asked == (["stamp"] if self.eager else [])

    async def test_a_forged_cookie_is_ignored(self, visitor: Browser, store: FailingStore) -> None:
        await visitor.get("/write?a=1")
        assert visitor.token is not None
        store.calls.clear()
        forged = visitor.token[:-1] + ("A" if visitor.token[-1] != "A" else "E")
        answer = await visitor.get("/read", cookie=f"session={forged}")
        assert answer.json() == {}
        assert answer.set_cookies == []
        assert store.calls == []

    @pytest.mark.parametrize("path", ["/boom?a=2", "/fail?a=2"])
    async def test_a_request_that_fails_changes_nothing(self, path: str, visitor: Browser) -> None:
        await visitor.get("/write?a=1")
        answer = await visitor.get(path, may_fail=True)
        assert answer.status in (0, 500)
        assert answer.set_cookies == []
        assert (await visitor.get("/read")).json() == {"a": "1"}

    async def test_a_request_that_is_refused_saves(self, visitor: Browser) -> None:
        answer = await visitor.get("/refuse?a=1")
        assert answer.status == 404
        assert (await visitor.get("/read")).json() == {"a": "1"}

    async def test_a_logout_holds_though_the_request_fails(
        self, visitor: Browser, store: FailingStore
    ) -> None:
        await visitor.get("/login?user_id=alice")
        await visitor.get("/logout_and_boom", may_fail=True)
        assert rows(store) == 0

    async def test_a_store_that_cannot_be_read_is_a_503(
        self, visitor: Browser, store: FailingStore
    ) -> None:
        await visitor.get("/write?a=1")
        store.down.add("*")
        for path in ("/read", "/write?a=2", "/logout"):
            assert is_unavailable(await visitor.get(path))
        assert (await visitor.get("/noop")).status == 200
        store.down.clear()
        assert (await visitor.get("/read")).json() == {"a": "1"}

    async def test_a_store_that_cannot_save_is_a_503(
        self, visitor: Browser, store: FailingStore
    ) -> None:
        await visitor.get("/write?a=1")
        store.down.update(("insert", "replace", "rotate", "delete"))
        assert is_unavailable(await visitor.get("/write?a=2"))
        assert is_unavailable(await visitor.get("/write?a=2", cookie=None))
        store.down.clear()
        assert (await visitor.get("/read")).json() == {"a": "1"}

    @pytest.mark.parametrize("path", ["/logout", "/rotate", "/expire"])
    async def test_what_is_asked_of_a_session_and_cannot_be_saved_is_a_503(
        self, path: str, visitor: Browser, store: FailingStore
    ) -> None:
        await visitor.get("/write?a=1")
        store.down.update(("replace", "rotate", "remove"))
        assert is_unavailable(await visitor.get(path))
        store.down.clear()
        assert (await visitor.get("/read")).json() == {"a": "1"}

    async def test_a_logout_holds_though_nothing_else_can_be_saved(
        self, visitor: Browser, store: FailingStore
    ) -> None:
        await visitor.get("/login?user_id=alice")
        await visitor.get("/logout_and_spoil", may_fail=True)
        assert rows(store) == 0

    async def test_session_and_manager_are_found_from_a_request(
        self, visitor: Browser, manager: SessionManager
    ) -> None:
        answer = await visitor.get("/find")
        assert answer.json() == {"same": True, "cookie": "session"}

    async def test_the_manager_is_found_where_there_is_no_session(
        self, store: FailingStore
    ) -> None:
        manager = SessionManager(
            secret_key=SECRET, store=store, purge_interval=None, exclude=["/manager"]
        )
        answer = await self.browser(manager).get("/manager")
        assert answer.json() == {"cookie": "session"}
        assert store.calls == []
        manager.shutdown()


def is_unavailable(answer: Answer) -> bool:
    """A 503 that says when to come again, and nothing of a session."""
    assert answer.status == 503
    assert answer.all("retry-after") == ["2"]
    assert answer.all("cache-control") == ["no-store"]
    assert answer.set_cookies == []
    return True


def rows(store: FailingStore) -> int:
    """How many sessions are stored."""
    return len(store.rows._rows)
