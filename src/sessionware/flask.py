"""Flask: our sessions in place of the ones it keeps in the cookie.

Here is only what is Flask's: its configuration, read anew for each request, ``session.permanent``,
its responses and error handlers. The rules of a session's life are the manager's.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Hashable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

from flask import has_request_context
from flask import request as current_request
from werkzeug.exceptions import ServiceUnavailable

from . import clock
from .adapting import (
    MANAGER_KEY,
    SESSION_KEY,
    UNAVAILABLE,
    chosen_manager,
    client_of,
    could_not_load,
    is_excluded,
    refuse_async_store,
    session_outside,
)
from .closing import Closing
from .cookies import Recognizer
from .errors import ConfigurationError, SessionError, StoreUnavailable
from .flask_commands import session_commands
from .flask_config import (
    CONFIG_KEYS,
    ConfiguredCookie,
    Keys,
    flag_of,
    in_flasks_words,
    lifetime_of,
)
from .flask_session import PERMANENT, NoFlaskSession
from .flask_session import FlaskSession as FlaskSession
from .headers import with_session_wsgi
from .manager import ManagerOptions, SessionManager
from .session import Session
from .states import CookieDue, state_of

if TYPE_CHECKING:
    from flask import Flask, Request, Response
    from werkzeug.datastructures import Headers

EXTENSION: Final = "sessionware"


def tell_caches(headers: Headers, set_cookie: str | None, name: str) -> None:
    """Do in place what ``with_session_wsgi`` does, to headers that have the ``Set-Cookie``."""
    there = [key.lower() for key, _ in headers]
    if set_cookie is None:
        simple = "vary" not in there
    else:
        simple = {"vary", "cache-control"}.isdisjoint(there) and there.count("set-cookie") == 1
    if not simple:
        headers[:] = with_session_wsgi(headers, set_cookie, name)
        return
    headers.add("Vary", "Cookie")
    if set_cookie is not None:
        headers.add("Cache-Control", "no-store")


class _Site:
    """What belongs to one application."""

    __slots__ = ("_recognizer", "keys", "manager", "owner")

    def __init__(self, owner: FlaskSessions) -> None:
        self.owner = owner
        self.manager: SessionManager | None = None
        self.keys: dict[Hashable, Keys] = {}
        self._recognizer: Recognizer | None = None

    def recognizer(self, manager: SessionManager, keys: Keys) -> Recognizer:
        """What knows the cookies that were signed with these keys; those of others are forgotten,
        so that all together take no more room than the manager's own would.
        """
        made = self._recognizer
        if made is None or made.tokens is not keys.tokens:
            room = manager.settings.cache_max_bytes
            made = Recognizer(keys.reader, keys.tokens, room, manager.reported)
            self._recognizer = made
        return made


class FlaskSessions(ConfiguredCookie):
    """Server-side sessions for Flask: ``FlaskSessions(app)``, or ``init_app(app)`` in a factory.

    Takes the settings of ``SessionManager`` as keywords. What is not given comes from the
    application: its ``secret_key``, ``SECRET_KEY_FALLBACKS`` and ``SESSION_COOKIE_*`` as they are
    at each request; ``PERMANENT_SESSION_LIFETIME`` as ``max_age`` and
    ``SESSION_REFRESH_EACH_REQUEST`` as ``rolling`` when the first request comes. A ``manager`` that
    is shared with other applications takes the place of them all. Raises ``ConfigurationError``
    with everything that is wrong with the keywords; does no I/O.
    """

    # Whether an event loop is there to wait in.
    _awaits = False

    def __init__(
        self,
        app: Flask | None = None,
        *,
        manager: SessionManager | None = None,
        **settings: Unpack[ManagerOptions],
    ) -> None:
        self._lock = threading.Lock()
        self._shared = manager
        given: Mapping[str, Any] = settings
        if manager is None:
            # What the application will say is not known yet: something harmless in its place.
            unsaid = {"secret_key": secrets.token_urlsafe(48), "https_only": True}
            probe: dict[str, Any] = {**unsaid, **given}
            manager = SessionManager(**probe)
        else:
            chosen_manager(manager, {}, given)
            given = {name: getattr(manager.settings, name) for name in CONFIG_KEYS}
        if not self._awaits:
            refuse_async_store(manager)
        super().__init__(given)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give an application its sessions, and the commands ``flask sessions ...``."""
        app.session_interface = self
        self._site(app)
        if "sessions" not in app.cli.commands:
            app.cli.add_command(session_commands(self.manager_of))

    def manager_of(self, app: Flask) -> SessionManager:
        """The application's manager, to list and revoke sessions; inside a request there is
        ``sessionware.manager_of(request)`` too.
        """
        site = self._site(app)
        if site.manager is None:
            with self._lock:
                site.manager = site.manager or self._shared or self._new_manager(app)
        return site.manager

    def _site(self, app: Flask) -> _Site:
        site = app.extensions.get(EXTENSION)
        if isinstance(site, _Site) and site.owner is self:
            return site
        with self._lock:
            site = app.extensions.get(EXTENSION)
            if not isinstance(site, _Site) or site.owner is not self:
                site = app.extensions[EXTENSION] = _Site(self)
                self._prepare(app)
        return site

    def _prepare(self, app: Flask) -> None:
        """A 503 where the application has no answer of its own, and logouts that hold when the
        request fails.
        """

        def unavailable(_: StoreUnavailable) -> Response:
            return self._unavailable(app)

        # An application that has served requests takes neither; what is left is a plain 503.
        with suppress(AssertionError):
            if StoreUnavailable not in app.error_handler_spec[None][None]:
                app.register_error_handler(StoreUnavailable, unavailable)
            app.teardown_request(_end_if_failed)

    def _new_manager(self, app: Flask) -> SessionManager:
        chosen: dict[str, Any] = {
            "max_age": lifetime_of(app.config["PERMANENT_SESSION_LIFETIME"]),
            "rolling": flag_of(app.config["SESSION_REFRESH_EACH_REQUEST"]),
            **self.configured(app),
            **self.given,
        }
        # Commands work without a secret; then no cookie is ever signed with this one.
        chosen["secret_key"] = chosen["secret_key"] or secrets.token_urlsafe(48)
        try:
            return SessionManager(**chosen)
        except ConfigurationError as error:
            raise in_flasks_words(error, self.given) from None

    # A request.

    def open_session(self, app: Flask, request: Request) -> FlaskSession | NoFlaskSession | None:
        """Flask calls this as a request begins; nothing is loaded before its first access."""
        site = self._site(app)
        keys = self.keys(app, site.keys)
        if keys is None:
            request.session = self.make_null_session(app)  # type: ignore[attr-defined]
            return None
        environ = request.environ
        manager = self.manager_of(app)
        exclude = manager.settings.exclude
        if exclude and is_excluded(request.script_root + request.path, exclude):
            excluded = request.session = NoFlaskSession()  # type: ignore[attr-defined]
            environ.setdefault(SESSION_KEY, excluded)
            environ.setdefault(MANAGER_KEY, manager)
            return excluded
        rehearsed = isinstance(getattr(request, "session", None), FlaskSession)
        outer = None if rehearsed else session_outside(environ, manager)
        if outer is not None:
            return copied(request, outer, environ)
        presented = site.recognizer(manager, keys).recognize_environ(environ)
        session = manager.attach(FlaskSession(), presented, _client(manager, request))
        if rehearsed:
            session.rehearsed = True
        else:
            environ[SESSION_KEY] = request.session = session  # type: ignore[attr-defined]
            environ[MANAGER_KEY] = manager
        return session

    def save_session(self, app: Flask, session: object, response: Response) -> None:
        """Flask calls this with the response, before its first byte leaves."""
        if not isinstance(session, FlaskSession):
            return
        if session.outer is not None:
            session.hand_back()
            response.call_on_close(session.hand_back_late)
            return
        manager = state_of(session).manager
        try:
            closing = self._finished(app, manager, session, response.status_code)
        except SessionError as error:
            if session.rehearsed:
                raise
            self._replace(app, response, error)
            closing = Closing(CookieDue.NOTHING, vary=True)
            if not isinstance(error, StoreUnavailable):
                # The application's answer may have put right what could not be stored.
                try:
                    closing = self._finished(app, manager, session, response.status_code)
                except StoreUnavailable as failure:
                    self._replace(app, response, failure)
                except SessionError:
                    pass  # Then the answer is all there is.
        set_cookie = self._set_cookie(app, session, response, closing)
        if set_cookie is not None and has_request_context():
            manager.note_scheme(current_request.scheme)
        if closing.vary:
            tell_caches(response.headers, set_cookie, self.get_cookie_name(app))
        if not session.rehearsed:
            response.call_on_close(partial(manager.check_late_change, session))

    def _finished(
        self, app: Flask, manager: SessionManager, session: FlaskSession, status: int
    ) -> Closing:
        failure = state_of(session).failure
        if failure is not None and could_not_load(session, status):
            raise failure
        failed = status >= 500
        if not failed:
            session.forget_lone_flag()
        modified = session.modified
        closing = manager.finish(session, failed=failed)
        # Tests look at it after the response, and find it as Flask leaves it.
        session.modified = modified
        if failed or closing.cookie is not CookieDue.NOTHING:
            return closing
        refresh = bool(app.config["SESSION_REFRESH_EACH_REQUEST"])
        # The browser may have a cookie of another configuration.
        changed = modified and len(self._site(app).keys) > 1
        # A store that fails here has been reported, and what was to be stored is.
        with suppress(StoreUnavailable):
            if _is_cookie_due(manager, session, refresh, changed):
                return manager.reissued(session)
        return closing

    def _set_cookie(
        self, app: Flask, session: FlaskSession, response: Response, closing: Closing
    ) -> str | None:
        """Set or delete the cookie; the Set-Cookie that does it."""
        if closing.cookie is CookieDue.NOTHING:
            return None
        keys = self.keys(app, self._site(app).keys)
        if keys is None:
            return None
        name = self.get_cookie_name(app)
        attributes: dict[str, Any] = {
            "domain": self.get_cookie_domain(app),
            "path": self.get_cookie_path(app),
            "secure": self.get_cookie_secure(app),
            "httponly": self.get_cookie_httponly(app),
            "samesite": self.get_cookie_samesite(app),
            "partitioned": self.get_cookie_partitioned(app),
        }
        if closing.id is None:
            response.delete_cookie(name, **attributes)
        else:
            lasting = "max_age" in self.given or closing.lasting or session.is_permanent()
            if lasting and closing.max_age is not None:
                attributes["max_age"] = closing.max_age
                attributes["expires"] = clock.now() // 1000 + closing.max_age
            response.set_cookie(name, keys.tokens.sign(closing.id), **attributes)
        return response.headers.getlist("Set-Cookie")[-1]

    def _replace(self, app: Flask, response: Response, error: SessionError) -> None:
        """Put the application's answer to an error, or our own to a failing store, in place of a
        response; without one it is raised, as an error of a view is.
        """
        try:
            answer = app.make_response(app.handle_user_exception(error))
        except StoreUnavailable:
            answer = self._unavailable(app)
        close = getattr(response.response, "close", None)
        if close is not None:
            close()
        response.status = answer.status
        response.headers = answer.headers
        response.response = answer.response
        response.direct_passthrough = answer.direct_passthrough

    def _unavailable(self, app: Flask) -> Response:
        """The application's page for 503, or Werkzeug's; a plain one where that needs the session
        or says something else.
        """
        retry_after = self.manager_of(app).retry_after
        response: Response | None = None
        with suppress(StoreUnavailable):
            page = app.handle_http_exception(ServiceUnavailable(retry_after=retry_after))
            response = app.make_response(page)
        if response is None or response.status_code != 503:
            response = app.response_class(UNAVAILABLE, 503, mimetype="text/plain")
        response.headers.setdefault("Retry-After", str(retry_after))
        response.headers["Cache-Control"] = "no-store"
        return response


