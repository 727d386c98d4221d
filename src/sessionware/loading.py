"""From what a request presents to a session that is loaded, at once or at its first access."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from . import clock
from .cache import Entry
from .codecs import UNTOLD, Codec, encodes_to, from_json
from .cookies import CookieReader, Kind, Presented, Recognizer, identify
from .endings import Endings
from .errors import CorruptRecord, StoreUnavailable
from .events import EventSink
from .flows import Flow
from .purging import Purger
from .records import HEADER_BYTES, read_header
from .rows import NOBODY, RowMaker
from .session import Session
from .states import NOTHING_LOADED, SessionState, state_of
from .stores import forking
from .stores.cached import CachedStore
from .stores.protocol import RETIRED, Found, Row
from .tokens import Tokens
from .tracking import UNLOADED, unattached

AnySession = TypeVar("AnySession", bound=Session)


class Loading:
    """The part of a manager that opens sessions."""

    tokens: Tokens
    cookies: CookieReader
    recognizer: Recognizer
    codec: Codec
    rows: RowMaker
    endings: Endings
    store: CachedStore
    events: EventSink
    empty: bytes
    _purger: Purger
    _renews: bool
    _unfolding: threading.Lock
    # Neither encrypted nor by a serializer of the application's.
    _plain: bool
    _custom: bool

    def identify(self, values: Sequence[bytes] | None, tokens: Tokens | None = None) -> Presented:
        """Which session the cookie values name; forged and ambiguous ones are reported.

        ``tokens`` verifies them in place of the manager's own keys.
        """
        return self.reported(identify(values, tokens or self.tokens))

    def reported(self, presented: Presented) -> Presented:
        """The same; forged and ambiguous cookies are reported."""
        if presented.kind is Kind.BAD:
            self.events.emit("bad_signature")
        elif presented.kind is Kind.DUPLICATE:
            self.events.emit("duplicate", detail="several different valid cookies")
        return presented

    def open(self, cookie_header: str | bytes | None) -> Session:
        """The session that a ``Cookie`` header names, or a new one. For threads."""
        return self.load(self.identify(self.cookies.values(_fields(cookie_header))))

    async def aopen(self, cookie_header: str | bytes | None) -> Session:
        """The session that a ``Cookie`` header names, or a new one."""
        return await self.aload(self.identify(self.cookies.values(_fields(cookie_header))))

    def load(self, presented: Presented, client: tuple[str | None, str | None] = NOBODY) -> Session:
        """The session presented. If the store fails, one that raises ``StoreUnavailable`` on
        use.
        """
        if presented.id is not None:
            self.store.runner.refuse_event_loop()
        session = self.load_now(presented, client)
        if session is None:
            session = self.attach(unattached(Session), presented, client)
            self._read(session, state_of(session))
        return session

    async def aload(
        self, presented: Presented, client: tuple[str | None, str | None] = NOBODY
    ) -> Session:
        """The session presented; see ``load``."""
        session = self.load_now(presented, client)
        return await self.aload_stored(presented, client) if session is None else session

    async def aload_stored(
        self, presented: Presented, client: tuple[str | None, str | None] = NOBODY
    ) -> Session:
        """The session presented, of which ``load_now`` has found that the store must be asked."""
        session = self.attach(unattached(Session), presented, client)
        await self._aread(session, state_of(session))
        return session

    def load_now(
        self,
        presented: Presented,
        client: tuple[str | None, str | None] = NOBODY,
        folded: bool = False,
    ) -> Session | None:
        """The session presented, where the store need not be asked for it; None where it must.

        ``folded`` leaves the content undecoded until it is used, where it was decoded before.
        """
        manager: Any = self
        session = unattached(Session)
        if presented.sid_hash is None:
            self._purger.start()
            session.attach(SessionState(manager, client))
            session.unready = False
            return session
        entry = self.store.fresh(presented.sid_hash)
        if entry is None:
            return None
        known = self._known(entry) if self._custom else entry.snapshot
        if known is not None:
            state = SessionState(manager, client, presented.id, entry.row, known)
            session.attach(state)
            if folded:
                dict.__setitem__(session, UNLOADED, None)
                return session
            self.unfold(session, state)
        else:
            state = SessionState(manager, client)
            session.attach(state)
            state.pending = presented
            self._fill(session, state, entry.row, entry)
        session.unready = False
        return session

    def unfold(self, session: Session, state: SessionState) -> None:
        """Decode the content of a session that is loaded but for that: as it was at the load,
        whatever has become of it since.
        """
        row = state.folded
        if row is None:
            return
        data = row.data
        try:
            if self._plain and not data[1]:
                # Without a flag it is JSON as it stands, and was decoded before or written here.
                payload, rich = data[HEADER_BYTES:], False
                content = from_json(payload)
                if type(content) is not dict:
                    raise CorruptRecord("the payload is not the JSON of a session")
            else:
                payload, rich = self.payload_of(row)
                content = self.codec.decode(payload, rich)
        except Exception:
            # Written here, but by somebody else than a manager.
            session_id, state.id, state.row, state.loaded = state.id, None, None, NOTHING_LOADED
            content = self._content(state, session_id, row)
            payload, rich = state.payload, state.rich
        with self._unfolding:
            # Another thread of the request may have been quicker, and changed it already.
            if state.folded is not None:
                state.payload, state.rich = payload, rich
                session.refill(content)
                state.folded = None

    def _found(self, state: SessionState, content: dict[Any, Any]) -> int | None:
        """The snapshot of what was just decoded; ``UNTOLD``, which takes less time, where the
        payload tells it to the byte.
        """
        if state.row is not None and not (state.rich or self._custom):
            # Where somebody else has written it, it may not be what we can write.
            with suppress(Exception):
                if encodes_to(content, state.payload):
                    return UNTOLD
        return self.endings.number(content)

    def _known(self, entry: Entry) -> int | None:
        """The snapshot of a cached record, if it need not be checked. What a serializer of the
        application's has written it may fail to read.
        """
        return None if self._custom and entry.snapshot == UNTOLD else entry.snapshot

    def remember(self, row: Row, found: int | None) -> None:
        """Keep the snapshot of a row's content for the requests to come."""
        entry = self.store.cache.find(row.sid_hash)
        if entry is not None and entry.row is row:
            self.store.cache.describe(row.sid_hash, entry, found)

    def payload_of(self, row: Row) -> tuple[bytes, bool]:
        """The payload, and whether it is rich, of a row whose record was read before."""
        return self.rows.records.reread(row.data, sid_hash=row.sid_hash)

    def attach(
        self,
        session: AnySession,
        presented: Presented,
        client: tuple[str | None, str | None] = NOBODY,
    ) -> AnySession:
        """Tie an empty session to what a request presents: it is loaded at its first access, or by
        ``ensure_loaded``.
        """
        self._purger.start()
        manager: Any = self
        state = SessionState(manager, client)
        session.attach(state)
        if presented.id is not None:
            state.pending = presented
            dict.__setitem__(session, UNLOADED, None)
        return session

    def ensure_loaded(self, session: Session) -> None:
        """Load a session that is attached only; no access of the application's. For threads.

        If the store fails, the session raises ``StoreUnavailable`` on use.
        """
        state = state_of(session)
        if not self._is_loaded(session, state):
            self._read(session, state)

    async def aensure_loaded(self, session: Session) -> None:
        """Load a session that is attached only; see ``ensure_loaded``."""
        state = state_of(session)
        if not self._is_loaded(session, state):
            await self._aread(session, state)

    def _is_loaded(self, session: Session, state: SessionState) -> bool:
        """Whether it is loaded by now, if need be from the cache."""
        if state.pending is None:
            self.unfold(session, state)
            return True
        entry = self.store.fresh(_pending_hash(state))
        if entry is not None:
            self._fill(session, state, entry.row, entry)
        return entry is not None

    def _read(self, session: Session, state: SessionState) -> None:
        found: Found | StoreUnavailable
        forking.notice_fork()
        try:
            found = self.store.runner.run_shared(*self._shared_load(state))
        except StoreUnavailable as error:
            found = error
        self._fill(session, state, found)

    async def _aread(self, session: Session, state: SessionState) -> None:
        found: Found | StoreUnavailable
        try:
            found = await self.store.runner.arun_shared(*self._shared_load(state))
        except StoreUnavailable as error:
            found = error
        self._fill(session, state, found)

    def glimpse(self, session: Session) -> dict[Any, Any] | None:
        """A copy of the content as this process last saw it, which may be out of date; None if it
        saw none. No I/O, and no access of the application's.
        """
        state = state_of(session)
        if state.pending is None:
            self.unfold(session, state)
            return dict(dict.items(session))
        row = self.store.cache.peek(_pending_hash(state))
        if row is None:
            return None
        try:
            record = self.rows.records.read(row.data, sid_hash=row.sid_hash)
            return self.codec.decode(record.payload, record.rich)
        except CorruptRecord:
            return None

    def _shared_load(
        self, state: SessionState
    ) -> tuple[bytes, Callable[[], Flow[Found]], Callable[[], Found]]:
        """What a runner needs to load a row once for all who wait for it."""
        sid_hash = _pending_hash(state)

        def cached() -> Found:
            entry = self.store.fresh(sid_hash)
            return None if entry is None else entry.row

        return sid_hash, lambda: self._load_flow(sid_hash), cached

    def _load_flow(self, sid_hash: bytes) -> Flow[Found]:
        return self.store.load_flow(sid_hash, clock.now())

    def _fill(
        self,
        session: Session,
        state: SessionState,
        found: Found | StoreUnavailable,
        entry: Entry | None = None,
    ) -> None:
        """Give the session what the store answered, or the cache."""
        presented, state.pending = state.pending, None
        session_id = None if presented is None else presented.id
        known = None if entry is None else self._known(entry)
        if entry is not None and known is not None:
            # Somebody has read and checked this very record before, or has written it.
            state.id, state.loaded = session_id, known
            state.row = state.folded = entry.row
            self.unfold(session, state)
        else:
            content = self._content(state, session_id, found)
            session.refill(content)
            state.loaded = self._found(state, content)
            if entry is not None and state.row is not None and state.loaded is not None:
                self.store.cache.describe(entry.row.sid_hash, entry, state.loaded)
        if state.started:
            # Loaded after the response began: what follows is late.
            state.sent = self.endings.snapshot(session)

    def _content(
        self, state: SessionState, session_id: str | None, found: Found | StoreUnavailable
    ) -> dict[Any, Any]:
        if isinstance(found, StoreUnavailable):
            self.events.emit("store_error", detail=str(found))
            state.failure = found
            return {}
        if found is RETIRED:
            self.events.emit("retired_id_used", detail="an ID that a rotation replaced lately")
            state.savable = False
        if not isinstance(found, Row):
            return {}
        if found.expires_at <= clock.now():
            self.events.emit("expired")
            return {}
        try:
            record = self.rows.records.read(found.data, sid_hash=found.sid_hash)
            content = self.codec.decode(record.payload, record.rich)
        except CorruptRecord as error:
            self.events.emit("corrupt", detail=str(error))
            return {}
        state.id, state.row, state.header = session_id, found, record.header
        state.payload, state.rich = record.payload, record.rich
        return content

    def renewal_may_be_due(self, state: SessionState) -> bool:
        """Whether a request that never looked at its session could have to renew it, by what this
        process last saw of it.
        """
        if not self._renews:
            return False
        row = self.store.cache.peek(_pending_hash(state))
        try:
            return row is None or self.rows.touch_due(row, read_header(row.data), clock.now())
        except CorruptRecord:
            return False


def _pending_hash(state: SessionState) -> bytes:
    """The store's key of a session that is still to be loaded."""
    assert state.pending is not None
    assert state.pending.sid_hash is not None
    return state.pending.sid_hash


def _fields(cookie_header: str | bytes | None) -> list[bytes]:
    if cookie_header is None:
        return []
    raw = (
        cookie_header.encode("latin-1", "replace")
        if isinstance(cookie_header, str)
        else cookie_header
    )
    return [raw]
