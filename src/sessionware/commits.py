"""Carrying out a plan: the write, and what follows when other writers were there first."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

from . import clock
from .chance import chance
from .errors import Contention, DuplicateKey, OutcomeUnknown, StoreUnavailable
from .events import EventSink
from .flows import Flow, Pause, patiently
from .limits import UserLimit
from .plans import Delete, Insert, Plan, Rotate, Touch, Update
from .records import handle_of, read_nonce
from .rows import Change, Done, Emptied, Lost, Next, RowMaker, Verdict
from .states import CookieDue, SessionState
from .stores.cached import TOMBSTONE_SECONDS, CachedStore
from .stores.keyed import refused
from .stores.protocol import Row
from .tokens import hash_id, new_id

_TRIES = 3
_RETIRED_MS = int(TOMBSTONE_SECONDS * 1000)


class _Unsure(NamedTuple):
    """A try whose answer was lost: from which version, and what it would have made."""

    version: int
    tried: Next | Emptied


class Committer:
    """Executes plans against the store. Each method is a flow."""

    def __init__(
        self,
        store: CachedStore,
        rows: RowMaker,
        events: EventSink,
        limit: UserLimit | None = None,
    ) -> None:
        self._store = store
        self._rows = rows
        self._events = events
        self._limit = limit

    def commit(self, state: SessionState, decided: Plan, change: Change | None) -> Flow[Verdict]:
        """Carry out the plan, and note in the state what the store holds and the cookie that is
        due.
        """
        if change is None:
            return self._touch(state) if isinstance(decided, Touch) else _nothing()
        if self._limit is None or not change.login or change.user_id is None:
            return self._write(state, decided, change)
        login = partial(self._write, state, decided, change)
        return self._limit.around(change.user_id, state, login)

    def _write(self, state: SessionState, decided: Plan, change: Change) -> Flow[Verdict]:
        match decided:
            case Update():
                return self.write(state, change)
            case Insert():
                return self._insert(state, change)
            case Rotate():
                return self._rotate(state, change)
            case Delete(ended=True):
                return self._end(state, change, decided.insert)
            case Delete(barrier=True):
                assert state.row is not None
                return self._remove(state, state.row, state.row.epoch)
            case _:
                return self.write(state, change)

    def _insert(self, state: SessionState, change: Change) -> Flow[Verdict]:
        """Make the row; its ID is ours alone, so a key that is taken only asks for another ID."""
        handle = state.handle_bytes
        for _ in range(_TRIES):
            session_id = state.id or new_id()
            made = self._rows.first(change, hash_id(session_id), handle)
            row = made.row
            try:
                row = yield from patiently(partial(self._insert_once, row))
            except DuplicateKey:
                found = yield from self._store.load_flow(row.sid_hash, change.now)
                if not isinstance(found, Row) or handle_of(found.data) != handle.hex():
                    state.id = None
                    continue
                if found.data != row.data:
                    return (yield from self._write_beside(state, change, found))
                # What the server still had in hand when the connection broke was done later than
                # we looked, and had the key when we tried again.
                row = row._replace(id=found.id)
            state.id = session_id
            state.committed(made, row)
            state.cookie = CookieDue.SET
            self._events.emit("created", handle.hex())
            return made
        raise refused()

    def _write_beside(self, state: SessionState, change: Change, made: Row) -> Flow[Verdict]:
        """Another task of the same request has made the row meanwhile: add to it."""
        if change.user_id in (None, made.user_id):
            change = replace(change, user_changed=False, login=False)
        # As loaded before there was anything, so that it is merged.
        state.row = made._replace(version=0)
        verdict = yield from self._written(state, change, state.row, None)
        if isinstance(verdict, Next | Done):
            state.cookie = CookieDue.SET
        return verdict

    def _insert_once(self, row: Row, again: bool = True) -> Flow[Row]:
        try:
            return (yield from self._store.inserting(row))
        except OutcomeUnknown as error:
            failure = error
        found = yield from self._store.load_flow(row.sid_hash, row.created_at)
        if isinstance(found, Row) and found.data == row.data:
            return row._replace(id=found.id)
        if again:
            return (yield from self._insert_once(row, again=False))
        raise failure

    def _touch(self, state: SessionState) -> Flow[Verdict]:
        """Renew the times. Losing one is harmless, so a failing store does not fail the request."""
        assert state.row is not None
        assert state.header is not None
        now = clock.now()
        new = self._rows.touched(state.row, state.header, now)
        try:
            hit = yield from self._store.touch_flow(state.row, new, now)
        except StoreUnavailable as error:
            self._events.emit("store_error", state.handle, f"a touch was lost: {error}")
            return Lost("the touch failed")
        if not hit:
            return Lost("someone else has touched, changed or ended it")
        state.row = new
        if self._rows.lifetimes.rolling and not state.started:
            state.cookie = CookieDue.SET
        return Done(new)

    def _end(self, state: SessionState, change: Change, insert: bool) -> Flow[Verdict]:
        """End the session whatever became of it meanwhile: logged out means logged out."""
        assert state.row is not None
        verdict = yield from self._remove(state, state.row, None)
        if isinstance(verdict, Emptied) and insert:
            return (yield from self._insert(state, change))
        return verdict

    def _remove(self, state: SessionState, row: Row, epoch: int | None) -> Flow[Verdict]:
        """Delete the row. The cookie is expired only if it was there: the browser may hold a newer
        one.
        """
        handle = state.handle
        try:
            hit = yield from patiently(lambda: self._store.remove_flow(row, None, epoch))
        except OutcomeUnknown:
            hit = yield from self._remove_again(row, epoch)
        if not hit:
            self._events.emit("stale_save_dropped", handle, "the session to be ended was gone")
            state.gone()
            return Lost("the session had ended or was rotated")
        return self._ended(state)

    def _remove_again(self, row: Row, epoch: int | None) -> Flow[bool]:
        """Whoever deleted it: if it is gone, that is what was asked for."""
        left = yield from self._store.reload_flow(row.id)
        if left is not None:
            if (yield from self._store.remove_flow(row, None, epoch)):
                return True
            # The first try may have kept this one waiting.
            left = yield from self._store.reload_flow(row.id)
        yield from self._store.telling_late((row.sid_hash,))
        return left is None

    def _ended(self, state: SessionState) -> Emptied:
        self._events.emit("ended", state.handle)
        state.gone()
        state.cookie = CookieDue.EXPIRE
        return Emptied()

    def _rotate(self, state: SessionState, change: Change) -> Flow[Verdict]:
        for _ in range(_TRIES):
            session_id = new_id()
            rotating = replace(change, new_hash=hash_id(session_id))
            try:
                verdict = yield from self.write(state, rotating)
            except DuplicateKey:
                continue
            if isinstance(verdict, Next | Done):
                state.id = session_id
                state.cookie = CookieDue.SET
                self._events.emit("rotated", state.handle)
            return verdict
        raise refused()

    def write(self, state: SessionState, change: Change) -> Flow[Verdict]:
        """Write a change under the version check: merge and try again, at last under a row lock.

        What most of them write is made here and now, not where the flow runs: another processor
        would have to fetch all that it is made of.
        """
        loaded = state.row
        assert loaded is not None
        first = None if change.edit is not None else self._rows.following(change, loaded, loaded)
        return self._written(state, change, loaded, first)

    def _written(
        self, state: SessionState, change: Change, loaded: Row, first: Verdict | None
    ) -> Flow[Verdict]:
        current: Row | None = loaded
        if first is None:
            current = yield from self._store.reload_flow(loaded.id)
        unsure: _Unsure | None = None
        for attempt in range(_TRIES):
            verdict = first or self._following(change, loaded, current, unsure)
            first = None
            if current is None or not isinstance(verdict, (Next, Emptied)):
                return self._settle(state, change, verdict)
            try:
                if (yield from self._attempt(verdict, current, change.now)):
                    return self._settle(state, change, verdict)
            except OutcomeUnknown:
                unsure = _Unsure(current.version, verdict)
            except Contention:
                pass
            else:
                self._events.emit("conflict", state.handle)
            if attempt:
                yield Pause(chance.uniform(0.001, 0.01) * attempt)
            current = yield from self._store.reload_flow(loaded.id)
            if unsure is not None and (current is None or current.version != unsure.version):
                yield from self._store.telling_late((loaded.sid_hash,))
        return (yield from self._write_locked(state, change, loaded, unsure))

    def _following(
        self, change: Change, loaded: Row, current: Row | None, unsure: _Unsure | None
    ) -> Verdict:
        """The row that follows, where the answer to an earlier try may have been lost."""
        verdict = self._rows.following(change, loaded, current)
        if unsure is None:
            return verdict
        if change.edit is None:
            # Whoever deleted it: if it is gone, that is what was asked for.
            asked = current is None and isinstance(unsure.tried, Emptied)
            return unsure.tried if asked else verdict
        if current is not None and current.version == unsure.version:
            return verdict
        if isinstance(verdict, Done) and read_nonce(verdict.row.data) == change.nonce:
            return replace(verdict, result=unsure.tried.result)
        raise OutcomeUnknown("it can't be told whether the change was made")

    def _attempt(self, verdict: Next | Emptied, current: Row, now: int) -> Flow[bool]:
        """The one statement, or the transaction, that does it unless somebody was quicker."""
        if isinstance(verdict, Emptied):
            return self._store.remove_flow(current, current.version, current.epoch)
        if verdict.row.sid_hash != current.sid_hash:
            return self._store.rotate_flow(current, verdict.row, now, now + _RETIRED_MS)
        return self._store.replace_flow(current, verdict.row, now)

    def _write_locked(
        self, state: SessionState, change: Change, loaded: Row, unsure: _Unsure | None
    ) -> Flow[Verdict]:
        made: Verdict | None = None

        def decide(current: Row | None) -> tuple[Row | Literal["delete"] | None, Any]:
            nonlocal made
            made = verdict = self._following(change, loaded, current, unsure)
            match verdict:
                case Next():
                    return verdict.row, verdict
                case Emptied():
                    return "delete", verdict
                case _:
                    return None, verdict

        try:
            verdict: Verdict = yield from patiently(
                lambda: self._store.alter_flow(loaded, decide, change.now, change.now + _RETIRED_MS)
            )
        except OutcomeUnknown:
            current = yield from self._store.reload_flow(loaded.id)
            if current is None or read_nonce(current.data) != change.nonce:
                raise
            yield from self._store.telling_late((loaded.sid_hash,))
            verdict = Done(current, getattr(made, "result", None))
        return self._settle(state, change, verdict)

    def _settle(self, state: SessionState, change: Change, verdict: Verdict) -> Verdict:
        """Note the outcome in the state."""
        match verdict:
            case Next():
                state.committed(verdict, verdict.row)
                if verdict.renewed:
                    state.cookie = CookieDue.SET
            case Done():
                self._take_over(state, verdict.row)
            case Emptied():
                self._ended(state)
            case Lost():
                if change.edit is None:
                    self._events.emit("stale_save_dropped", state.handle, verdict.reason)
        return verdict

    def _take_over(self, state: SessionState, row: Row) -> None:
        record = self._rows.records.read(row.data, sid_hash=row.sid_hash)
        state.row, state.header = row, record.header
        state.payload, state.rich, state.loaded = record.payload, record.rich, None


def _nothing() -> Flow[Verdict]:
    """A flow that asks for nothing."""
    return Lost("nothing was to be done")
    yield
