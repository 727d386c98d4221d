"""Quart: our sessions in place of the ones it keeps in the cookie.

Quart has Flask's configuration, ``session`` and error handlers, so all of that is in ``flask.py``;
here is what waits, and what WebSockets need.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import suppress
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Final

from quart import Quart, has_request_context, has_websocket_context
from quart import request as current_request
from quart import websocket as current_websocket
from quart.globals import app_ctx
from quart.wrappers import Response
from quart.wrappers.response import ResponseBody
from werkzeug.datastructures import Headers
from werkzeug.exceptions import ServiceUnavailable

from .adapting import (
    MANAGER_KEY,
    SESSION_KEY,
    UNAVAILABLE,
    client_of,
    could_not_load,
    is_excluded,
    is_loaded_outside,
)
from .closing import Closing
from .errors import ResponseAlreadyStarted, SessionError, SessionGone, StoreUnavailable
from .events import logger
from .flask import FlaskSessions, copied, tell_caches
from .flask_session import FlaskSession, NoFlaskSession
from .manager import SessionManager
from .states import CookieDue, state_of

if TYPE_CHECKING:
    from typing import Unpack

    from .manager import ManagerOptions

_ON_ACCEPT: Final = ("Vary", "Cache-Control", "Set-Cookie")
# Since Quart 0.23 there is one context for all, which error handling is told of.
_ONE_CONTEXT: Final = "ctx" in signature(Quart.handle_user_exception).parameters


class QuartSessions(FlaskSessions):
    """Server-side sessions for Quart: ``QuartSessions(app)``, or ``init_app(app)`` in a factory.

    Takes what ``FlaskSessions`` takes and reads the same configuration; the store may have an async
    driver. A session is loaded as its request begins, as under ASGI, and a WebSocket's is saved
    when the handshake is accepted.
    """

    _awaits = True

    if TYPE_CHECKING:

        def __init__(
            self,
            app: Quart | None = None,
            *,
            manager: SessionManager | None = None,
            **settings: Unpack[ManagerOptions],
        ) -> None: ...

    def init_app(self, app: Any) -> None:
        """Give an application its sessions."""
        app.session_interface = self
        self._site(app)

    def _prepare(self, app: Any) -> None:
        async def unavailable(error: StoreUnavailable) -> Any:
            return await self._aunavailable(app)

        async def shutdown() -> None:
            if self._shared is None:
                await self.manager_of(app).ashutdown()

        # An application that has served requests takes none of this; what is left is a plain 503.
        with suppress(AssertionError):
            if StoreUnavailable not in app.error_handler_spec[None][None]:
                app.register_error_handler(StoreUnavailable, unavailable)
            app.teardown_request(_end_if_failed)
            app.teardown_websocket(_end_if_failed)
            app.after_serving(shutdown)
            if _ONE_CONTEXT:
                # The last to be called before Quart itself takes the session to have it saved.
                app.after_request_funcs[None].insert(0, _note_use)

    def get_cookie_partitioned(self, app: Any) -> bool:
        # Older versions of Quart have no such key in their configuration.
        configured = app.config.get("SESSION_COOKIE_PARTITIONED", False)
        partitioned: bool = self.given.get("partitioned", configured)
        return partitioned

    async def make_null_session(self, app: Any) -> Any:  # type: ignore[override]
        """A session that says that the secret is missing, as soon as it is used."""
        return super().make_null_session(app)

    async def open_session(self, app: Any, request: Any) -> Any:  # type: ignore[override]
        """Quart calls this as a request or a WebSocket's handshake begins."""
        site = self._site(app)
        keys = self.keys(app, site.keys)
        if keys is None:
            request.session = await self.make_null_session(app)
            return None
        scope = request.scope
        manager = self.manager_of(app)
        if is_excluded(scope["path"], manager.settings.exclude):
            excluded = scope[SESSION_KEY] = request.session = NoFlaskSession()
            scope[MANAGER_KEY] = manager
            return excluded
        rehearsed = isinstance(getattr(request, "session", None), FlaskSession)
        outer = scope.get("session")
        if not rehearsed and is_loaded_outside(outer, manager):
            session = copied(request, outer, scope)
            if scope["type"] == "websocket":
                self._save_at_accept(app, request, session)
            return session
        client: tuple[str | None, str | None] = (None, None)
        if manager.settings.record_client:
            client = client_of(request.remote_addr, request.headers.get("User-Agent"))
        presented = site.recognizer(manager, keys).recognize(scope["headers"])
        session = manager.attach(FlaskSession(), presented, client)
        await manager.aensure_loaded(session)
        if rehearsed:
            session.rehearsed = True
            return session
        scope[SESSION_KEY] = request.session = session
        scope[MANAGER_KEY] = manager
        if scope["type"] == "websocket":
            self._save_at_accept(app, request, session)
        return session

    async def save_session(self, app: Any, session: Any, response: Any) -> None:  # type: ignore[override]
        """Quart calls this with the response, or at a WebSocket's end, where there may be none."""
        if not isinstance(session, FlaskSession):
            return
        if session.unused:
            session.accessed = False
        state = state_of(session)
        if state.started and response is not None and response.status_code >= 500:
            # It failed, and what it changed is not missed.
            return
        if session.outer is not None:
            if state.started:
                # A WebSocket's, which was handed back when it was accepted.
                session.hand_back_late()
                return
            session.hand_back()
            _watch_body(response, session.hand_back_late)
        elif state.started:
            state.manager.check_late_change(session)
        elif response is None:
            await _save_without_cookie(session)
        else:
            await self._respond(app, session, response)

    async def _respond(self, app: Any, session: FlaskSession, response: Any) -> None:
        manager = state_of(session).manager
        try:
            await self._apply(app, session, response)
        except SessionError as error:
            if session.rehearsed:
                raise
            await self._areplace(app, response, error)
            if isinstance(error, StoreUnavailable):
                return
            tell_caches(response.headers, None, self.get_cookie_name(app))
            # The application's answer may have put right what could not be stored.
            try:
                await self._apply(app, session, response)
            except StoreUnavailable as failure:
                await self._areplace(app, response, failure)
                return
            except SessionError:
                pass  # Then the answer is all there is.
        if not session.rehearsed:
            _watch_body(response, partial(manager.check_late_change, session))

    async def _apply(self, app: Any, session: FlaskSession, response: Any) -> None:
        """Save, and add to the response what it has to carry."""
        manager = state_of(session).manager
        closing = await self._afinished(app, manager, session, response.status_code)
        set_cookie = self._set_cookie(app, session, response, closing)
        if set_cookie is not None:
            manager.note_scheme(_scheme())
        if closing.vary:
            tell_caches(response.headers, set_cookie, self.get_cookie_name(app))

    async def _afinished(
        self, app: Any, manager: SessionManager, session: FlaskSession, status: int
    ) -> Closing:
        failure = state_of(session).failure
        if failure is not None and could_not_load(session, status):
            raise failure
        failed = status >= 500
        if not failed:
            session.forget_lone_flag()
        modified = session.modified
        closing = await manager.afinish(session, failed=failed)
        # Tests look at it after the response, and find it as Quart leaves it.
        session.modified = modified
        if failed or closing.cookie is not CookieDue.NOTHING:
            return closing
        permanent = session.is_permanent()
        refresh = permanent and bool(app.config["SESSION_REFRESH_EACH_REQUEST"])
        # The browser may have a cookie of another configuration.
        changed = modified and len(self._site(app).keys) > 1
        if not (refresh or changed or session.was_permanent not in (None, permanent)):
            return closing
        # A store that fails here has been reported, and what was to be stored is.
        with suppress(StoreUnavailable):
            if await manager.astands(session):
                return manager.reissued(session)
        return closing

    async def _areplace(self, app: Any, response: Any, error: SessionError) -> None:
        """Put the application's answer to an error, or our own to a failing store, in place of a
        response; without one it is raised, as an error of a view is.
        """
        try:
            answer = await app.make_response(await _handled(app.handle_user_exception, error))
        except StoreUnavailable:
            answer = await self._aunavailable(app)
        found = answer.get_data()
        body = await found if isinstance(answer, Response) else found
        response.set_data(body)
        response.status = answer.status
        response.headers = answer.headers

    async def _aunavailable(self, app: Any) -> Any:
        """The application's page for 503, or Werkzeug's; plain where that needs the session, or is
        the 500 of a handler for every exception.
        """
        retry_after = self.manager_of(app).retry_after
        response: Any = None
        with suppress(StoreUnavailable):
            error = ServiceUnavailable(retry_after=retry_after)
            response = await app.make_response(await _handled(app.handle_http_exception, error))
        if response is None or response.status_code == 500:
            response = app.response_class(UNAVAILABLE, 503, mimetype="text/plain")
        response.headers.setdefault("Retry-After", str(retry_after))
        response.headers["Cache-Control"] = "no-store"
        return response

    def _save_at_accept(self, app: Any, websocket: Any, session: FlaskSession) -> None:
        """A handler accepts by name, or by receiving or sending: all of them come by here."""
        accept = websocket.accept
        # Tasks that receive and send may both be the first.
        saving = asyncio.Lock()

        async def accept_and_save(
            headers: Mapping[str, str] | Headers | None = None, subprotocol: str | None = None
        ) -> None:
            fields = Headers(headers)
            if session.outer is not None:
                if state_of(session).started:
                    await accept(fields, subprotocol)
                    return
                session.hand_back()
                await accept(fields, subprotocol)
                session.stand_in()
                return
            async with saving:
                if not state_of(session).started:
                    carrier = app.response_class(b"", headers=fields)
                    await self._apply(app, session, carrier)
                    for name in _ON_ACCEPT:
                        fields.setlist(name, carrier.headers.getlist(name))
            await accept(fields, subprotocol)

        websocket.accept = accept_and_save


