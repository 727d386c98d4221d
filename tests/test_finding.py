"""Finding the session and the manager from whatever a framework hands to the application."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, assert_type

import pytest
from starlette.requests import Request
from starlette.websockets import WebSocket

from sessionware import MemoryStore, Session, SessionManager, manager_of, session_of
from tests.apps import Managers


async def unused(*args: Any) -> Any:
    raise AssertionError("nothing is received or sent")


def scope_of(session: object, manager: object, kind: str = "http") -> dict[str, Any]:
    return {"type": kind, "headers": [], "session": session, "sessionware.manager": manager}


def environ_of(session: object, manager: object) -> dict[str, Any]:
    return {"sessionware.session": session, "sessionware.manager": manager}


REQUESTS = {
    "ASGI scope": scope_of,
    "Request": lambda s, m: Request(scope_of(s, m)),
    "WebSocket": lambda s, m: WebSocket(scope_of(s, m, "websocket"), unused, unused),
    "WSGI environ": environ_of,
    "something with an environ": lambda s, m: SimpleNamespace(environ=environ_of(s, m)),
}


@pytest.fixture
def manager() -> SessionManager:
    return Managers()(store=MemoryStore())


@pytest.fixture
def session(manager: SessionManager) -> Session:
    return manager.open(None)


@pytest.mark.parametrize("make", REQUESTS.values(), ids=REQUESTS)
def test_both_are_found_in(make: Any, session: Session, manager: SessionManager) -> None:
    request = make(session, manager)
    assert manager_of(request) is manager
    assert not session.accessed
    assert session_of(request) is session
    assert session.accessed, "whoever asks for it uses it"


def test_a_session_knows_its_manager(session: Session, manager: SessionManager) -> None:
    assert manager_of(session) is manager
    assert not session.accessed


def test_the_types_are_ours(session: Session, manager: SessionManager) -> None:
    request = scope_of(session, manager)
    assert_type(session_of(request), Session)
    assert_type(manager_of(request), SessionManager)


NO_REQUESTS: dict[str, Any] = {
    "a scope without a session": {"type": "http"},
    "a scope with Starlette's own session": {"type": "http", "session": {"a": 1}},
    "a Request without a session": Request({"type": "http", "headers": []}),
    "an empty environ": {},
    "None": None,
    "an object": object(),
}


@pytest.mark.parametrize("request_", NO_REQUESTS.values(), ids=NO_REQUESTS)
@pytest.mark.parametrize("find", [session_of, manager_of])
def test_where_no_middleware_was_both_say_so(find: Any, request_: Any) -> None:
    with pytest.raises(LookupError, match="is sessionware's middleware installed"):
        find(request_)


def test_a_session_built_by_hand_has_no_manager() -> None:
    with pytest.raises(LookupError, match="no manager"):
        manager_of(Session(a=1))
