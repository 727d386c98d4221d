"""What is known of one session between its load and its response, and the tie from session to
manager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any

from . import clock
from .chance import eight_bytes
from .codecs import snapshot
from .cookies import Presented
from .errors import StoreUnavailable
from .flows import Flow, T
from .records import HANDLE_BYTES, Header, read_header
from .rows import NOBODY, Next
from .session import Session
from .stores.protocol import Row
from .tokens import new_id

if TYPE_CHECKING:
    from .locking import SessionLock
    from .manager import SessionManager


class CookieDue(Enum):
    """What the response still has to tell the browser."""

    NOTHING = "nothing"
    SET = "set"
    EXPIRE = "expire"


NOTHING_LOADED = snapshot({})


class SessionState:
    """One request's session, as loaded and as committed since.

    ``id`` is the secret, also of one that is about to be stored; ``pending`` what names a session
    to be loaded at its first access, ``folded`` the row of one that is loaded but for its content,
    which is decoded then; ``payload`` the content as it is in the store. ``savable`` is False for
    an ID that was rotated away: nothing of such a request is kept, and no cookie goes out.
    ``failure`` says that the store could not be asked: whoever needs the session gets it raised.
    ``locked`` is the lock that the request holds. ``loaded`` and ``sent`` are snapshots of what the
    application's dict held when it was loaded, and when the response began; None where that is not
    known, ``UNTOLD`` where it is what ``payload`` says.
    """

    __slots__ = (
        "_handle",
        "_header",
        "client",
        "cookie",
        "failure",
        "folded",
        "id",
        "loaded",
        "locked",
        "manager",
        "payload",
        "pending",
        "rich",
        "row",
        "savable",
        "sent",
        "serving",
        "started",
    )

    def __init__(
        self,
        manager: SessionManager,
        client: tuple[str | None, str | None] = NOBODY,
        id: str | None = None,
        folded: Row | None = None,
        loaded: int | None = NOTHING_LOADED,
    ) -> None:
        self.manager = manager
        self.client = client
        self.pending: Presented | None = None
        self.id = id
        self.row = folded
        self.folded = folded
        self.payload = manager.empty
        self.rich = False
        self.savable = True
        self.failure: StoreUnavailable | None = None
        self.cookie = CookieDue.NOTHING
        self.started = False
        # Whether the call that it was loaded for goes on; None where nobody says so.
        self.serving: bool | None = None
        self.locked: SessionLock | None = None
        self.loaded = loaded
        self.sent: object = None
        self._header: Header | None = None
        self._handle: bytes | None = None

    @property
    def header(self) -> Header | None:
        """That of the row; read only where somebody needs it."""
        if self._header is None and self.row is not None:
            self._header = read_header(self.row.data)
        return self._header

    @header.setter
    def header(self, header: Header | None) -> None:
        self._header = header

    def fork(self) -> SessionState:
        """A copy for a commit to work on: a request that gives up waiting keeps its own."""
        if self.folded is not None:
            # Its content may be decoded while the commit is under way, and what it is now is known.
            self.payload, self.rich = self.manager.payload_of(self.folded)
        if self.row is None and self.id is None:
            # Tasks and threads of one request may save at once: they make one session of it.
            with self.manager.naming:
                if self.id is None:
                    self.id, self._handle = new_id(), self.handle_bytes
        work = object.__new__(SessionState)
        work.manager, work.client = self.manager, self.client
        work.pending, work.id, work.row, work.folded = self.pending, self.id, self.row, self.folded
        work.payload, work.rich, work.savable = self.payload, self.rich, self.savable
        work.failure, work.cookie = self.failure, self.cookie
        work.started, work.serving, work.locked = self.started, self.serving, self.locked
        work.loaded, work.sent = self.loaded, self.sent
        work._header, work._handle = self._header, self._handle
        return work

    def adopt(self, work: SessionState) -> None:
        """Take over what a commit has made of its copy."""
        self.id, self.row, self._header = work.id, work.row, work._header
        self.payload, self.rich, self.loaded = work.payload, work.rich, work.loaded
        self.cookie, self._handle = work.cookie, work._handle

    def committed(self, written: Next, row: Row) -> None:
        """Take over what the store holds now."""
        self.row, self._header = row, None
        self.payload, self.rich, self.loaded = written.payload, written.rich, None

    def gone(self) -> None:
        """There is no row of this session any more; the next one gets a name of its own."""
        self.id = self.row = self._header = self._handle = None
        self.payload, self.rich, self.loaded = self.manager.empty, False, NOTHING_LOADED

    def forsake(self) -> None:
        """A save has failed. What was to store a new session may still be carried out, however
        late, and its ID must not be that of one which may have ended by then.
        """
        if self.row is None:
            self.id = None

    @property
    def handle_bytes(self) -> bytes:
        if self.header is not None:
            return self.header.handle
        if self._handle is None:
            self._handle = eight_bytes()[:HANDLE_BYTES]
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

    @property
    def is_folded(self) -> bool:
        """Whether it is loaded but for the decoding."""
        return self.folded is not None

    def seconds_since_login(self) -> float | None:
        at = self.authenticated_at
        return None if at is None else (clock.now() - at) / 1000

    def touched(self, session: Session) -> None:
        if self.folded is not None:
            self.manager.unfold(session, self)
        elif self.pending is not None:
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
    link = session.tie
    if not isinstance(link, SessionState):
        raise TypeError("this session was not opened by a SessionManager")
    return link


def guarded(state: SessionState, flow: Flow[T]) -> Flow[T]:
    """A write, during which a lock that the request holds is not given back."""
    return flow if state.locked is None else state.locked.guard(flow)


@contextmanager
def attempting(session: Session) -> Iterator[None]:
    """Take what the session asks for as carried out, unless an error says that it was not."""
    intents = session.take_intents()
    try:
        yield
    except BaseException:
        session.put_back(intents)
        state_of(session).forsake()
        raise
