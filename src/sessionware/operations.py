"""What Session's twins do while the request is under way: save, take, incr, revalidate."""

from __future__ import annotations

import os
from typing import Any

from . import clock
from .codecs import Codec
from .commits import Committer
from .endings import Endings, refill
from .errors import ResponseAlreadyStarted, SessionGone
from .flows import Flow, T, twins
from .merging import Delta, merge
from .plans import Nothing, Touch, takes_cookie
from .records import NONCE_BYTES
from .rows import Change, Done, Edit, Emptied, Lost, Next, RowMaker
from .session import Session
from .states import SessionState, state_of
from .stores.cached import CachedStore


class Operations:
    """The part of a manager that commits before the response begins, or after it has."""

    store: CachedStore
    codec: Codec
    rows: RowMaker
    endings: Endings
    committer: Committer

    def run(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    async def arun(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    def save_flow(self, session: Session) -> Flow[None]:
        """Commit now; see ``Session.save``."""
        state = self._usable(session)
        decided = self.endings.decide(state, session, clock.now())
        if isinstance(decided.plan, Nothing):
            if not state.savable and dict.__len__(session):
                raise SessionGone("this request came with an ID that was rotated away")
            return
        if state.started and takes_cookie(decided.plan):
            raise ResponseAlreadyStarted(
                "this save needs a Set-Cookie, and the response has begun already"
            )
        verdict = yield from self.committer.commit(state, decided.plan, decided.change)
        if isinstance(verdict, Lost) and not isinstance(decided.plan, Touch):
            raise SessionGone(verdict.reason)
        session.forget_intents()
        if isinstance(verdict, Next | Done):
            self._refresh(state, session)
        elif state.sent is not None:
            state.sent = state.payload

    def take_flow(self, session: Session, key: Any, default: Any) -> Flow[Any]:
        """Read and delete in the database; see ``Session.take``."""

        def edit(content: dict[Any, Any]) -> tuple[bool, Any]:
            return key in content, content.pop(key, default)

        return (yield from self._edit(session, key, edit, default))

    def incr_flow(self, session: Session, key: Any, amount: int | float) -> Flow[int | float]:
        """Add in the database; see ``Session.incr``."""

        def edit(content: dict[Any, Any]) -> tuple[bool, Any]:
            value = content.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"the value under {key!r} is not a number")
            content[key] = value + amount
            return True, content[key]

        total: int | float = yield from self._edit(session, key, edit, None)
        return total

    def _edit(self, session: Session, key: Any, edit: Edit, gone: Any) -> Flow[Any]:
        """Apply an edit to the content as it is in the database, and to the application's dict."""
        state = self._usable(session)
        if state.row is None or session.cleared:
            return self._edit_unstored(session, key, edit)
        own = self.endings.content(state, session)
        change = Change(
            nonce=os.urandom(NONCE_BYTES),
            now=clock.now(),
            edit=edit,
            may_renew=False,
        )
        verdict = yield from self.committer.write(state, change)
        if isinstance(verdict, Lost):
            if gone is None:
                raise SessionGone(verdict.reason)
            return gone
        if isinstance(verdict, Emptied):
            self._rebase(state, session, {}, own.delta, key)
            return verdict.result
        stored = self.codec.decode(state.payload, state.rich)
        self._rebase(state, session, stored, own.delta, key)
        return verdict.result

    def _edit_unstored(self, session: Session, key: Any, edit: Edit) -> Any:
        content = dict(dict.items(session))
        edited, result = edit(content)
        if edited:
            session.mark_modified()
            session.written.add(key)
            refill(session, content)
        return result

    def _rebase(
        self,
        state: SessionState,
        session: Session,
        stored: dict[Any, Any],
        delta: Delta,
        key: Any,
    ) -> None:
        """The request's own unsaved keys over what the store holds; but not the key just edited."""
        mine = dict(dict.items(session))
        own = Delta(delta.written - {key}, delta.deleted - {key})
        session.written.discard(key)
        session.mark_accessed()
        refill(session, merge(own, mine, stored))
        state.sent = None if state.sent is None else self.rows.encode(stored)[0]

    def revalidate_flow(self, session: Session) -> Flow[bool]:
        """Whether the row still stands; see ``Session.revalidate``."""
        state = self._usable(session)
        row = state.row
        if row is None:
            return False
        stamp = yield from self.store.stamp_flow(row.sid_hash)
        return stamp is not None and stamp.epoch == row.epoch and stamp.expires_at > clock.now()

    save, asave = twins(save_flow)
    take, atake = twins(take_flow)
    incr, aincr = twins(incr_flow)
    revalidate, arevalidate = twins(revalidate_flow)

    def _usable(self, session: Session) -> SessionState:
        session.mark_accessed()
        return state_of(session)

    def _refresh(self, state: SessionState, session: Session) -> None:
        """Show the application what a merge brought in, without replacing the objects it holds."""
        payload, rich = self.codec.encode(session)
        if (payload, rich) != (state.payload, state.rich):
            refill(session, self.codec.decode(state.payload, state.rich))
        state.sent = None if state.sent is None else state.payload
