"""The WSGI middleware (PEP 3333), for Bottle, Falcon, Pyramid, CherryPy and any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from .adapting import (
    MANAGER_KEY,
    SESSION_KEY,
    UNAVAILABLE,
    chosen_manager,
    client_of,
    could_not_load,
    is_excluded,
    is_from,
    refuse_async_store,
    session_outside,
    take_replacement,
)
from .config import Options
from .errors import StoreUnavailable
from .headers import with_session_wsgi
from .manager import SessionManager
from .rows import NOBODY
from .session import NoSession, Session
from .states import state_of
from .tracking import unattached

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from starlette.datastructures import Secret

    _ExcInfo: TypeAlias = (
        tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None
    )


class SessionMiddleware:
    """Server-side sessions under ``environ["sessionware.session"]``.

    Takes the same arguments as the ASGI middleware of the same name. The session is loaded at its
    first access: a request that never looks at it costs no I/O. It is saved before the first byte
    of the response leaves. Raises ``ConfigurationError`` with everything that is wrong, an async
    driver among it; does no I/O.
    """

    def __init__(
        self,
        app: WSGIApplication,
        secret_key: str | bytes | Secret | None = None,
        session_cookie: str = "session",
        max_age: int | timedelta | None = 14 * 24 * 60 * 60,
        path: str = "/",
        same_site: Literal["lax", "strict", "none"] = "lax",
        https_only: bool = False,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        manager: SessionManager | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.app = app
        own = {
            "secret_key": secret_key,
            "session_cookie": session_cookie,
            "max_age": max_age,
            "path": path,
            "same_site": same_site,
            "https_only": https_only,
            "domain": domain,
            "partitioned": partitioned,
        }
        self.manager = manager = chosen_manager(manager, own, options)
        refuse_async_store(manager)
        self._recognize = manager.recognizer.recognize_environ
        self._exclude = manager.settings.exclude
        self._records_client = manager.settings.record_client

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        manager = self.manager
        environ[MANAGER_KEY] = manager
        if self._exclude and is_excluded(_path(environ), self._exclude):
            environ[SESSION_KEY] = NoSession()
            return self.app(environ, start_response)
        if SESSION_KEY in environ or "asgi.scope" in environ:
            outer = session_outside(environ, manager)
            if outer is not None:
                environ[SESSION_KEY] = outer
                return self.app(environ, start_response)
        presented = self._recognize(environ)
        client = _client(environ) if self._records_client else NOBODY
        session = environ[SESSION_KEY] = manager.attach(unattached(Session), presented, client)
        return _Exchange(manager, environ, session, start_response).run(self.app)


_NOT_FAILED = frozenset("1234")


class _Exchange:
    """One request and its response.

    The server's ``start_response`` is called only when the first byte is about to leave, so that
    what an application does to the session between its own call and its first byte is saved too.
    """

    __slots__ = (
        "_begun",
        "_environ",
        "_failed",
        "_file",
        "_manager",
        "_result",
        "_session",
        "_set_cookie",
        "_start_response",
        "_store_failed",
        "_unavailable",
        "_vary",
        "_wanted",
        "_write",
    )

    def __init__(
        self,
        manager: SessionManager,
        environ: WSGIEnvironment,
        session: Session,
        start_response: StartResponse,
    ) -> None:
        self._manager = manager
        self._environ = environ
        self._session = session
        self._start_response = start_response
        self._wanted: tuple[str, list[tuple[str, str]], _ExcInfo] | None = None
        self._write: Any = None
        self._result: Iterable[bytes] = ()
        self._file: object = None
        self._vary = False
        self._set_cookie: str | None = None
        self._begun = False
        self._store_failed = False
        self._unavailable = False
        self._failed = False

    def run(self, app: WSGIApplication) -> Iterable[bytes]:
        """Call the application; what it returns, wrapped where code of its own is still to run."""
        wrapper = self._environ.get("wsgi.file_wrapper")
        if wrapper is not None and not isinstance(wrapper, type):
            self._watch_files(wrapper)
        try:
            self._result = app(self._environ, self._start)
            if self._is_complete(self._result) and not self._begun:
                self._begin()
                return self._result
        except Exception as error:
            if not self._is_answered_instead(error):
                # The server never sees the result, so nobody else closes it.
                self._close_result()
                raise
        return self

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks()
        except BaseException as error:
            if not self._is_answered_instead(error):
                raise
        if self._unavailable and self._environ.get("REQUEST_METHOD") != "HEAD":
            yield UNAVAILABLE

    def close(self) -> None:
        """The end of the request (PEP 3333), whether or not the body was read."""
        try:
            self._close_result()
            if self._failed:
                return
            if self._begun:
                self._manager.check_late_change(self._session)
            elif self._wanted is not None:
                # Nobody wanted the body, but the application has done its work.
                self._begin()
            else:
                self._end_session()
        except Exception as error:
            if not self._is_answered_instead(error):
                raise

    def _chunks(self) -> Iterator[bytes]:
        if self._unavailable:
            return
        for chunk in self._result:
            if not self._begun:
                if not chunk:
                    # Servers send the headers with any chunk, and they don't have them yet.
                    continue
                self._begin()
            yield chunk
        if not self._begun:
            self._begin()

    def _close_result(self) -> None:
        result, self._result = self._result, ()
        close = getattr(result, "close", None)
        if close is not None:
            close()

    def _watch_files(self, wrapper: Callable[..., Any]) -> None:
        """Some servers' file wrapper is a function, whose results have no type to know them by."""

        def watched(*args: Any) -> Any:
            self._file = wrapper(*args)
            return self._file

        self._environ["wsgi.file_wrapper"] = watched

    def _is_complete(self, result: Iterable[bytes]) -> bool:
        """Whether no code of the application's runs any more; such a body is left as it is, for
        the server to count its parts or to send the file.
        """
        if type(result) in (list, tuple) or (self._file is not None and result is self._file):
            return True
        wrapper = self._environ.get("wsgi.file_wrapper")
        return isinstance(wrapper, type) and isinstance(result, wrapper)

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo = None, /
    ) -> Any:
        """The ``start_response`` that the application sees."""
        if exc_info is None and (self._begun or self._wanted is not None):
            raise AssertionError("start_response was called twice, without exc_info")
        if self._begun:
            # Raised again there if the headers have left; if not, the new ones take their place.
            self._start_response(status, self._with_session(headers), exc_info)
        else:
            self._wanted = (status, headers, exc_info)
        return self._written

    def _written(self, data: bytes) -> None:
        """The ``write`` of old: its bytes leave at once."""
        if data:
            if not self._begun:
                self._begin()
            self._write(data)

    def _begin(self) -> None:
        """Save, then let the server have status and headers.

        Raises ``StoreUnavailable`` for a framework's 500 that comes of a failing store, too.
        """
        if self._wanted is None:
            raise AssertionError("the body began before start_response was called")
        status, headers, exc_info = self._wanted
        session, manager = self._session, self._manager
        looked = status[:1] in _NOT_FAILED and self._environ.get(SESSION_KEY) is session
        if looked and manager.is_only_read(session):
            self._begun = True
            self._wanted = None
            if session.accessed:
                self._vary = True
                headers = self._with_session(headers)
            self._write = self._start_response(status, headers, exc_info)
            return
        code = _code(status)
        if could_not_load(session, code) or (self._store_failed and code == 500):
            raise StoreUnavailable("the session could not be read or saved")
        take_replacement(session, self._environ.get(SESSION_KEY))
        try:
            closing = manager.finish(session, failed=code >= 500, looked=looked)
        except StoreUnavailable:
            # Under ``write`` the application sees this, and may make a 500 of it.
            self._store_failed = True
            raise
        self._begun = True
        self._wanted = None
        self._vary = closing.vary
        self._set_cookie = manager.set_cookie(closing)
        if self._set_cookie is not None:
            manager.note_scheme(self._environ.get("wsgi.url_scheme", "http"))
        self._write = self._start_response(status, self._with_session(headers), exc_info)

    def _with_session(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if not self._vary:
            return headers
        name = self._manager.settings.session_cookie
        return with_session_wsgi(headers, self._set_cookie, name)

    def _is_answered_instead(self, error: BaseException) -> bool:
        """The request failed: whether a 503 with Retry-After takes the place of its response, since
        that depends on a session nobody could read or save. If not, the error is the server's.
        """
        if isinstance(error, GeneratorExit):
            # The server has stopped reading.
            return False
        self._failed = True
        if self._begun:
            return False
        self._end_session()
        if not is_from(error, StoreUnavailable):
            return False
        self._begun = self._unavailable = True
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(UNAVAILABLE))),
            ("Cache-Control", "no-store"),
            ("Retry-After", str(self._manager.retry_after)),
        ]
        self._start_response("503 Service Unavailable", headers)
        return True

    def _end_session(self) -> None:
        """Logged out means logged out, in a request that failed too."""
        if self._session.asked.ended:
            # A store that fails at it has been reported.
            with suppress(StoreUnavailable):
                self._manager.finish(self._session, failed=True)
        # Whoever tries again with the same environ begins a new request.
        state_of(self._session).started = True


def _client(environ: WSGIEnvironment) -> tuple[str | None, str | None]:
    return client_of(environ.get("REMOTE_ADDR"), environ.get("HTTP_USER_AGENT"))


def _path(environ: WSGIEnvironment) -> str:
    """The whole path, decoded as ASGI has it."""
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def _code(status: str) -> int:
    code = status[:3]
    return int(code) if code.isdecimal() else 200
