"""A store in this process's memory: for tests, and for sessions that may die with the process."""

from __future__ import annotations

import threading
from itertools import islice
from typing import Any

from ..errors import DuplicateKey
from .protocol import RETIRED, Decision, Found, Row, Stamp


class MemoryStore:
    """Keeps rows in a dict under a lock. It never blocks, so it runs in the event loop itself."""

    blocking = False

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._ids: dict[bytes, int] = {}
        self._retired: dict[bytes, int] = {}
        self._last_id = 0
        self._leases: dict[bytes, int] = {}
        self._lock = threading.RLock()

    def after_fork(self) -> None:
        """In a child process: a lock that nobody holds; the rows are a copy of the parent's."""
        self._lock = threading.RLock()

    def prepare(self) -> None:
        """Nothing to make ready."""

    def load(self, sid_hash: bytes, now: int) -> Found:
        with self._lock:
            row = self._row(sid_hash)
            if row is not None:
                return row
            return RETIRED if self._retired.get(sid_hash, 0) > now else None

    def _row(self, sid_hash: bytes) -> Row | None:
        row_id = self._ids.get(sid_hash)
        return None if row_id is None else self._rows[row_id]

    def reload(self, row_id: int) -> Row | None:
        with self._lock:
            return self._rows.get(row_id)

    def stamp(self, sid_hash: bytes) -> Stamp | None:
        with self._lock:
            row = self._row(sid_hash)
        if row is None:
            return None
        return Stamp(row.version, row.epoch, row.last_seen, row.expires_at, row.id)

    def insert(self, row: Row) -> int:
        with self._lock:
            if row.sid_hash in self._ids:
                raise DuplicateKey("a session with this key exists")
            self._last_id += 1
            self._ids[row.sid_hash] = self._last_id
            self._rows[self._last_id] = row._replace(id=self._last_id)
            return self._last_id

    def replace(self, old: Row, new: Row, now: int) -> bool:
        with self._lock:
            current = self._guarded(old, now)
            if current is None:
                return False
            self._put(current, new._replace(sid_hash=current.sid_hash), old)
            return True

    def _put(self, current: Row, new: Row, old: Row) -> None:
        """A touch that came between moved no version, and is not undone by a save."""
        grows = new.expires_at >= old.expires_at
        self._rows[current.id] = new._replace(
            id=current.id,
            created_at=current.created_at,
            last_seen=max(new.last_seen, current.last_seen),
            expires_at=max(new.expires_at, current.expires_at) if grows else new.expires_at,
        )

    def _guarded(self, old: Row, now: int) -> Row | None:
        current = self._rows.get(old.id)
        if current is None or current.expires_at <= now:
            return None
        same = (current.version, current.epoch) == (old.version, old.epoch)
        return current if same else None

    def rotate(self, old: Row, new: Row, now: int, retired_until: int) -> bool:
        with self._lock:
            current = self._guarded(old, now)
            if current is None:
                return False
            self._overwrite(current, new, old, retired_until)
            return True

    def _overwrite(self, current: Row, new: Row, old: Row, retired_until: int) -> None:
        if new.sid_hash != current.sid_hash:
            if new.sid_hash in self._ids:
                raise DuplicateKey("a session with this key exists")
            del self._ids[current.sid_hash]
            self._ids[new.sid_hash] = current.id
            self._retired[current.sid_hash] = retired_until
        self._put(current, new, old)

    def alter(self, row: Row, decide: Decision, now: int, retired_until: int) -> Any:
        with self._lock:
            current = self._rows.get(row.id)
            new, result = decide(current)
            if current is not None and new == "delete":
                self.remove(current)
            elif current is not None and isinstance(new, Row):
                self._overwrite(current, new, current, retired_until)
            return result

    def touch(self, old: Row, new: Row, now: int) -> bool:
        with self._lock:
            row = self._rows.get(old.id)
            if row is None or row.expires_at <= now or row.last_seen >= new.last_seen:
                return False
            if (row.sid_hash, row.version) != (old.sid_hash, old.version):
                return False
            self._rows[old.id] = row._replace(
                last_seen=new.last_seen,
                expires_at=new.expires_at,
                purge_after=new.purge_after,
            )
            return True

    def remove(self, row: Row, version: int | None = None, epoch: int | None = None) -> bool:
        with self._lock:
            current = self._rows.get(row.id)
            if current is None:
                return False
            if version not in (None, current.version) or epoch not in (None, current.epoch):
                return False
            del self._rows[current.id], self._ids[current.sid_hash]
            return True

    def user_rows(self, user_id: str, now: int) -> list[Row]:
        with self._lock:
            mine = [r for r in self._rows.values() if r.user_id == user_id and r.expires_at > now]
        return sorted(mine, key=lambda row: (row.last_seen, row.id), reverse=True)

    def remove_user(self, user_id: str, keep: int | None = None) -> list[bytes]:
        with self._lock:
            gone = [r for r in self._rows.values() if r.user_id == user_id and r.id != keep]
            for row in gone:
                self.remove(row)
        return [row.sid_hash for row in gone]

    def remove_all(self) -> int:
        with self._lock:
            count = len(self._rows)
            self._rows.clear()
            self._ids.clear()
            return count

    def count(self, now: int) -> int:
        with self._lock:
            return sum(row.expires_at > now for row in self._rows.values())

    def claim(self, key: bytes, now: int, until: int) -> bool:
        return self.take_over(key, now, until)

    def take_over(self, key: bytes, now: int, until: int, latest: int | None = None) -> bool:
        with self._lock:
            held = self._leases.get(key, 0)
            if held > now and (latest is None or held <= latest):
                return False
            self._leases[key] = until
            return True

    def release(self, key: bytes, until: int) -> bool:
        with self._lock:
            held = self._leases.get(key) == until
            if held:
                del self._leases[key]
            return held

    def purge(self, now: int, limit: int, exact: bool = False) -> int:
        with self._lock:
            found = (
                row
                for row in self._rows.values()
                if row.expires_at <= now and (exact or row.purge_after <= now)
            )
            # Those that came first have mostly expired first: no further than there is need.
            spent = list(islice(found, limit))
            for row in spent:
                self.remove(row)
            self._retired = {key: until for key, until in self._retired.items() if until > now}
            self._leases = {key: until for key, until in self._leases.items() if until > now}
        return len(spent)

    def close(self) -> None:
        """Nothing to let go of: the rows stay."""
