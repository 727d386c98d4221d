"""The ASGI middleware, for Starlette, FastAPI, Litestar and any other."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Unpack

from .config import DEFAULTS, Options
from .errors import (
    ConfigurationError,
    Finding,
    ResponseAlreadyStarted,
    SessionGone,
    StoreUnavailable,
)
from .events import logger
from .headers import add_vary_cookie, ensure_no_store
from .manager import Closing, SessionManager
from .session import NoSession, Session
from .states import SessionState

if TYPE_CHECKING:
    from starlette.datastructures import Secret
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MANAGER_KEY = "sessionware.manager"


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
        max_age: int | None = 14 * 24 * 60 * 60,
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
        if manager is None:
            manager = SessionManager(
                secret_key=secret_key,
                session_cookie=session_cookie,
                max_age=max_age,
                path=path,
                same_site=same_site,
                https_only=https_only,
                domain=domain,
                partitioned=partitioned,
                **options,
            )
        elif options or any(
            given != DEFAULTS.get(name)
            for name, given in (
                ("secret_key", secret_key),
                ("session_cookie", session_cookie),
                ("max_age", max_age),
                ("path", path),
                ("same_site", same_site),
                ("https_only", https_only),
                ("domain", domain),
                ("partitioned", partitioned),
            )
        ):
            raise ConfigurationError([_two_sources()])
        self.manager = manager
        self._exclude = manager.settings.exclude
        self._records_client = manager.settings.record_client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            if scope["type"] == "lifespan" and self._owns_manager:
                send = self._closing_down(send)
            await self.app(scope, receive, send)
            return
        if self._exclude and is_excluded(scope["path"], self._exclude):
            scope["session"] = NoSession()
            await self.app(scope, receive, send)
            return
        if self._has_session(scope):
            await self.app(scope, receive, send)
            return
        presented = self.manager.identify(self.manager.cookies.from_asgi(scope["headers"]))
        client = _client(scope) if self._records_client else (None, None)
        session = await self.manager.aload(presented, client)
        scope["session"] = session
        scope[MANAGER_KEY] = self.manager
        exchange = _Exchange(self.manager, scope, session, send)
        await exchange.run(self.app, receive)

    def _has_session(self, scope: Scope) -> bool:
        """Whether an outer middleware with the same manager has loaded the session already."""
        outer = scope.get("session")
        if _is_starlettes(outer):
            raise ConfigurationError([_two_owners()])
        link = outer.link() if isinstance(outer, Session) else None
        if not isinstance(link, SessionState):
            return False
        if link.manager is self.manager:
            return True
        if link.manager.settings.session_cookie == self.manager.settings.session_cookie:
            raise ConfigurationError([_two_owners()])
        return False

    def _closing_down(self, send: Send) -> Send:
        async def watching(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.manager.ashutdown()
            await send(message)

        return watching


class _Exchange:
    """One request and its response."""

    def __init__(self, manager: SessionManager, scope: Scope, session: Session, send: Send) -> None:
        self._manager = manager
        self._scope = scope
        self._session = session
        self._send = send
        self._websocket = scope["type"] == "websocket"
        self._cookie = manager.settings.session_cookie.encode("ascii")
        self._started = False
        self._store_failed = False

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        try:
            await app(self._scope, receive, self.send)
        except Exception as error:
            if self._started:
                raise
            if self._session.ended:
                # Logged out means logged out; a store that fails at it has been reported.
                with suppress(StoreUnavailable):
                    await self._manager.afinish(self._session, failed=True)
            if not (self._store_failed or _is_store_failure(error)):
                raise
        else:
            if self._started:
                self._manager.check_late_change(self._session)
            return
        await self._unavailable()

    async def send(self, message: Message) -> None:
        """Save before the first byte leaves."""
        if not self._started:
            match message["type"]:
                case "http.response.start" | "websocket.http.response.start":
                    await self._begin(message, failed=message["status"] >= 500)
                case "websocket.accept":
                    await self._begin(message, failed=False)
                case "websocket.close":
                    await self._begin_without_headers(message)
        await self._send(message)

    async def _begin(self, message: Message, *, failed: bool) -> None:
        self._take_replacement(message)
        try:
            closing = await self._manager.afinish(self._session, failed=failed)
        except StoreUnavailable:
            self._store_failed = True
            raise
        self._started = True
        if closing.set_cookie is not None:
            self._manager.note_scheme(self._scope.get("scheme", "http"))
        if closing.vary:
            message["headers"] = _with_session_headers(
                message.get("headers", ()), closing, self._cookie
            )

    async def _begin_without_headers(self, message: Message) -> None:
        """A refused handshake: what is stored can be changed, but no cookie reaches the browser."""
        self._take_replacement(message)
        self._started = True
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
        """An application may have put a mapping of its own into ``scope["session"]``."""
        current = self._scope.get("session")
        if current is self._session or not isinstance(current, dict):
            return
        if _is_starlettes(current):
            if any(_sets(header, self._cookie) for header in message.get("headers", ())):
                raise ConfigurationError([_two_owners()])
            return
        if isinstance(current, Session) and current.link() is not None:
            # An inner middleware with a cookie of its own put its session there.
            return
        self._session.clear()
        self._session.update(current)

    async def _unavailable(self) -> None:
        """503 with Retry-After, in place of a response that depends on a session nobody could
        read.
        """
        retry_after = str(self._manager.retry_after).encode()
        prefix = ""
        if self._websocket:
            if "websocket.http.response" not in self._scope.get("extensions", {}):
                await self._send({"type": "websocket.close", "code": 1013, "reason": ""})
                return
            prefix = "websocket."
        body = b"Service Unavailable"
        await self._send(
            {
                "type": f"{prefix}http.response.start",
                "status": 503,
                "headers": [
                    (b"content-type", b"text/plain; charset=utf-8"),
                    (b"content-length", str(len(body)).encode()),
                    (b"cache-control", b"no-store"),
                    (b"retry-after", retry_after),
                ],
            }
        )
        await self._send({"type": f"{prefix}http.response.body", "body": body})


def _with_session_headers(
    headers: Iterable[tuple[bytes, bytes]], closing: Closing, name: bytes
) -> list[tuple[bytes, bytes]]:
    merged = add_vary_cookie(headers)
    if closing.set_cookie is not None:
        merged = [header for header in ensure_no_store(merged) if not _sets(header, name)]
        merged.append((b"set-cookie", closing.set_cookie.encode("latin-1")))
    return merged


def _sets(header: tuple[bytes, bytes], name: bytes) -> bool:
    """Whether a header of the application's sets our cookie: one at most may (RFC 6265bis
    4.1.1).
    """
    return header[0].lower() == b"set-cookie" and header[1].partition(b"=")[0].strip() == name


def _is_starlettes(session: object) -> bool:
    """Whether Starlette's own middleware made this session.

    Around ours it would write our session into its cookie; inside ours it keeps one of its own.
    """
    return type(session).__module__ == "starlette.middleware.sessions"


def _is_store_failure(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return error.subgroup(StoreUnavailable) is not None
    return isinstance(error, StoreUnavailable)


def is_excluded(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a path is one of the prefixes or below it; ``/static`` is not a prefix of
    ``/statics``.
    """
    return any(
        path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")
        for prefix in prefixes
    )


def _client(scope: Scope) -> tuple[str | None, str | None]:
    """Address and user agent as the server saw them; headers of proxies are the server's
    business.
    """
    client = scope.get("client")
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), None)
    return (
        _printable(str(client[0]))[:45] if client else None,
        None if agent is None else _printable(agent.decode("latin-1"))[:255],
    )


def _printable(text: str) -> str:
    """Without what a database, or who looks at a device list, could choke on."""
    return "".join(character for character in text if character.isprintable())


def _two_sources() -> Finding:
    return Finding(
        "SW035",
        "manager",
        "the manager has its settings already; others given beside it would be ignored.",
        "give either a manager or settings.",
    )


def _two_owners() -> Finding:
    return Finding(
        "SW035",
        "session_cookie",
        "two session middlewares would own request.session, or write the same cookie.",
        "remove one (Starlette's own, if it is there), share one manager, or give two of ours "
        "different cookie names.",
    )
