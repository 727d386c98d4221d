"""The vocabulary of a cached key-value store, for code that has no middleware."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from typing import Any

from .. import clock
from ..chance import eight_bytes
from ..codecs import Codec, too_large
from ..errors import Contention, DuplicateKey, StoreUnavailable
from ..flows import Flow, Parts, Pause, T, part_twins, patiently, twins
from ..lifetimes import DEFAULT_EXPIRY
from ..records import HANDLE_BYTES, NO_OWNER, Header, RecordFormat
from ..tokens import new_id
from .protocol import Row

DEFAULT_TTL = 14 * 24 * 3600.0
_TRIES = 20


class KeyedStore:
    """get, put, delete, exists, expire, ttl, clear, len, create, save, each with its ``a…`` twin.

    Keys are the caller's strings and stored as their SHA-256 only; a session's ID is such a key.
    Values are dicts; ``ttl`` is in seconds and must be above 0. This is the low level: unlike a
    session, the last writer wins, and ``put`` makes a row under whatever key it is given: never
    pass it one that came from a client.
    """

    codec: Codec
    records: RecordFormat
    max_value_bytes = 65_536

    def run(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    async def arun(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    # What CachedStore has.
    def load_flow(self, sid_hash: bytes, now: int) -> Flow[Any]:
        raise NotImplementedError

    def insert_flow(self, row: Row) -> Flow[int]:
        raise NotImplementedError

    def replace_flow(self, old: Row, new: Row, now: int) -> Flow[bool]:
        raise NotImplementedError

    def remove_flow(
        self, row: Row, version: int | None = None, epoch: int | None = None
    ) -> Flow[bool]:
        raise NotImplementedError

    def forget_key(self, sid_hash: bytes) -> None:
        """Let a key that was deleted be used again."""
        raise NotImplementedError

    def remove_all_parts(self) -> Parts[int]:
        raise NotImplementedError

    def count_flow(self, now: int) -> Flow[int]:
        raise NotImplementedError

    def _live_flow(self, key: str) -> Flow[Row | None]:
        now = clock.now()
        found = yield from self.load_flow(_hash(key), now)
        return found if isinstance(found, Row) and found.expires_at > now else None

    def get_flow(self, key: str) -> Flow[dict[Any, Any] | None]:
        """The value under the key: a copy of your own. None if there is none.

        Raises ``CorruptRecord`` if it can't be read.
        """
        row = yield from self._live_flow(key)
        if row is None:
            return None
        record = self.records.read(row.data, sid_hash=row.sid_hash)
        return self.codec.decode(record.payload, record.rich)

    def exists_flow(self, key: str) -> Flow[bool]:
        """Whether there is a value under the key."""
        return (yield from self._live_flow(key)) is not None

    def ttl_flow(self, key: str) -> Flow[float | None]:
        """The seconds that the value has left; None if there is none."""
        row = yield from self._live_flow(key)
        return None if row is None else (row.expires_at - clock.now()) / 1000

    def create_flow(self, value: Mapping[Any, Any], ttl: float = DEFAULT_TTL) -> Flow[str]:
        """Store a value under a new random key (256 bits) and return the key."""
        for _ in range(_TRIES):
            key = new_id()
            try:
                yield from self.insert_flow(self._new_row(key, value, ttl))
            except DuplicateKey:
                continue
            return key
        raise refused()

    def put_flow(self, key: str, value: Mapping[Any, Any], ttl: float = DEFAULT_TTL) -> Flow[None]:
        """Store a value under the key, in place of what is there."""
        new = self._new_row(key, value, ttl)
        self.forget_key(new.sid_hash)
        for _ in range(_TRIES):
            now = clock.now()
            found = yield from self.load_flow(new.sid_hash, 0)
            try:
                if not isinstance(found, Row):
                    yield from self.insert_flow(new)
                    return
                if found.expires_at <= now:
                    yield from self.remove_flow(found, found.version, found.epoch)
                    self.forget_key(new.sid_hash)
                elif (yield from self.replace_flow(found, self._successor(found, new), now)):
                    return
            except (DuplicateKey, Contention):
                pass
            yield Pause(0.005)
        raise Contention("other writers kept changing this key")

    def save_flow(self, key: str, value: Mapping[Any, Any]) -> Flow[bool]:
        """Replace the value under the key; its lifetime stays. False, and nothing stored, if it is
        gone.
        """
        return (yield from self._rewrite(key, value, None))

    def expire_flow(self, key: str, ttl: float) -> Flow[bool]:
        """Give the value under the key this many seconds from now on; 0 or less deletes it.

        False if it is gone.
        """
        if ttl <= 0:
            return (yield from self.delete_flow(key))
        return (yield from self._rewrite(key, None, ttl))

    def delete_flow(self, key: str) -> Flow[bool]:
        """Delete the value under the key; whether there was one."""
        now = clock.now()
        found = yield from self.load_flow(_hash(key), now)
        if not isinstance(found, Row):
            return False
        removed = yield from patiently(partial(self.remove_flow, found))
        self.forget_key(found.sid_hash)
        return removed and found.expires_at > now

    def clear_parts(self) -> Parts[int]:
        """Delete everything, sessions too; how many there were."""
        return (yield from self.remove_all_parts())

    def size_flow(self) -> Flow[int]:
        """How many values there are; ``len(store)`` is the same."""
        return (yield from self.count_flow(clock.now()))

    get, aget = twins(get_flow)
    exists, aexists = twins(exists_flow)
    ttl, attl = twins(ttl_flow)
    create, acreate = twins(create_flow)
    put, aput = twins(put_flow)
    save, asave = twins(save_flow)
    expire, aexpire = twins(expire_flow)
    delete, adelete = twins(delete_flow)
    clear, aclear = part_twins(clear_parts)
    size, asize = twins(size_flow)

    def __len__(self) -> int:
        return self.size()

    def __bool__(self) -> bool:
        return True

    def _rewrite(self, key: str, value: Mapping[Any, Any] | None, ttl: float | None) -> Flow[bool]:
        for _ in range(_TRIES):
            row = yield from self._live_flow(key)
            if row is None:
                return False
            now = clock.now()
            new = row._replace(version=row.version + 1)
            if value is not None:
                new = new._replace(data=self._data(value, row.sid_hash, row.created_at))
            if ttl is not None:
                end = now + _milliseconds(ttl)
                new = new._replace(expires_at=end, purge_after=end)
            try:
                if (yield from self.replace_flow(row, new, now)):
                    return True
            except Contention:
                pass
            yield Pause(0.005)
        raise Contention("other writers kept changing this key")

    def _new_row(self, key: str, value: Mapping[Any, Any], ttl: float) -> Row:
        now = clock.now()
        end = now + _milliseconds(ttl)
        sid_hash = _hash(key)
        return Row(
            id=0,
            sid_hash=sid_hash,
            version=1,
            epoch=0,
            user_id=None,
            data=self._data(value, sid_hash, now),
            created_at=now,
            authenticated_at=None,
            last_seen=now,
            expires_at=end,
            purge_after=end,
        )

    def _successor(self, old: Row, new: Row) -> Row:
        return new._replace(id=old.id, version=old.version + 1, epoch=old.epoch)

    def _data(self, value: Mapping[Any, Any], sid_hash: bytes, renewed: int) -> bytes:
        payload, rich = self.codec.encode(value)
        if len(payload) > self.max_value_bytes:
            raise too_large(self.codec, value, len(payload), self.max_value_bytes)
        header = Header(
            nonce=eight_bytes(),
            handle=os.urandom(HANDLE_BYTES),
            owner=NO_OWNER,
            renewed=renewed,
            expiry=DEFAULT_EXPIRY,
        )
        return self.records.write(header, payload, rich, sid_hash=sid_hash)


def refused() -> StoreUnavailable:
    """A key of 256 random bits is not taken several times over."""
    return StoreUnavailable("the database refuses new rows: is there a constraint of your own?")


def _hash(key: str) -> bytes:
    """For an ASCII key, such as a session's ID, the same as ``tokens.hash_id``."""
    return sha256(key.encode()).digest()


def _milliseconds(ttl: float) -> int:
    if not 0 < ttl < 1e11:
        raise ValueError("ttl must be a number of seconds above 0")
    return max(1, int(ttl * 1000))
