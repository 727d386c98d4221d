"""From a framework's request to its session and manager."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from .manager import SessionManager
from .session import Session
from .states import SessionState


def session_of(request: Any) -> Session:
    """The session of a request, typed: Starlette's and FastAPI's ``Request`` and ``WebSocket``, an
    ASGI scope or a WSGI environ, Django's ``HttpRequest``.

    Raises ``LookupError`` if no middleware of ours has seen the request.
    """
    found = _lookup(request, "sessionware.session", "session")
    if found is None:
        found = _of_engine(request, "sessionware_session")
    if found is None:
        found = _of_hook(request)
    if not isinstance(found, Session):
        raise LookupError("this request has no session: is sessionware's middleware installed?")
    found.mark_accessed()
    return found


def manager_of(request: Any) -> SessionManager:
    """The manager that loaded a request's session; takes what ``session_of`` takes, and a
    ``Session``.

    Raises ``LookupError`` if no middleware of ours has seen the request.
    """
    if isinstance(request, Session):
        found = _behind(request)
    else:
        found = _manager_in(request)
        if found is None:
            found = _of_engine(request, "sessionware_manager")
        if found is None:
            # A factory that makes the session at this moment leaves its manager in the request.
            found = _behind(_of_hook(request)) or _manager_in(request)
    if not isinstance(found, SessionManager):
        raise LookupError("this request has no manager: is sessionware's middleware installed?")
    return found


def _behind(session: Session | None) -> SessionManager | None:
    link = None if session is None else session.link()
    return link.manager if isinstance(link, SessionState) else None


def _manager_in(request: Any) -> Any:
    return _lookup(request, "sessionware.manager", "sessionware.manager")


def _lookup(request: Any, *keys: str) -> Any:
    # `env` is Falcon's name for what all others call `environ`.
    names = ("scope", "environ", "env")
    for holder in (request, *(getattr(request, name, None) for name in names)):
        if isinstance(holder, dict):
            for key in keys:
                if key in holder:
                    return holder[key]
    return None


def _of_engine(request: Any, method: str) -> Any:
    """What our engine says of a request of Django's, or of one of the REST framework's around it.

    Only an attribute that was set counts: Starlette's ``session`` is a property that may raise.
    """
    inner = getattr(request, "_request", request)
    answer = getattr(getattr(inner, "__dict__", {}).get("session"), method, None)
    return None if answer is None else answer()


def _of_hook(request: Any) -> Session | None:
    """The session of a framework that makes it as soon as it is asked for it, as Pyramid does."""
    with suppress(Exception):
        session = request.session
        return session if isinstance(session, Session) else None
    return None
