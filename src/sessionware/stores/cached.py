"""CachedStore: a cache in front of a store, itself a store."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from .. import clock
from ..cache import Entry, RowCache
from ..codecs import UNTOLD, Codec, JSONCodec
from ..coherence import Channel, StampChannel, channel_for
from ..encryption import Cipher
from ..errors import StoreUnavailable
from ..flows import Call, Flow, T, twins
from ..records import RecordFormat
from ..runners import runner_for
from ..store_checks import check_cached_store
from . import forking
from .clearing import Clears
from .keyed import KeyedStore
from .protocol import RETIRED, Decision, Found, Row, Stamp

# A request that was under way when its session ended or rotated is over by then.
TOMBSTONE_SECONDS = 60.0


class CachedStore(Clears, KeyedStore):
    """Rows of ``store`` through a cache in this process.

    ``store`` is an object with the store protocol. ``cache_ttl`` (seconds) and ``cache_max_bytes``
    bound the cache, 0 turns it off. ``coherence`` is how other processes' changes come to be known;
    see docs/coherence.md. ``store_timeout`` is how many seconds a call waits. The methods come in
    twins, ``load`` and ``await aload``; a store of one kind only serves its own world.

    On top of the store protocol it has the vocabulary of a cached key-value store; see
    ``KeyedStore``.
    """

    blocking = True

    def __init__(
        self,
        store: Any,
        *,
        cache_ttl: float | timedelta = 30.0,
        cache_max_bytes: int = 64 * 1024 * 1024,
        coherence: str | Channel = "validate",
        listen_url: Any = None,
        store_timeout: float | timedelta = 2.0,
        codec: Codec | None = None,
        cipher: Cipher | None = None,
    ) -> None:
        cache_ttl, cache_max_bytes, coherence, store_timeout = check_cached_store(
            store,
            cache_ttl=cache_ttl,
            cache_max_bytes=cache_max_bytes,
            coherence=coherence,
            store_timeout=store_timeout,
        )
        self.store = store
        self.cache = RowCache(ttl=cache_ttl, max_bytes=cache_max_bytes)
        self.codec: Codec = JSONCodec() if codec is None else codec
        self.records = RecordFormat(self.codec, cipher)
        self.channel = channel_for(coherence, store, listen_url)
        self.timeout = store_timeout
        self.runner = runner_for(store, store_timeout)
        if isinstance(self.channel, StampChannel):
            self.channel.stamps.ahead = partial(_look_ahead, weakref.ref(self))
        # Called with the hashes of what this process has changed; None: of any row.
        self.listeners: list[Callable[[tuple[bytes, ...] | None], None]] = []
        forking.follow(self)

    def before_fork(self) -> None:
        """In the parent: what a child must not inherit is closed, and opened at the next use."""
        self.channel.close()
        close_idle = getattr(self.store, "before_fork", None)
        if close_idle is not None:
            close_idle()

    def after_fork(self) -> None:
        """In a child process: nothing of the parent's is used any more."""
        self.cache.after_fork()
        self.channel.after_fork()
        again = getattr(self.store, "after_fork", None)
        if again is not None:
            again()
        self.runner.abandon()
        self.runner = runner_for(self.store, self.timeout)

    def run(self, flow: Flow[T], /) -> T:
        """Run a flow against the store, waiting in this thread."""
        forking.notice_fork()
        return self.runner.run(flow)

    async def arun(self, flow: Flow[T], /) -> T:
        """Run a flow against the store, waiting in this task."""
        return await self.runner.arun(flow)

    def commit(self, flow: Flow[T], /) -> T:
        """As ``run``, for a flow that begins with a write: it may share a commit with others."""
        forking.notice_fork()
        commit: Callable[[Flow[T]], T] = getattr(self.runner, "commit", self.runner.run)
        return commit(flow)

    def acommit(self, flow: Flow[T], /) -> Coroutine[Any, Any, T]:
        """As ``arun``, for a flow that begins with a write: it may share a commit with others."""
        runner: Any = self.runner
        commit: Callable[[Flow[T]], Coroutine[Any, Any, T]]
        commit = getattr(runner, "acommit", runner.arun)
        return commit(flow)

    def fresh(self, sid_hash: bytes) -> Entry | None:
        """The cached entry, where it may be served without asking the store.

        A row whose time seems to be over is read again: a peer may have touched it.
        """
        cache = self.cache
        entry = cache.find(sid_hash)
        if (
            entry is None
            or not self.channel.trusts(sid_hash, entry.mark)
            or entry.row.expires_at <= clock.now()
        ):
            return None
        cache.hits += 1
        return entry

    # The store protocol. Order on a write: commit, then the cache; an unknown outcome evicts.

    def load_flow(self, sid_hash: bytes, now: int) -> Flow[Found]:
        """See ``Store.load``."""
        if self.channel.due():
            yield from self.look_after_flow()
        buried = self.cache.tombstone(sid_hash)
        if buried is not None:
            return buried[0]
        entry = self.cache.get(sid_hash)
        if entry is not None and entry.row.expires_at > now:
            if self.channel.trusts(sid_hash, entry.mark):
                return entry.row
            mark = self.channel.mark(sid_hash)
            stamp: Stamp | None = yield Call("stamp", (sid_hash,))
            same = (entry.row.id, entry.row.version, entry.row.epoch)
            if stamp is not None and (stamp.id, stamp.version, stamp.epoch) == same:
                self.cache.confirm(sid_hash, entry, mark)
                return self._retimed(sid_hash, entry.row, stamp)
        if entry is not None:
            self.cache.invalidate(sid_hash)
        token = self.cache.token(sid_hash)
        mark = self.channel.mark(sid_hash)
        found: Found = yield Call("load", (sid_hash, now))
        if isinstance(found, Row) and found.expires_at > now:
            self.cache.fill(sid_hash, token, found, mark)
        return found

    def _retimed(self, sid_hash: bytes, cached: Row, stamp: Stamp) -> Row:
        """Touches move the times without a version: take over what the stamp says."""
        if (stamp.last_seen, stamp.expires_at) == (cached.last_seen, cached.expires_at):
            return cached
        row = cached._replace(last_seen=stamp.last_seen, expires_at=stamp.expires_at)
        self.cache.retime(sid_hash, row)
        return row

    def _changing(
        self, method: str, args: tuple[Any, ...], *hashes: bytes
    ) -> Flow[tuple[Any, int | None]]:
        """Change rows that have these hashes, the last of them afterwards, and let everybody know.

        Gives the store's answer, and the mark with which the changed row may be cached.
        """
        ticket = self.channel.ticket()
        if ticket is None:
            return self._telling(method, args, hashes)
        return self._stamping(ticket, method, args, hashes)

    def _stamping(
        self, ticket: int, method: str, args: tuple[Any, ...], hashes: tuple[bytes, ...]
    ) -> Flow[tuple[Any, int | None]]:
        """As ``_changing``, where the store itself moves the slots."""
        answer = yield Call(method, args, ticket)
        self._heard(hashes)
        return answer, ticket

    def _telling(
        self, method: str, args: tuple[Any, ...], hashes: tuple[bytes, ...]
    ) -> Flow[tuple[Any, int | None]]:
        """As ``_changing``, where others are told afterwards."""
        mark = self.channel.mark(hashes[-1])
        try:
            answer = yield Call(method, args)
        except BaseException:
            # It may have been done.
            self._announce(hashes)
            raise
        # What `alter` gives is its caller's, and says nothing of what was done.
        if answer is not False or method == "alter":
            yield from self._tell(hashes)
        return answer, mark

    def _tell(self, hashes: tuple[bytes, ...] | None) -> Flow[None]:
        """A change that nobody hears of is found by its age: no reason to fail the request."""
        wanted = self._announce(hashes)
        if wanted is not None:
            with suppress(StoreUnavailable):
                yield wanted

    def telling_late(self, hashes: tuple[bytes, ...] | None) -> Flow[None]:
        """A change whose answer was lost was made after all, perhaps later than others were told:
        what was read in between is as it was before. None: of any row.
        """
        if hashes is None:
            self.cache.clear()
        for sid_hash in hashes or ():
            self.cache.invalidate(sid_hash)
        yield from self._tell(hashes)

    def _announce(self, hashes: tuple[bytes, ...] | None) -> Call | None:
        """Tell whoever listens here, and have the channel tell others; what the store has to say
        for it.
        """
        self._heard(hashes)
        try:
            return self.channel.changed(hashes)
        except StoreUnavailable:
            return None

    def _heard(self, hashes: tuple[bytes, ...] | None) -> None:
        for listener in self.listeners:
            listener(hashes)

    def insert_flow(self, row: Row) -> Flow[int]:
        """See ``Store.insert``."""
        return (yield from self.inserting(row)).id

    def inserting(self, row: Row) -> Flow[Row]:
        """Insert a row, and give it as it is stored. Nobody can have it cached, so nobody is
        told.
        """
        token = self.cache.token(row.sid_hash)
        mark = self.channel.mark(row.sid_hash)
        row_id: int = yield Call("insert", (row,))
        stored = Row(row_id, *row[1:])
        self.cache.fill(row.sid_hash, token, stored, mark, UNTOLD)
        return stored

    def replace_flow(self, old: Row, new: Row, now: int) -> Flow[bool]:
        """See ``Store.replace``."""
        sid_hash = old.sid_hash
        token = self.cache.begin_write(sid_hash)
        hit: bool = False
        mark: int | None = None
        try:
            hit, mark = yield from self._changing("replace", (old, new, now), sid_hash)
        finally:
            if hit:
                self.cache.settle(sid_hash, token, _kept(old, new, sid_hash), mark)
            else:
                self.cache.invalidate(sid_hash)
        return hit

    def rotate_flow(self, old: Row, new: Row, now: int, retired_until: int) -> Flow[bool]:
        """See ``Store.rotate``."""
        token = self.cache.token(new.sid_hash)
        hit: bool = False
        mark: int | None = None
        try:
            hit, mark = yield from self._changing(
                "rotate", (old, new, now, retired_until), old.sid_hash, new.sid_hash
            )
        finally:
            if hit:
                self.cache.bury(old.sid_hash, RETIRED, (retired_until - now) / 1000)
                kept = _kept(old, new, new.sid_hash)
                self.cache.fill(new.sid_hash, token, kept, mark, UNTOLD)
            else:
                self.cache.invalidate(old.sid_hash)
        return hit

    def alter_flow(self, row: Row, decide: Decision, now: int, retired_until: int) -> Flow[Any]:
        """See ``Store.alter``; of the row only id and hash matter. The cache forgets it."""
        try:
            result, _ = yield from self._changing(
                "alter", (row, decide, now, retired_until), row.sid_hash
            )
        finally:
            self.cache.invalidate(row.sid_hash)
        return result

    def touch_flow(self, old: Row, new: Row, now: int) -> Flow[bool]:
        """See ``Store.touch``. Of parallel requests in this process only one writes it."""
        if not self.cache.begin_touch(old.sid_hash, old.last_seen):
            return False
        try:
            hit: bool = yield Call("touch", (old, new, now))
        finally:
            self.cache.end_touch(old.sid_hash)
        if hit:
            touched = old._replace(
                last_seen=new.last_seen, expires_at=new.expires_at, purge_after=new.purge_after
            )
            self.cache.retime(old.sid_hash, touched)
        return hit

    def remove_flow(
        self, row: Row, version: int | None = None, epoch: int | None = None
    ) -> Flow[bool]:
        """See ``Store.remove``; of the row only id, hash and epoch matter."""
        if version is not None or epoch is not None:
            return (yield from self._remove(row, version, epoch))
        current: Row | None = row
        while current is not None:
            if (yield from self._remove(current, None, current.epoch)):
                return True
            # It may have been rotated: then it is cached under another hash.
            current = yield Call("reload", (row.id,))
        return False

    def _remove(self, row: Row, version: int | None, epoch: int | None) -> Flow[bool]:
        hit: bool = False
        try:
            hit, _ = yield from self._changing("remove", (row, version, epoch), row.sid_hash)
        finally:
            if hit:
                self.cache.end(row.id)
                self.cache.bury(row.sid_hash, None, TOMBSTONE_SECONDS)
            else:
                self.cache.invalidate(row.sid_hash)
        return hit

    def remove_user_flow(self, user_id: str, keep: int | None = None) -> Flow[list[bytes]]:
        """See ``Store.remove_user``."""
        try:
            hashes: list[bytes] = yield Call("remove_user", (user_id, keep))
        except BaseException:
            # Which of them are gone can't be told.
            self.cache.clear()
            self._announce(None)
            raise
        for sid_hash in hashes:
            self.cache.bury(sid_hash, None, TOMBSTONE_SECONDS)
        if hashes:
            yield from self._tell(tuple(hashes))
        return hashes

    load, aload = twins(load_flow)
    insert, ainsert = twins(insert_flow)
    replace, areplace = twins(replace_flow)
    rotate, arotate = twins(rotate_flow)
    alter, aalter = twins(alter_flow)
    touch, atouch = twins(touch_flow)
    remove, aremove = twins(remove_flow)
    remove_user, aremove_user = twins(remove_user_flow)

    def forget_key(self, sid_hash: bytes) -> None:
        self.cache.unbury(sid_hash)

    def close(self) -> None:
        """Let what is under way end, then let go of connections, threads and the cache."""
        self.runner.close()
        # After what is under way, so that it is still told to others.
        self.channel.close()
        self.cache.clear()

    async def aclose(self) -> None:
        """Let what is under way end, then let go of connections, threads and the cache."""
        await self.runner.aclose()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.channel.close)
        self.cache.clear()


def _kept(old: Row, new: Row, sid_hash: bytes) -> Row:
    """The new row as the store keeps it."""
    if new.sid_hash == sid_hash and new.created_at == old.created_at:
        return new
    return new._replace(sid_hash=sid_hash, created_at=old.created_at)


def _look_ahead(store: weakref.ref[CachedStore]) -> None:
    alive = store()
    if alive is not None:
        alive.runner.background(alive.look_after_flow())
