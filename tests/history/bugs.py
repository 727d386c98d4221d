"""Planted bugs: each breaks a promise, and the checker has to notice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace as replaced
from typing import Any

from sessionware.cache import RowCache
from sessionware.codecs import JSONCodec
from sessionware.coherence.broadcast import Broadcast
from sessionware.coherence.stamps import Hold, StampFile
from sessionware.flows import Call, Flow
from sessionware.rows import Change, Next, RowMaker, Verdict
from sessionware.stores.cached import CachedStore
from sessionware.stores.protocol import Found, Row
from sessionware.stores.statements import Script
from sessionware.stores.steps import Steps

Patch = Callable[[Any, str, Any], None]
"""``setattr``, or what undoes itself after a test."""
CRASH_FILE = "crash-now"
"""In the worker's folder; who finds it takes it away and dies."""


def one_by_one(*_: Any) -> list[list[int]]:
    """Keeps a group's saves from going past ``Steps.replace``."""
    return []


def upsert_save(put: Patch) -> None:
    """A save inserts the row again where it has been deleted, as most session libraries do."""

    right = Steps.replace

    def replace(self: Steps, old: Row, new: Row, now: int) -> Script[bool]:
        if (yield from right(self, old, new, now)):
            return True
        if (yield from self.reload(old.id)) is None:
            yield from self.insert(new)
            return True
        return False

    put(Steps, "replace", replace)
    put(Steps, "in_one_statement", one_by_one)


def no_invalidation(put: Patch) -> None:
    """Cached rows are served unasked, whatever other workers have changed."""
    put(StampFile, "trusts", lambda self, sid_hash, mark: True)


def no_version_check(put: Patch) -> None:
    """The last writer of a row wins."""

    right = Steps.replace

    def replace(self: Steps, old: Row, new: Row, now: int) -> Script[bool]:
        current = yield from self.reload(old.id)
        if current is None or current.epoch != old.epoch:
            return False
        return (yield from right(self, current, new, now))

    put(Steps, "replace", replace)
    put(Steps, "in_one_statement", one_by_one)


def no_epoch_check(put: Patch) -> None:
    """A late save is merged into whatever session stands in the row by now."""
    following = RowMaker.following

    def careless(self: RowMaker, change: Change, loaded: Row, current: Row | None) -> Verdict:
        if current is not None:
            loaded = loaded._replace(epoch=current.epoch)
        return following(self, change, loaded, current)

    put(RowMaker, "following", careless)


def stale_fill(put: Patch) -> None:
    """What was read before a change is cached after it, as if it were current."""
    load = Steps.load

    def slow(self: Steps, sid_hash: bytes, now: int) -> Script[Found]:
        found = yield from load(self, sid_hash, now)
        time.sleep(0.004)
        return found

    def fill(
        self: RowCache,
        key: bytes,
        token: int,
        row: Row,
        mark: int | None = None,
        snapshot: int | None = None,
    ) -> bool:
        with self._lock:
            return self._put(key, row, mark, snapshot)

    def load_flow(self: CachedStore, sid_hash: bytes, now: int) -> Flow[Found]:
        flow = original(self, sid_hash, now)
        answer: Any = None
        try:
            while True:
                answer = yield flow.send(answer)
        except StopIteration as stop:
            found: Found = stop.value
        entry = self.cache.get(sid_hash)
        if isinstance(found, Row) and entry is not None and entry.row == found:
            self.cache.confirm(sid_hash, entry, self.channel.mark(sid_hash))
        return found

    original: Callable[..., Any] = CachedStore.load_flow
    put(Steps, "load", slow)
    put(RowCache, "fill", fill)
    put(CachedStore, "load_flow", load_flow)


def shared_objects(put: Patch) -> None:
    """Requests that load the same bytes get the same objects."""
    decode = JSONCodec.decode
    known: dict[bytes, Any] = {}

    def remembered(self: JSONCodec, payload: bytes, rich: bool) -> Any:
        if payload not in known:
            known[payload] = decode(self, payload, rich)
        return known[payload]

    put(JSONCodec, "decode", remembered)


def old_id_lives(put: Patch) -> None:
    """A rotation makes a second row, and leaves the first."""

    def rotate(self: Steps, old: Row, new: Row, now: int, retired_until: int) -> Script[bool]:
        yield from self.insert(new)
        return True

    put(Steps, "rotate", rotate)


def careless_count(put: Patch) -> None:
    """An increment writes back what this worker knew."""

    def following(self: RowMaker, change: Change, loaded: Row, current: Row | None) -> Verdict:
        if change.edit is None or current is None or current.epoch != loaded.epoch:
            return right(self, change, loaded, current)
        made = right(self, change, loaded, loaded)
        if not isinstance(made, Next):
            return made
        return replaced(made, row=made.row._replace(version=current.version + 1))

    right = RowMaker.following
    put(RowMaker, "following", following)


BUGS: dict[str, Callable[[Patch], None]] = {
    each.__name__: each
    for each in (
        upsert_save,
        no_invalidation,
        no_version_check,
        no_epoch_check,
        stale_fill,
        shared_objects,
        old_id_lives,
        careless_count,
    )
}


def _die_if_wanted() -> None:
    try:
        os.unlink(CRASH_FILE)
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def crash_before_stamping(put: Patch) -> None:
    """No bug: the process dies between its commit and the stamps."""
    let_go = StampFile.let_go_each

    def dying(self: StampFile, hold: Hold, numbers: Any) -> None:
        _die_if_wanted()
        let_go(self, hold, numbers)

    put(StampFile, "let_go_each", dying)


def crash_before_telling(put: Patch) -> None:
    """No bug: the process dies between its commit and the message to the others."""
    changed = Broadcast.changed

    def dying(self: Broadcast, hashes: tuple[bytes, ...] | None) -> Call | None:
        _die_if_wanted()
        return changed(self, hashes)

    put(Broadcast, "changed", dying)


CRASHES: dict[str, Callable[[Patch], None]] = {
    each.__name__: each for each in (crash_before_stamping, crash_before_telling)
}


def plant(names: str, put: Patch = setattr) -> None:
    """Plant the bugs and crashes with these names, parted by commas."""
    for name in filter(None, names.split(",")):
        {**BUGS, **CRASHES}[name](put)
