"""SessionManager: opens and closes sessions, for every adapter and for code that has none."""

from __future__ import annotations

import math
import threading
import weakref
from datetime import timedelta
from typing import Any, Literal, TypeVar, Unpack

from .closing import Closings
from .codecs import Codec, CustomCodec, JSONCodec
from .commits import Committer
from .config import Options, build_settings
from .cookies import CookieReader, CookieWriter, Recognizer
from .directory import Directory
from .encryption import Cipher
from .endings import Endings
from .errors import (
    SerializationError,
    StoreUnavailable,
)
from .events import EventSink, logger
from .flows import Flow
from .lifetimes import Lifetimes
from .limits import UserLimit
from .loading import Loading
from .locking import Locks
from .operations import Operations
from .purging import Purger, Purges
from .records import RecordFormat
from .rows import RowMaker
from .runners import LoopRunner
from .session import Session
from .stores import forking, open_store
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
    max_age: int | timedelta | None
    path: str
    same_site: Literal["lax", "strict", "none"]
    https_only: bool
    domain: str | None
    partitioned: bool


class SessionManager(Loading, Closings, Operations, Locks, Directory, Watches, Purges):
    """The framework-free core: takes the same keywords as ``SessionMiddleware``.

    Building one does no I/O and raises ``ConfigurationError`` with everything that is wrong. One
    manager may serve many apps, threads and event loops.
    """

    def __init__(self, **settings: Unpack[ManagerOptions]) -> None:
        self.settings = chosen = build_settings(**settings)
        self.events = EventSink(chosen.on_event)
        self.tokens = Tokens(chosen.secret_key, chosen.secret_key_fallbacks, chosen.session_cookie)
        self.cookies = CookieReader(chosen.session_cookie)
        self.recognizer = Recognizer(
            self.cookies, self.tokens, chosen.cache_max_bytes, self.reported
        )
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
        self._renews = chosen.rolling or chosen.idle_timeout is not None
        self._scheme_noted = False
        self._unfolding = threading.Lock()
        # Held while a new session gets its ID.
        self.naming = threading.Lock()
        self._custom = self.codec.custom
        self._plain = cipher is None and not self._custom
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
        """In a child: locks, threads and counters are made anew; the store does so by itself."""
        self._unfolding = threading.Lock()
        self.naming = threading.Lock()
        self.events.after_fork()
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
        kind; and ``cache_trusted``, whether hits are served unasked at this moment.
        """
        cache = self.store.cache
        return {
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_entries": len(cache),
            "cache_bytes": cache.size,
            "cache_trusted": self.store.channel.alive,
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


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


def _after_fork() -> None:
    for manager in list(_managers):
        manager.after_fork()


forking.in_child(_after_fork)
