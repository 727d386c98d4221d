"""SessionManager: opens and closes sessions, for every adapter and for code that has none."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar, Unpack

from . import clock
from .codecs import Codec, CustomCodec, JSONCodec
from .commits import Committer
from .config import Options, build_settings
from .cookies import CookieReader, CookieWriter
from .directory import Directory
from .encryption import Cipher
from .endings import Decided, Endings
from .errors import (
    ResponseAlreadyStarted,
    SerializationError,
    SessionTooLarge,
    StoreUnavailable,
)
from .events import EventSink, logger
from .flows import Flow
from .lifetimes import DEFAULT_EXPIRY, Lifetimes
from .limits import UserLimit
from .loading import Loading
from .locking import Locks
from .operations import Operations
from .plans import Nothing, Touch
from .purging import Purger, Purges
from .records import RecordFormat
from .rows import Lost, RowMaker, Verdict, started
from .runners import LoopRunner
from .session import Session
from .states import CookieDue, SessionState, attempting, state_of
from .stores import open_store
from .stores.cached import CachedStore
from .tokens import Tokens
from .watching import Watcher, Watches

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


class SessionManager(Loading, Operations, Locks, Directory, Watches, Purges):
    """The framework-free core: takes the same keywords as ``SessionMiddleware``.

    Building one does no I/O and raises ``ConfigurationError`` with everything that is wrong. One
    manager may serve many apps, threads and event loops.
    """

    def __init__(self, **settings: Unpack[ManagerOptions]) -> None:
        self.settings = chosen = build_settings(**settings)
        self.events = EventSink(chosen.on_event)
        self.tokens = Tokens(chosen.secret_key, chosen.secret_key_fallbacks, chosen.session_cookie)
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
                listen_url=chosen.listen_url,
                store_timeout=chosen.store_timeout,
                codec=self.codec,
                cipher=cipher,
            )
        )
        records = RecordFormat(self.codec, cipher)
        self.empty = self._encoded_empty()
        self.rows = RowMaker(self.codec, records, self._lifetimes, chosen.max_session_bytes)
        self.endings = Endings(self.rows, chosen.user_key, chosen.record_client)
        limit = (
            UserLimit(
                self.store,
                self.events,
                chosen.max_sessions_per_user,
                chosen.session_limit_action,
            )
            if chosen.max_sessions_per_user is not None
            else None
        )
        self.committer = Committer(self.store, self.rows, self.events, limit)
        self._watcher = Watcher(self)
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
        self.store.listeners.clear()
        self._watcher = Watcher(self)
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
        if state.pending is not None and self.renewal_may_be_due(state.pending):
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
        return self._writer.set(self.tokens.sign(closing.id), closing.max_age)

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
        self._watcher.stop()
        self.store.close()

    async def ashutdown(self) -> None:
        """Let go of connections and threads. The manager can be used again afterwards."""
        self._purger.stop()
        self._watcher.stop()
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


def _after_fork() -> None:
    for manager in list(_managers):
        manager.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