class _WatchedBody(ResponseBody):
    """A response's body, at whose end something is to be looked at."""

    def __init__(self, body: ResponseBody, at_end: Callable[[], None]) -> None:
        self._body = body
        self._at_end = at_end

    async def __aenter__(self) -> AsyncIterable[Any]:
        return await self._body.__aenter__()

    async def __aexit__(self, exc_type: Any, exc_value: Any, tb: Any) -> None:
        await self._body.__aexit__(exc_type, exc_value, tb)
        if exc_type is None:
            self._at_end()


def _watch_body(response: Any, at_end: Callable[[], None]) -> None:
    """Look, when the body is sent, at what its making has changed, which missed the response."""
    if isinstance(response, Response):
        response.response = _WatchedBody(response.response, at_end)


async def _handled(handle: Any, error: Exception) -> Any:
    """What the application makes of an error."""
    if _ONE_CONTEXT:
        return await handle(app_ctx._get_current_object(), error)
    return await handle(error)


async def _note_use(response: Any) -> Any:
    """Whether anybody has looked at the session: Quart marks it so itself by having it saved."""
    session = getattr(current_request, "session", None)
    if isinstance(session, FlaskSession):
        session.unused = not session.accessed
    return response


async def _save_without_cookie(session: FlaskSession) -> None:
    """A handshake that got no answer: what is stored can be changed, but no cookie goes out."""
    state = state_of(session)
    state.started = True
    if state.failure is not None or not session.accessed:
        return
    try:
        await session.asave()
    except SessionGone:
        # Dropped quietly, as in a response; the event was emitted.
        return
    except ResponseAlreadyStarted:
        logger.warning("a refused WebSocket handshake can't start a session: its changes are lost")


async def _end_if_failed(error: BaseException | None) -> None:
    """A logout holds even where an exception kept the response from being made."""
    holder: Any = current_request if has_request_context() else current_websocket
    session = getattr(holder, "session", None)
    if error is None or not isinstance(session, FlaskSession) or not session.asked.ended:
        return
    # A store that fails at it has been reported.
    with suppress(StoreUnavailable):
        await state_of(session).manager.afinish(session, failed=True)


def _scheme() -> str:
    if has_request_context():
        return current_request.scheme
    return current_websocket.scheme if has_websocket_context() else ""
