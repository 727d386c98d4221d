"""SessionManager: opens and closes sessions, for every adapter and for code that has none."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar, Unpack

from . import clock
from .codecs import Codec, CustomCodec, JSONCodec
from .commits import Committer
from .config import Options, build_settings
from .cookies import CookieReader, CookieWriter, Kind, Presented, identify
from .directory import Directory
from .encryption import Cipher
from .endings import Decided, Endings
from .errors import (
    CorruptRecord,
    ResponseAlreadyStarted,
    SerializationError,
    SessionTooLarge,
    StoreUnavailable,
)
from .events import EventSink, logger
from .flows import Flow
from .lifetimes import DEFAULT_EXPIRY, Lifetimes
from .operations import Operations
from .plans import Nothing, Touch
from .purging import Purger, Purges
from .records import RecordFormat, read_header
from .rows import Lost, RowMaker, Verdict, started
from .runners import LoopRunner
from .session import Session
from .states import CookieDue, SessionState, attempting, state_of
from .stores import open_store
from .stores.cached import CachedStore
from .stores.protocol import RETIRED, Found, Row
from .tokens import Tokens, hash_id

T = TypeVar("T")
AnySession = TypeVar("AnySession", bound=Session)
_managers: weakref.WeakSet[SessionManager] = weakref.WeakSet()


class ManagerOptions(Options, total=False):
    """Every setting, for a manager that is built without a middleware."""

    secret_key: Any
    session_cookie: str
    max_age: int | None
    path: str
    same_site: Literal["lax", "strict", "none"]
    https_only: bool
    domain: str | None
    partitioned: bool


class Closing(NamedTuple):
    """What the response has to carry: the cookie's fate, and whether it varies with the cookie.

    ``id``, the secret, and ``max_age`` (seconds; None: until the browser closes) go with a cookie
    that is to be set; ``lasting`` says that the session was given a lifetime of its own.
    """

    cookie: CookieDue
    vary: bool
    id: str | None = None
    max_age: int | None = None
    lasting: bool = False

    def __repr__(self) -> str:
        return f"Closing({self.cookie.value}, vary={self.vary})"


class SessionManager(Operations, Directory, Purges):
    """The framework-free core: takes the same keywords as ``SessionMiddleware``.

    Building one does no I/O and raises ``ConfigurationError`` with everything that is wrong. One
    manager may serve many apps, threads and event loops.
    """

    def __init__(self, **settings: Unpack[ManagerOptions]) -> None:
        self.settings = chosen = build_settings(**settings)
        self.events = EventSink(chosen.on_event)
        self._tokens = Tokens(chosen.secret_key, chosen.secret_key_fallbacks, chosen.session_cookie)
        self.cookies = CookieReader(chosen.session_cookie)
        self._writer = CookieWriter(
            chosen.session_cookie,
            path=chosen.path,
            domain=chosen.domain,
            https_only=chosen.https_only,
            same_site=chosen.same_site,
            partitioned=chosen.partitioned,
        )
        self.codec: Codec = (
            JSONCodec() if chosen.serializer is None else CustomCodec(chosen.serializer)
        )
        cipher = Cipher(chosen.encryption_keys) if chosen.encryption_keys else None
        self._lifetimes = Lifetimes(
            max_age=_ms(chosen.max_age),
            idle=_ms(chosen.idle_timeout),
            absolute=_ms(chosen.absolute_timeout),
            rolling=chosen.rolling,
        )
        store = open_store(chosen)
        self.store = (
            store
            if isinstance(store, CachedStore)
            else CachedStore(
                store,
                cache_ttl=chosen.cache_ttl,
                cache_max_bytes=chosen.cache_max_bytes,
                coherence=chosen.coherence,
                store_timeout=chosen.store_timeout,
                codec=self.codec,
                cipher=cipher,
            )
        )
        self._records = RecordFormat(self.codec, cipher)
        self._empty = self._encoded_empty()
        self.rows = RowMaker(self.codec, self._records, self._lifetimes, chosen.max_session_bytes)
        self.endings = Endings(self.rows, chosen.user_key, chosen.record_client)
        self.committer = Committer(self.store, self.rows, self.events)
        self._purger = self._new_purger()
        self._scheme_noted = False
        _managers.add(self)

    def _encoded_empty(self) -> bytes:
        try:
            return self.codec.encode({})[0]
        except SerializationError:
            return b""

    def _new_purger(self) -> Purger:
        in_loop = isinstance(self.store.runner, LoopRunner)
        return Purger(self, self.settings.purge_interval, in_loop)

    def after_fork(self) -> None:
        """In a child process: pools, locks, cache and threads are made anew."""
        self.events.after_fork()
        self.store.after_fork()
        self._purger = self._new_purger()

    def run(self, flow: Flow[T], /) -> T:
        """Run a flow in this thread's name; a failing store is reported."""
        try:
            return self.store.run(flow)
        except StoreUnavailable as error:
            self.events.emit("store_error", detail=str(error))
            raise

    async def arun(self, flow: Flow[T], /) -> T:
        """Run a flow in this task's name; a failing store is reported."""
        try:
            return await self.store.arun(flow)
        except StoreUnavailable as error:
            self.events.emit("store_error", detail=str(error))
            raise

    # Opening.

    def identify(self, values: Sequence[bytes] | None, tokens: Tokens | None = None) -> Presented:
        """Which session the cookie values name; forged and ambiguous ones are reported.

        ``tokens`` verifies them in place of the manager's own keys.
        """
        presented = identify(values, tokens or self._tokens)
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

    def load(
        self, presented: Presented, client: tuple[str | None, str | None] = (None, None)
    ) -> Session:
        """The session presented. If the store fails, one that raises ``StoreUnavailable`` on
        use.
        """
        session = self.attach(Session(), presented, client)
        if presented.id is not None:
            self.store.runner.refuse_event_loop()
            self.ensure_loaded(session)
        return session

    async def aload(
        self, presented: Presented, client: tuple[str | None, str | None] = (None, None)
    ) -> Session:
        """The session presented; see ``load``."""
        session = self.attach(Session(), presented, client)
        if presented.id is not None:
            await self.aensure_loaded(session)
        return session

    def attach(
        self,
        session: AnySession,
        presented: Presented,
        client: tuple[str | None, str | None] = (None, None),
    ) -> AnySession:
        """Tie an empty session to what a request presents: it is loaded at its first access, or by
        ``ensure_loaded``.
        """
        self._purger.start()
        session.attach(SessionState(self, self._empty, client=client, pending=presented.id))
        if presented.id is not None:
            session.hold_back()
        return session

    def ensure_loaded(self, session: Session) -> None:
        """Load a session that is attached only; no access of the application's. For threads.

        If the store fails, the session raises ``StoreUnavailable`` on use.
        """
        state = state_of(session)
        if state.pending is None:
            return
        sid_hash = hash_id(state.pending)
        found: Found | StoreUnavailable = self.store.fresh(sid_hash)
        if found is None:
            try:
                found = self.store.runner.run_shared(*self._shared_load(sid_hash))
            except StoreUnavailable as error:
                found = error
        self._fill(session, state, found)

    async def aensure_loaded(self, session: Session) -> None:
        """Load a session that is attached only; see ``ensure_loaded``."""
        state = state_of(session)
        if state.pending is None:
            return
        sid_hash = hash_id(state.pending)
        found: Found | StoreUnavailable = self.store.fresh(sid_hash)
        if found is None:
            try:
                found = await self.store.runner.arun_shared(*self._shared_load(sid_hash))
            except StoreUnavailable as error:
                found = error
        self._fill(session, state, found)

    def glimpse(self, session: Session) -> dict[Any, Any] | None:
        """A copy of the content as this process last saw it, which may be out of date; None if it
        saw none. No I/O, and no access of the application's.
        """
        state = state_of(session)
        if state.pending is None:
            return dict(dict.items(session))
        row = self.store.cache.peek(hash_id(state.pending))
        if row is None:
            return None
        try:
            record = self._records.read(row.data, sid_hash=row.sid_hash)
            return self.codec.decode(record.payload, record.rich)
        except CorruptRecord:
            return None

    def _shared_load(
        self, sid_hash: bytes
    ) -> tuple[bytes, Callable[[], Flow[Found]], Callable[[], Found]]:
        """What a runner needs to load a row once for all who wait for it."""
        return sid_hash, lambda: self._load_flow(sid_hash), lambda: self.store.fresh(sid_hash)

    def _load_flow(self, sid_hash: bytes) -> Flow[Found]:
        return self.store.load_flow(sid_hash, clock.now())

    def _fill(self, session: Session, state: SessionState, found: Found | StoreUnavailable) -> None:
        """Give the session what the store answered."""
        session_id, state.pending = state.pending, None
        session.refill(self._content(state, session_id, found))
        if state.started:
            # Loaded after the response began: what follows is late.
            state.sent = state.payload

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
            record = self._records.read(found.data, sid_hash=found.sid_hash)
            content = self.codec.decode(record.payload, record.rich)
        except CorruptRecord as error:
            self.events.emit("corrupt", detail=str(error))
            return {}
        state.id, state.row, state.header = session_id, found, record.header
        state.payload, state.rich = record.payload, record.rich
        return content

    # Closing.

    def close(self, session: Session, *, failed: bool = False) -> list[tuple[str, str]]:
        """Save what there is to save and give the response's headers. For threads.

        ``failed`` discards changes. Raises as ``Session.save`` does, but ``SessionGone``.
        """
        return self._header_list(self.finish(session, failed=failed))

    async def aclose(self, session: Session, *, failed: bool = False) -> list[tuple[str, str]]:
        """Save what there is to save and give the response's headers; see ``close``."""
        return self._header_list(await self.afinish(session, failed=failed))

    def finish(self, session: Session, *, failed: bool = False) -> Closing:
        """Save as the response begins, and say what it has to carry."""
        decided = self._decided(session, failed)
        if decided is not None:
            work = state_of(session).fork()
            with _sparing_touches(decided), attempting(session):
                verdict = self.run(self.committer.commit(work, decided.plan, decided.change))
                _adopt(session, work, decided, verdict)
        return self._closing(session)

    async def afinish(self, session: Session, *, failed: bool = False) -> Closing:
        """Save as the response begins, and say what it has to carry."""
        decided = self._decided(session, failed)
        if decided is not None:
            work = state_of(session).fork()
            with _sparing_touches(decided), attempting(session):
                flow = self.committer.commit(work, decided.plan, decided.change)
                _adopt(session, work, decided, await self.arun(flow))
        return self._closing(session)

    def _decided(self, session: Session, failed: bool) -> Decided | None:
        """None where there is nothing to do: most requests only read."""
        state = state_of(session)
        if state.pending is not None and self._renewal_may_be_due(state.pending):
            self.ensure_loaded(session)
        if state.pending is not None or state.failure is not None:
            return None
        decided = self.endings.decide(state, session, clock.now(), failed=failed)
        # What a failed request changed is discarded, and nobody misses it.
        state.sent = None if failed else decided.payload or state.payload
        if isinstance(decided.plan, Nothing):
            session.forget_intents()
            return None
        return decided

    def _renewal_may_be_due(self, session_id: str) -> bool:
        """Whether a request that never looked at its session could have to renew it, by what this
        process last saw of it.
        """
        if not self._lifetimes.rolling and self._lifetimes.idle is None:
            return False
        row = self.store.cache.peek(hash_id(session_id))
        try:
            return row is None or self.rows.touch_due(row, read_header(row.data), clock.now())
        except CorruptRecord:
            return False

    def _closing(self, session: Session) -> Closing:
        state = state_of(session)
        state.started = True
        cookie, state.cookie = state.cookie, CookieDue.NOTHING
        if cookie is CookieDue.SET:
            return self.reissued(session)
        if cookie is CookieDue.EXPIRE:
            return Closing(cookie, vary=True)
        return Closing(cookie, session.accessed)

    def reissued(self, session: Session) -> Closing:
        """The cookie of a stored session once more, as long as that lives from now on."""
        state = state_of(session)
        if state.id is None or state.row is None or state.header is None:
            return Closing(CookieDue.NOTHING, session.accessed)
        max_age = self._lifetimes.cookie_max_age(
            state.header.expiry,
            renewed=self.rows.renewed(state.header, state.row),
            started=started(state.row),
            now=clock.now(),
        )
        lasting = state.header.expiry != DEFAULT_EXPIRY
        return Closing(CookieDue.SET, True, state.id, max_age, lasting)

    def set_cookie(self, closing: Closing) -> str | None:
        """The Set-Cookie value that a response needs, by the manager's own settings."""
        if closing.cookie is CookieDue.EXPIRE:
            return self._writer.expire()
        if closing.id is None:
            return None
        return self._writer.set(self._tokens.sign(closing.id), closing.max_age)

    def _header_list(self, closing: Closing) -> list[tuple[str, str]]:
        headers: list[tuple[str, str]] = []
        set_cookie = self.set_cookie(closing)
        if closing.vary:
            headers.append(("Vary", "Cookie"))
        if set_cookie is not None:
            headers.append(("Cache-Control", "no-store"))
            headers.append(("Set-Cookie", set_cookie))
        return headers

    def check_late_change(self, session: Session) -> None:
        """At the end of a request: raise ``ResponseAlreadyStarted`` if a change missed the
        response.
        """
        state = state_of(session)
        if state.sent is None or not session.accessed or state.failure is not None:
            return
        try:
            payload, _ = self.rows.encode(session)
        except (SerializationError, SessionTooLarge):
            payload = b""
        if payload == state.sent and not (session.ended or session.rotation or session.expiry_set):
            return
        self.events.emit("late_change", state.handle, "changed after the response had begun")
        raise ResponseAlreadyStarted(
            "the session was changed after the response had begun, and the change is lost: change "
            "it before, or call `await session.asave()` (in a thread: `session.save()`) where the "
            "cookie is already there"
        )

    def note_scheme(self, scheme: str) -> None:
        """Warn once if a Secure cookie goes out on a connection that looks like plain HTTP
        (SW039).
        """
        if self._scheme_noted or not self.settings.https_only:
            return
        self._scheme_noted = True
        if scheme in ("http", "ws"):
            logger.warning(
                "SW039 https_only: the cookie is Secure, but the request came as %s. Behind a TLS "
                "proxy, have the server trust its headers (uvicorn --proxy-headers).",
                scheme,
            )

    # Upkeep.

    def stats(self) -> dict[str, Any]:
        """Counters of this process: the cache's hits, misses, entries and bytes, and events by
        kind.
        """
        cache = self.store.cache
        return {
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_entries": len(cache),
            "cache_bytes": cache.size,
            "events": self.events.counts(),
        }

    @property
    def retry_after(self) -> int:
        """Seconds that a client is told to wait when the store is down."""
        return max(1, math.ceil(self.settings.store_timeout))

    def shutdown(self) -> None:
        """Let go of connections and threads. The manager can be used again afterwards."""
        self._purger.stop()
        self.store.close()

    async def ashutdown(self) -> None:
        """Let go of connections and threads. The manager can be used again afterwards."""
        self._purger.stop()
        await self.store.aclose()


@contextmanager
def _sparing_touches(decided: Decided) -> Iterator[None]:
    """A touch that a failing store loses is no reason to fail the request; the failure is
    reported.
    """
    try:
        yield
    except StoreUnavailable:
        if not isinstance(decided.plan, Touch):
            raise


def _adopt(session: Session, work: SessionState, decided: Decided, verdict: Verdict) -> None:
    state = state_of(session)
    state.adopt(work)
    if isinstance(verdict, Lost) and not isinstance(decided.plan, Touch):
        # What was dropped differs from what is stored, and that is no late change.
        state.sent = None


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


def _fields(cookie_header: str | bytes | None) -> list[bytes]:
    if cookie_header is None:
        return []
    raw = (
        cookie_header.encode("latin-1", "replace")
        if isinstance(cookie_header, str)
        else cookie_header
    )
    return [raw]


def _after_fork() -> None:
    for manager in list(_managers):
        manager.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
