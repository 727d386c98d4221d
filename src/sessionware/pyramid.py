"""Pyramid: ``config.set_session_factory(PyramidSessions(secret_key=...))``."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Unpack

from pyramid.httpexceptions import HTTPServiceUnavailable  # type: ignore[import-untyped]
from pyramid.interfaces import ISession  # type: ignore[import-untyped]
from zope.interface import implementer  # type: ignore[import-untyped]

from . import clock
from .adapting import (
    MANAGER_KEY,
    SESSION_KEY,
    UNAVAILABLE,
    chosen_manager,
    client_of,
    could_not_load,
    is_excluded,
    is_loaded_outside,
    refuse_async_store,
    two_owners,
)
from .config import DEFAULTS
from .errors import StoreUnavailable
from .headers import with_session_wsgi
from .manager import ManagerOptions, SessionManager
from .session import NoSession, Session
from .states import state_of

USER_KEYS: Final[tuple[str, ...]] = (*DEFAULTS["user_key"], "auth.userid")
"""The default of ``user_key``: Pyramid's ``SessionAuthenticationHelper`` keeps the user there."""

_FLASH: Final = "_f_"
_CSRF_TOKEN: Final = "_csrft_"


class PyramidSessions:
    """A session factory, with a session that is loaded at its first access and saved as the
    response is ready.

    Takes the settings of the middlewares as keywords, or a ``manager`` that is shared with other
    apps in place of them all. Raises ``ConfigurationError`` with everything that is wrong; does no
    I/O.
    """

    def __init__(
        self, *, manager: SessionManager | None = None, **settings: Unpack[ManagerOptions]
    ) -> None:
        if manager is None:
            settings.setdefault("user_key", USER_KEYS)
        self.manager = chosen_manager(manager, {}, settings)
        refuse_async_store(self.manager)

    def __call__(self, request: Any) -> Session:
        manager, environ = self.manager, request.environ
        path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        path = path.encode("latin-1", "replace").decode("utf-8", "replace")
        if is_excluded(path, manager.settings.exclude):
            environ.setdefault(MANAGER_KEY, manager)
            return _ExcludedSession()
        outer = environ.get(SESSION_KEY)
        if is_loaded_outside(outer, manager):
            if isinstance(outer, PyramidSession):
                # A subrequest with a copy of the request's environ: who began it saves.
                return outer
            raise two_owners()
        presented = manager.recognizer.recognize_environ(environ)
        client: tuple[str | None, str | None] = (None, None)
        if manager.settings.record_client:
            client = client_of(environ.get("REMOTE_ADDR"), environ.get("HTTP_USER_AGENT"))
        session = manager.attach(PyramidSession(), presented, client)
        environ[SESSION_KEY] = session
        environ[MANAGER_KEY] = manager
        exchange = _Exchange(manager, session)
        request.add_response_callback(exchange.respond)
        request.add_finished_callback(exchange.finish)
        return session


class SessionUnavailable(StoreUnavailable, HTTPServiceUnavailable):  # type: ignore[misc]
    """``StoreUnavailable`` as Pyramid's views raise errors: its own response, where no exception
    view of the application's takes it.
    """


class _PyramidsWays(Session):
    """What ``pyramid.interfaces.ISession`` has beyond a dict and ``invalidate``."""

    __slots__ = ()

    @property
    def created(self) -> int:
        """When the session was first stored, or now: seconds since the epoch."""
        at = self.created_at
        return int(clock.now() / 1000 if at is None else at.timestamp())

    @property
    def new(self) -> bool:
        """True until the session has been stored."""
        return self.is_new

    def changed(self) -> None:
        """Nested changes are found without this."""
        self.mark_modified()

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Keep a message for the next page."""
        messages = self.setdefault(_FLASH + queue, [])
        if allow_duplicate or msg not in messages:
            messages.append(msg)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Take the messages out of the session."""
        messages: list[Any] = self.pop(_FLASH + queue, [])
        return messages

    def peek_flash(self, queue: str = "") -> list[Any]:
        """Look at the messages and leave them there."""
        messages: list[Any] = self.get(_FLASH + queue, [])
        return messages

    def new_csrf_token(self) -> str:
        """Put a new token in the place of the old one."""
        token = secrets.token_hex(20)
        self[_CSRF_TOKEN] = token
        return token

    def get_csrf_token(self) -> str:
        """The session's token; a new one if it has none."""
        token: str | None = self.get(_CSRF_TOKEN)
        return self.new_csrf_token() if token is None else token


@implementer(ISession)
class PyramidSession(_PyramidsWays):
    """``request.session``."""

    __slots__ = ()

    def mark_accessed(self) -> None:
        with _as_response(self):
            super().mark_accessed()

    def save(self) -> None:
        with _as_response(self):
            super().save()

    def take(self, key: Any, *default: Any, **named: Any) -> Any:
        with _as_response(self):
            return super().take(key, *default, **named)

    def incr(self, key: Any, amount: int | float = 1) -> int | float:
        with _as_response(self):
            return super().incr(key, amount)

    def revalidate(self) -> bool:
        with _as_response(self):
            return super().revalidate()


@implementer(ISession)
class _ExcludedSession(_PyramidsWays, NoSession):
    """Where there is no session (``exclude``)."""

    __slots__ = ()


class _Exchange:
    """One request and its response."""

    def __init__(self, manager: SessionManager, session: PyramidSession) -> None:
        self._manager = manager
        self._session = session
        self._responded = self._saved = False

    def respond(self, request: Any, response: Any) -> None:
        """Save, and add to the response what it has to carry."""
        self._responded = True
        manager, session = self._manager, self._session
        if could_not_load(session, response.status_code):
            self._make_unavailable(response)
            return
        try:
            closing = manager.finish(session, failed=response.status_code >= 500)
        except StoreUnavailable:
            self._make_unavailable(response)
            return
        self._saved = True
        set_cookie = manager.set_cookie(closing)
        if set_cookie is not None:
            manager.note_scheme(request.scheme)
        if closing.vary:
            response.headerlist = with_session_wsgi(
                response.headerlist, set_cookie, manager.settings.session_cookie
            )
        if not isinstance(response.app_iter, list | tuple):
            response.app_iter = self._watched(response.app_iter)

    def finish(self, request: Any) -> None:
        """The end of the request, except for a body that is made while it is sent."""
        manager, session = self._manager, self._session
        if self._saved:
            manager.check_late_change(session)
        elif session.asked.ended:
            # Logged out means logged out; a store that fails at it has been reported.
            with suppress(StoreUnavailable):
                manager.finish(session, failed=True)
        elif not self._responded and sys.exception() is None:
            # Nobody looked at it before the response had left.
            state = state_of(session)
            state.sent = state.loaded
            manager.check_late_change(session)

    def _make_unavailable(self, response: Any) -> None:
        """503 with Retry-After, in place of a response that depends on a session nobody could
        read or save.
        """
        response.status = 503
        response.headerlist = [("Content-Type", "text/plain; charset=utf-8")]
        response.headers.update(_headers(self._manager))
        response.body = UNAVAILABLE

    def _watched(self, body: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from body
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
        self._manager.check_late_change(self._session)


@contextmanager
def _as_response(session: Session) -> Iterator[None]:
    try:
        yield
    except SessionUnavailable:
        raise
    except StoreUnavailable as error:
        headers = list(_headers(state_of(session).manager).items())
        raise SessionUnavailable(headers=headers) from error  # type: ignore[call-arg]


def _headers(manager: SessionManager) -> dict[str, str]:
    return {"Retry-After": str(manager.retry_after), "Cache-Control": "no-store"}
