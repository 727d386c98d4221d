"""An app whose next handler the test names, and a browser that keeps its cookie."""

from __future__ import annotations

import inspect
import itertools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, TypeAlias

import anyio.to_thread
from sqlalchemy import Engine, event
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sessionware import Session, SessionEvent, SessionManager, SessionMiddleware, session_of
from tests.apps import Answer, Browser

DATABASE = "sessions.db"

Act: TypeAlias = Callable[[Session], Any]
Handler: TypeAlias = Callable[[Request], Any]


class StoredRow(NamedTuple):
    """A row as SQL sees it."""

    id: int
    sid_hash: bytes
    version: int
    epoch: int
    user_id: str | None
    data: bytes
    created_at: int
    authenticated_at: int | None
    last_seen: int
    expires_at: int
    purge_after: int


def in_turn(*acts: Act) -> Act:
    """One act after the other."""

    def act(session: Session) -> None:
        for each in acts:
            each(session)

    return act


def rows() -> list[StoredRow]:
    """What is in the table, expired or not."""
    with closing(sqlite3.connect(DATABASE)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sessions'").fetchall():
            return []
        columns = ", ".join(StoredRow._fields)
        found = connection.execute(f"SELECT {columns} FROM sessions ORDER BY id")
        return [StoredRow._make(row) for row in found]


def row() -> StoredRow:
    """The only row."""
    (found,) = rows()
    return found


def execute(statement: str, *parameters: object) -> None:
    """Change the database behind the library's back."""
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute(statement, parameters)


async def from_handler(function: Callable[..., Any], *args: Any) -> Any:
    """Call what blocks from a handler, where the event loop must not be blocked."""
    return await anyio.to_thread.run_sync(function, *args)


def _write_and_delete(session: Session) -> None:
    session["a"] = 1
    del session["a"]


NOTHING_STORED: dict[str, Callable[[Session], object] | None] = {
    "untouched": None,
    "read": dict,
    "clear": Session.clear,
    "invalidate": Session.invalidate,
    "rotate": Session.rotate,
    "set_expiry": lambda session: session.set_expiry(60),
    "pop": lambda session: session.pop("a", None),
    "empty update": lambda session: session.update({}),
    "empty in-place union": lambda session: session.__ior__({}) and None,
    "written and deleted": _write_and_delete,
    "mark_modified": Session.mark_modified,
}
"""What a handler may do that makes no row."""


@contextmanager
def statements() -> Iterator[list[str]]:
    """The verbs of all that SQLAlchemy executes on our tables meanwhile, without DDL."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        verb = statement.split(None, 1)[0].upper()
        if verb in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            seen.append(verb)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


class Visitor(Browser):
    """A browser that says what its requests do."""

    def __init__(self, site: Site, token: str | None = None) -> None:
        super().__init__(site.app, token)
        self._site = site

    async def serve(self, handler: Handler, path: str = "/", **request: Any) -> Answer:
        """A request that is answered by ``handler``; see ``Browser.get`` for the rest."""
        number = self._site.expect(handler)
        return await self.get(path, headers=[("x-handler", number)], **request)

    async def visit(self, act: Act | None = None, path: str = "/", **request: Any) -> Answer:
        """A request that does ``act`` with its session, or with None doesn't touch it.

        The answer's body is what ``act`` returned, as JSON.
        """

        def handler(request: Request) -> Any:
            return None if act is None else act(session_of(request))

        return await self.serve(handler, path, **request)

    async def content(self, **request: Any) -> dict[str, Any]:
        """What the session holds."""
        answer = await self.visit(dict, **request)
        assert answer.status == 200
        content: dict[str, Any] = answer.json()
        return content

    @property
    def cookie(self) -> str:
        """The Cookie header that goes with the next request."""
        return f"{self.name}={self.token}"


class Site:
    """One app of one manager; ``events`` has the kinds of all events so far."""

    def __init__(self, manager: SessionManager, events: Sequence[SessionEvent] = ()) -> None:
        self.manager = manager
        self._events = events
        self._handlers: dict[str, Handler] = {}
        self._numbers = map(str, itertools.count())
        self.app = Starlette(
            routes=[Route("/{path:path}", self._serve)],
            middleware=[Middleware(SessionMiddleware, manager=manager)],
        )

    def browser(self, token: str | None = None) -> Visitor:
        return Visitor(self, token)

    @property
    def events(self) -> list[str]:
        return [event.kind for event in self._events]

    def expect(self, handler: Handler) -> str:
        number = next(self._numbers)
        self._handlers[number] = handler
        return number

    async def _serve(self, request: Request) -> Response:
        result = self._handlers[request.headers["x-handler"]](request)
        if inspect.isawaitable(result):
            result = await result
        return result if isinstance(result, Response) else JSONResponse(result)
