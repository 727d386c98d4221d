"""What is known of one session between its load and its response, and the tie from session to
manager.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from . import clock
from .errors import StoreUnavailable
from .records import HANDLE_BYTES, Header
from .rows import Next
from .session import Session
from .stores.protocol import Row

if TYPE_CHECKING:
    from .locking import SessionLock
    from .manager import SessionManager


class CookieDue(Enum):
    """What the response still has to tell the browser."""

    NOTHING = "nothing"
    SET = "set"
    EXPIRE = "expire"


@dataclass(slots=True)
class SessionState:
    """One request's session, as loaded and as committed since.

    ``id`` is the secret, ``pending`` that of a session to be loaded at its first access; ``empty``
    how no content at all is encoded; ``payload`` the content as it is in the store. ``savable`` is
    False for an ID that was rotated away: nothing of such a request is kept, and no cookie goes
    out. ``failure`` says that the store could not be asked: whoever needs the session gets it
    raised.
    """

    manager: SessionManager = field(repr=False)
    empty: bytes = field(default=b"{}", repr=False)
    id: str | None = field(default=None, repr=False)
    pending: str | None = field(default=None, repr=False)
    row: Row | None = field(default=None, repr=False)
    header: Header | None = field(default=None, repr=False)
    payload: bytes = field(default=b"", repr=False)
    rich: bool = False
    savable: bool = True
    failure: StoreUnavailable | None = None
    client: tuple[str | None, str | None] = field(default=(None, None), repr=False)
    cookie: CookieDue = CookieDue.NOTHING
    started: bool = False
    locked: bool = False
    # What the application's dict held when the response began; None where nobody needs to know.
    sent: bytes | None = field(default=None, repr=False)
    _handle: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.payload = self.payload or self.empty

    def fork(self) -> SessionState:
        """A copy for a commit to work on: a request that gives up waiting keeps its own."""
        return copy.copy(self)

    def adopt(self, work: SessionState) -> None:
        """Take over what a commit has made of its copy."""
        self.id, self.row, self.header = work.id, work.row, work.header
        self.payload, self.rich = work.payload, work.rich
        self.cookie, self._handle = work.cookie, work._handle

    def committed(self, written: Next, row: Row) -> None:
        """Take over what the store holds now."""
        self.row = row
        self.header = written.header
        self.payload = written.payload
        self.rich = written.rich

    def gone(self) -> None:
        """There is no row of this session any more; the next one gets a name of its own."""
        self.id = self.row = self.header = self._handle = None
        self.payload, self.rich = self.empty, False

    @property
    def handle_bytes(self) -> bytes:
        if self.header is not None:
            return self.header.handle
        if self._handle is None:
            self._handle = os.urandom(HANDLE_BYTES)
        return self._handle

    # SessionLink: what a Session asks for.

    @property
    def handle(self) -> str:
        return self.handle_bytes.hex()

    @property
    def is_new(self) -> bool:
        return self.row is None

    @property
    def created_at(self) -> int | None:
        return None if self.row is None else self.row.created_at

    @property
    def authenticated_at(self) -> int | None:
        return None if self.row is None else self.row.authenticated_at

    def seconds_since_login(self) -> float | None:
        at = self.authenticated_at
        return None if at is None else (clock.now() - at) / 1000

    def touched(self, session: Session) -> None:
        if self.pending is not None:
            self.manager.ensure_loaded(session)
        if self.failure is not None:
            raise self.failure

    def save(self, session: Session) -> None:
        self.manager.save(session)

    async def asave(self, session: Session) -> None:
        await self.manager.asave(session)

    def take(self, session: Session, key: Any, default: Any) -> Any:
        return self.manager.take(session, key, default)

    async def atake(self, session: Session, key: Any, default: Any) -> Any:
        return await self.manager.atake(session, key, default)

    def incr(self, session: Session, key: Any, amount: int | float) -> int | float:
        return self.manager.incr(session, key, amount)

    async def aincr(self, session: Session, key: Any, amount: int | float) -> int | float:
        return await self.manager.aincr(session, key, amount)

    def lock(self, session: Session, timeout: float, hold: float) -> SessionLock:
        return self.manager.lock(session, timeout, hold)

    def on_ended(self, session: Session, callback: Callable[[], Any]) -> Callable[[], None]:
        return self.manager.on_ended(session, callback)

    def revalidate(self, session: Session) -> bool:
        return self.manager.revalidate(session)

    async def arevalidate(self, session: Session) -> bool:
        return await self.manager.arevalidate(session)


def state_of(session: Session) -> SessionState:
    """The state behind a session that a manager opened."""
    link = session.link()
    if not isinstance(link, SessionState):
        raise TypeError("this session was not opened by a SessionManager")
    return link


@contextmanager
def attempting(session: Session) -> Iterator[None]:
    """Take what the session asks for as carried out, unless an error says that it was not."""
    intents = session.take_intents()
    try:
        yield
    except BaseException:
        session.put_back(intents)
        raise
