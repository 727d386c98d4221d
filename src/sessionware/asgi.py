"""The ASGI middleware, for Starlette, FastAPI, Litestar and any other."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Unpack

from .adapting import (
    MANAGER_KEY,
    UNAVAILABLE,
    chosen_manager,
    client_of,
    could_not_load,
    is_excluded,
    is_from,
    is_loaded_outside,
    take_replacement,
    two_owners,
)
from .config import Options
from .errors import ResponseAlreadyStarted, SessionGone, StoreUnavailable
from .events import logger
from .folding import announces_use
from .headers import add_vary_cookie, sets_cookie, with_session
from .manager import SessionManager
from .rows import NOBODY
from .session import NoSession, Session
from .states import CookieDue, SessionState

if TYPE_CHECKING:
    from starlette.datastructures import Secret
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_NO_COOKIE = CookieDue.NOTHING
_WITH_SESSION = frozenset({"http", "websocket"})
_BEGINNINGS = frozenset(
    {
        "http.response.start",
        "websocket.http.response.start",
        "websocket.accept",
        "websocket.close",
    }
)


class SessionMiddleware:
    """Server-side sessions under ``scope["session"]``, which Starlette shows as
    ``request.session``.

    Takes what Starlette's ``SessionMiddleware`` takes, in its order, then the keyword-only settings
    (see the README), or a ``manager`` that is shared with other apps in place of them all. Raises
    ``ConfigurationError`` with everything that is wrong; does no I/O.
    """

    def __init__(
        self,
        app: ASGIApp,
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
        self._owns_manager = manager is None
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
        self._recognize = manager.recognizer.recognize
        self._exclude = manager.settings.exclude
        self._records_client = manager.settings.record_client
        # The application that we are in, and whether it announces each use of a session.
        self._surroundings: tuple[object, bool] = (self, False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in _WITH_SESSION:
            if kind == "lifespan" and self._owns_manager:
                send = self._closing_down(send)
            await self.app(scope, receive, send)
            return
        if self._exclude and is_excluded(scope["path"], self._exclude):
            scope["session"] = NoSession()
            scope[MANAGER_KEY] = self.manager
            await self.app(scope, receive, send)
            return
        if "session" in scope and self._has_session(scope):
            await self.app(scope, receive, send)
            return
        manager = self.manager
        headers = scope["headers"]
        if headers.__class__ is not list:
            # Any iterable will do in ASGI: the application is to have something left to read.
            headers = scope["headers"] = list(headers)
        presented = self._recognize(headers)
        client = _client(scope) if self._records_client else NOBODY
        outermost, may_fold = self._surroundings
        if scope.get("app") is not outermost:
            may_fold = self._look_around(scope.get("app"))
        session = manager.load_now(presented, client, may_fold)
        if session is None:
            session = await manager.aload_stored(presented, client)
        scope["session"] = session
        scope[MANAGER_KEY] = manager
        exchange = _Exchange(manager, scope, session, send)
        session.tie.serving = True  # type: ignore[union-attr]
        try:
            await self.app(scope, receive, exchange.send)
        except Exception as error:
            if not await exchange.answers(error):
                raise
        else:
            # As ``has_traces``, which is one call more.
            if exchange.started and (session.exposed or session.asking or session.modified):
                manager.check_late_change(session)
        finally:
            # However it ended: whoever tries again with the same scope begins a new request.
            session.tie.serving = False  # type: ignore[union-attr]
            if kind == "websocket":
                manager.unwatch(session)

    def _look_around(self, outermost: object) -> bool:
        """Learn which application we are in: once, for most middlewares are in one only."""
        may_fold = announces_use(self.app, outermost, self)
        self._surroundings = (outermost, may_fold)
        return may_fold

    def _has_session(self, scope: Scope) -> bool:
        """Whether an outer middleware with the same manager has loaded the session already."""
        outer = scope.get("session")
        if _is_starlettes(outer):
            raise two_owners()
        return is_loaded_outside(outer, self.manager)

    def _closing_down(self, send: Send) -> Send:
        async def watching(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.manager.ashutdown()
            await send(message)

        return watching


class _Exchange:
    """One request and its response."""

    __slots__ = ("_manager", "_scope", "_send", "_session", "_store_failed", "started")

    def __init__(self, manager: SessionManager, scope: Scope, session: Session, send: Send) -> None:
        self._manager = manager
        self._scope = scope
        self._session = session
        self._send = send
        self._store_failed = self.started = False

    def send(self, message: Message) -> Awaitable[None]:
        """Save before the first byte leaves. The server's own awaitable, where that is all."""
        if self.started:
            return self._send(message)
        kind, session = message["type"], self._session
        if (
            kind == "http.response.start"
            and message["status"] < 500
            and self._scope.get("session") is session
        ):
            if not self._manager.is_only_read(session):
                return self._begin(message, failed=False, looked=True)
            self.started = True
            if session.accessed:
                # The application may send the same message, a constant, with each response.
                headers = add_vary_cookie(message.get("headers", ()))
                message = {**message, "headers": headers}
            return self._send(message)
        if kind not in _BEGINNINGS:
            return self._send(message)
        return self._first(kind, message)

    async def _first(self, kind: str, message: Message) -> None:
        """What needs a closer look."""
        if kind == "websocket.close":
            await self._begin_without_headers(message)
            await self._send(message)
        elif kind == "websocket.accept":
            await self._begin(message, failed=False)
        else:
            status = message["status"]
            lost = self._store_failed and status == 500
            if lost or could_not_load(self._session, status):
                await self._unavailable()
                return
            await self._begin(message, failed=status >= 500)

    async def answers(self, error: Exception) -> bool:
        """The application has failed: whether a 503 takes the place of its response."""
        if self.started:
            return False
        if self._session.asked.ended:
            # Logged out means logged out; a store that fails at it has been reported.
            with suppress(StoreUnavailable):
                await self._manager.afinish(self._session, failed=True)
        if not (self._store_failed or is_from(error, StoreUnavailable)):
            return False
        await self._unavailable()
        return True

    async def _begin(self, message: Message, *, failed: bool, looked: bool = False) -> None:
        """Commit, then let the message go. ``looked``: see ``decide``."""
        manager, session = self._manager, self._session
        if not looked:
            self._take_replacement(message)
        decided = manager.decide(session, failed=failed, looked=looked)
        if decided is not None:
            try:
                await manager.acommit(session, decided)
            except StoreUnavailable:
                self._store_failed = True
                raise
        closing = manager.closing(session)
        self.started = True
        set_cookie = None
        if closing.cookie is not _NO_COOKIE:
            set_cookie = manager.set_cookie(closing)
            if manager.settings.https_only:
                manager.note_scheme(self._scope.get("scheme", "http"))
        if closing.vary:
            headers = message.get("headers", ())
            message = {
                **message,
                "headers": add_vary_cookie(headers)
                if set_cookie is None
                else with_session(headers, set_cookie, manager.cookies.name),
            }
        await self._send(message)

    async def _begin_without_headers(self, message: Message) -> None:
        """A refused handshake: what is stored can be changed, but no cookie reaches the browser."""
        self._take_replacement(message)
        self.started = True
        link = self._session.link()
        assert isinstance(link, SessionState)
        link.started = True
        if link.failure is not None or not self._session.accessed:
            return
        try:
            await self._manager.asave(self._session)
        except SessionGone:
            # Dropped quietly, as in a response; the event was emitted.
            link.sent = None
        except ResponseAlreadyStarted:
            logger.warning(
                "a refused WebSocket handshake can't start a session: its changes are lost"
            )
            link.sent = None

    def _take_replacement(self, message: Message) -> None:
        current = self._scope.get("session")
        if current is self._session:
            return
        if _is_starlettes(current):
            if any(
                sets_cookie(header, self._manager.cookies.name)
                for header in message.get("headers", ())
            ):
                raise two_owners()
            return
        take_replacement(self._session, current)

    async def _unavailable(self) -> None:
        """503 with Retry-After, in place of a response that depends on a session nobody could
        read.
        """
        self.started = True
        # Whatever the application still says is not heard.
        send, self._send = self._send, _unheard
        retry_after = str(self._manager.retry_after).encode()
        prefix = ""
        if self._scope["type"] == "websocket":
            if "websocket.http.response" not in self._scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1013, "reason": ""})
                return
            prefix = "websocket."
        await send(
            {
                "type": f"{prefix}http.response.start",
                "status": 503,
                "headers": [
                    (b"content-type", b"text/plain; charset=utf-8"),
                    (b"content-length", str(len(UNAVAILABLE)).encode()),
                    (b"cache-control", b"no-store"),
                    (b"retry-after", retry_after),
                ],
            }
        )
        await send({"type": f"{prefix}http.response.body", "body": UNAVAILABLE})


async def _unheard(message: Message) -> None:
    """Where messages go that come too late."""


def _is_starlettes(session: object) -> bool:
    """Whether Starlette's own middleware made this session.

    Around ours it would write our session into its cookie; inside ours it keeps one of its own.
    """
    return type(session).__module__ == "starlette.middleware.sessions"


def _client(scope: Scope) -> tuple[str | None, str | None]:
    client = scope.get("client")
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), None)
    return client_of(client and client[0], None if agent is None else agent.decode("latin-1"))
