"""The TTL cache of encoded rows: bounded in bytes, fill tokens, tombstones, and one lock."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from sys import getsizeof
from typing import NamedTuple

from cachetools import LRUCache

from .clock import boot_clock
from .codecs import UNTOLD
from .stores.protocol import Retired, Row

# What an entry costs beside its data, texts and numbers of 64 bits: the row's tuple and numbers,
# the entry, the key, and its place in the ordered dict, which is half empty now and then. Measured
# with tracemalloc: 550 to 750 bytes.
ENTRY_OVERHEAD = 670
_NUMBER = 32
_STRIPES = 4096
# Of the bytes that the cache may take, what is kept beside the rows gets these shares; see also
# ``cookies.Recognizer``. What each costs was measured too.
_TOMBSTONE_SHARE, _TOMBSTONE_BYTES = 64, 400
_ENDED_SHARE, _ENDED_BYTES = 128, 128
_FEWEST = 256
# The same of each MiB, and for the gaps between objects, which no allocator counts.
_BESIDE = (1 << 20) // 10


class Entry:
    """A cached row, its end, and the mark with which it was read; see ``coherence.slots``.

    ``snapshot`` is that of the row's content, once somebody has decoded it; see ``codecs``.
    ``UNTOLD`` is that of a record which this process has written, or has decoded and found to be
    what it would write: nobody need look whether it is sound. None says that nothing is known.
    """

    __slots__ = ("mark", "row", "snapshot", "until")

    def __init__(self, row: Row, until: float, mark: int | None, snapshot: int | None) -> None:
        self.row = row
        self.until = until
        self.mark = mark
        self.snapshot = snapshot


class _Tombstone(NamedTuple):
    answer: Retired | None
    until: float


def _size(entry: Entry) -> int:
    _, _, _, _, user_id, data, _, authenticated_at, _, _, _, ip, user_agent = entry.row
    size = len(data) + ENTRY_OVERHEAD
    if authenticated_at is not None:
        size += _NUMBER
    if entry.mark is not None:
        size += _NUMBER
    if entry.snapshot is not None and entry.snapshot != UNTOLD:
        size += _NUMBER
    if user_id is not None:
        size += getsizeof(user_id)
    if ip is not None:
        size += getsizeof(ip)
    if user_agent is not None:
        size += getsizeof(user_agent)
    return size


def _lean(row: Row) -> Row:
    """The same row, with one object for equal times: a driver makes one for each."""
    created, login, seen = row.created_at, row.authenticated_at, row.last_seen
    if created == seen and created is not seen:
        row = row._replace(last_seen=created)
    if created == login and created is not login:
        row = row._replace(authenticated_at=created)
    return row


class RowCache:
    """Rows as they were read or written, each for at most ``ttl`` seconds.

    An ordered dict with expiry and sizes of ours: cachetools' ``TTLCache`` costs five times as much
    a hit, and its ``LRUCache`` keeps one or two dicts more, which every entry pays for. A fill
    carries a token taken before the row was read and is dropped if the key was written or
    invalidated since (the leases of Nishtala et al., NSDI 2013). Tokens count per stripe of keys:
    two keys that share a stripe can only cost a fill. Writes are numbered instead: many are under
    way at once, and two that shared a stripe would evict each other each time.
    """

    def __init__(
        self, *, ttl: float, max_bytes: int, timer: Callable[[], float] = boot_clock
    ) -> None:
        self.ttl = ttl
        self.max_bytes = max_bytes
        self.enabled = ttl > 0 and max_bytes > 0
        self._timer = timer
        self.after_fork()

    def after_fork(self) -> None:
        """Start empty, with a lock that nobody holds and counters of this process."""
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0
        # The least recently used first.
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._size = 0
        self._room = self.max_bytes - (self.max_bytes >> 20) * _BESIDE
        stones = max(_FEWEST, self.max_bytes // _TOMBSTONE_SHARE // _TOMBSTONE_BYTES)
        self._tombstones: LRUCache[bytes, _Tombstone] = LRUCache(stones)
        self._ended: dict[int, None] = {}
        self._most_ended = max(_FEWEST, self.max_bytes // _ENDED_SHARE // _ENDED_BYTES)
        self._generations = array("Q", bytes(8 * _STRIPES))
        # Beside them, so that to clear is one step.
        self._cleared = 0
        self._until, self._tick = 0.0, -inf
        self._touching: set[bytes] = set()
        # What is being written is served no more, and not evicted: most of it is replaced at once.
        # Each key with the number of its last writer; those up to ``_stale`` began before a clear.
        self._writing: dict[bytes, int] = {}
        self._writes = self._stale = 0

    def get(self, key: bytes) -> Entry | None:
        """The cached entry, if its time has not passed. A hit or a miss is counted."""
        entry = self.find(key)
        with self._lock:
            if entry is None:
                self.misses += 1
            else:
                self.hits += 1
        return entry

    def find(self, key: bytes) -> Entry | None:
        """As ``get``, but not counted. A hit takes no lock: each step is one for the interpreter,
        and what changes between two of them is a write that nobody has been told of yet.
        """
        if key in self._writing:
            return None
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._timer() < entry.until and not (self._ended and entry.row.id in self._ended):
            try:  # noqa: SIM105, for ``suppress`` is a call of a Python function.
                self._entries.move_to_end(key)
            except KeyError:
                pass  # Evicted meanwhile, and no worse for that.
            return entry
        with self._lock:
            if self._entries.get(key) is entry:
                self._evict(key)
        return None

    def peek(self, key: bytes) -> Row | None:
        """The cached row, for a guess: not counted, and nothing that may be served."""
        with self._lock:
            entry = None if key in self._writing else self._entries.get(key)
            return None if entry is None else entry.row

    def token(self, key: bytes) -> int:
        """Take this before reading the row from the store; ``fill`` wants it."""
        with self._lock:
            return self._token(_stripe(key))

    def fill(
        self,
        key: bytes,
        token: int,
        row: Row,
        mark: int | None = None,
        snapshot: int | None = None,
    ) -> bool:
        """Cache a row that was read, or made under a new key, unless that key was written or
        invalidated since the token.
        """
        with self._lock:
            if self._token(_stripe(key)) != token or key in self._tombstones:
                return False
            return self._put(key, _lean(row), mark, snapshot)

    def settle(self, key: bytes, token: int, row: Row, mark: int | None = None) -> None:
        """After a commit: cache what was written, or evict if another write of this key began
        meanwhile.
        """
        with self._lock:
            self._generations[hash(key) % _STRIPES] += 1
            current = self._writing.get(key) == token
            if current:
                del self._writing[key]
            if not (current and token > self._stale and self._put(key, row, mark, UNTOLD)):
                self._evict(key)

    def begin_write(self, key: bytes) -> int:
        """Serve it no more, and let no fill under way come through. Gives the number for
        ``settle``; a write that comes to nothing ends in ``invalidate``.
        """
        with self._lock:
            self._generations[hash(key) % _STRIPES] += 1
            self._writes += 1
            self._writing[key] = self._writes
            return self._writes

    def confirm(self, key: bytes, entry: Entry, mark: int | None) -> None:
        """The store has said that the row still stands: a new mark, unless it was replaced
        meanwhile.
        """
        with self._lock:
            if self._entries.get(key) is entry:
                before = _size(entry)
                entry.mark = mark
                self._grow(_size(entry) - before)

    def describe(self, key: bytes, entry: Entry, snapshot: int | None) -> None:
        """Remember the snapshot of an entry's content, unless it was replaced meanwhile."""
        with self._lock:
            if self._entries.get(key) is entry:
                before = _size(entry)
                entry.snapshot = snapshot
                self._grow(_size(entry) - before)

    def invalidate(self, key: bytes) -> None:
        """Evict, and let no fill under way come through."""
        with self._lock:
            self._generations[_stripe(key)] += 1
            self._writing.pop(key, None)
            self._evict(key)

    def retime(self, key: bytes, row: Row) -> None:
        """Replace an entry by the same version with later times; its own end stays."""
        with self._lock:
            entry = self._entries.get(key)
            same = entry is not None and (entry.row.id, entry.row.version) == (row.id, row.version)
            if entry is not None and same:
                before = _size(entry)
                entry.row = row
                self._grow(_size(entry) - before)

    def begin_touch(self, key: bytes, last_seen: int) -> bool:
        """Whether this request is to write the touch: no other of this process does or just did."""
        with self._lock:
            entry = self._entries.get(key)
            if key in self._touching or (entry is not None and entry.row.last_seen > last_seen):
                return False
            self._touching.add(key)
            return True

    def end_touch(self, key: bytes) -> None:
        """The touch is written, or has failed."""
        with self._lock:
            self._touching.discard(key)

    def bury(self, key: bytes, answer: Retired | None, seconds: float) -> None:
        """Evict for good: an ID that ended is never used again."""
        with self._lock:
            self._generations[_stripe(key)] += 1
            self._writing.pop(key, None)
            self._evict(key)
            self._tombstones[key] = _Tombstone(answer, self._timer() + seconds)

    def end(self, row_id: int) -> None:
        """Serve and keep this row no more, whatever its key: a rotation may be under way."""
        with self._lock:
            self._ended[row_id] = None
            if len(self._ended) > self._most_ended:
                del self._ended[next(iter(self._ended))]

    def unbury(self, key: bytes) -> None:
        """Let a key be used again."""
        with self._lock:
            self._tombstones.pop(key, None)

    def tombstone(self, key: bytes) -> tuple[Retired | None] | None:
        """The answer for a buried key, in a tuple of one; None if there is none."""
        with self._lock:
            stone = self._tombstones.get(key)
            if stone is None:
                return None
            if self._timer() < stone.until:
                return (stone.answer,)
            del self._tombstones[key]
            return None

    def clear(self) -> None:
        """Evict everything, and let no fill under way come through."""
        with self._lock:
            self._entries.clear()
            self._size = 0
            self._cleared += 1
            self._stale = self._writes

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    @property
    def size(self) -> int:
        """The bytes that the entries take, by our own estimate."""
        with self._lock:
            return self._size

    # Under the lock.

    def _token(self, stripe: int) -> int:
        return self._generations[stripe] + (self._cleared << 48)

    def _put(self, key: bytes, row: Row, mark: int | None, snapshot: int | None = None) -> bool:
        if not self.enabled or row.id in self._ended:
            return False
        entry = Entry(row, self._end(), mark, snapshot)
        size = _size(entry)
        if size > self._room:
            return False
        old = self._entries.get(key)
        if old is not None:
            in_all = self._size + size - _size(old)
            if old.row.sid_hash is row.sid_hash and in_all <= self._room:
                self._size = in_all
                self._entries[key] = entry
                self._entries.move_to_end(key)
                return True
            # Before the new one: its key is the old row's, and would stay.
            self._evict(key)
        self._grow(size)
        # The row's own bytes, where the caller's would be kept beside them.
        self._entries[row.sid_hash if row.sid_hash == key else key] = entry
        return True

    def _grow(self, size: int) -> None:
        self._size += size
        while self._size > self._room and self._entries:
            self._size -= _size(self._entries.popitem(last=False)[1])

    def _end(self) -> float:
        """When an entry of now has to go. Those of about the same time share one number."""
        now = self._timer()
        if now >= self._tick:
            self._until, self._tick = now + self.ttl, now + self.ttl / 64
        return self._until

    def _evict(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= _size(entry)


def _stripe(key: bytes) -> int:
    return hash(key) % _STRIPES