def copied(request: Any, outer: Session, carrier: dict[str, Any]) -> FlaskSession:
    """What stands in a request for the session of a middleware around us: Flask needs one that has
    ``permanent``.
    """
    session = request.session = FlaskSession()
    session.copy_of(outer, carrier)
    return session


def _client(manager: SessionManager, request: Request) -> tuple[str | None, str | None]:
    if not manager.settings.record_client:
        return (None, None)
    return client_of(request.remote_addr, request.headers.get("User-Agent"))


def _is_cookie_due(
    manager: SessionManager, session: FlaskSession, refresh: bool, changed: bool
) -> bool:
    """Whether a response has to bring a cookie that is no news once more: of a permanent session
    with ``refresh`` always, of any where ``permanent`` or the configuration was ``changed``.

    Never of one that ended or rotated meanwhile: its late ID must not replace the new one.
    """
    if state_of(session).pending is not None:
        if not refresh:
            return False
        seen = manager.glimpse(session)
        if seen is not None and not seen.get(PERMANENT):
            return False
        manager.ensure_loaded(session)
        return session.is_permanent()
    permanent = session.is_permanent()
    changed = changed or session.was_permanent not in (None, permanent)
    return (changed or (permanent and refresh)) and manager.stands(session)


def _end_if_failed(error: BaseException | None) -> None:
    """A logout holds even where an exception kept the response from being made."""
    session = getattr(current_request, "session", None)
    if error is None or not isinstance(session, FlaskSession) or not session.asked.ended:
        return
    # A store that fails at it has been reported.
    with suppress(StoreUnavailable):
        state_of(session).manager.finish(session, failed=True)
