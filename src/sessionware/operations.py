"""What Session's twins do while the request is under way: save, take, incr, revalidate."""

from __future__ import annotations

from typing import Any, Final

from . import clock
from .chance import eight_bytes
from .codecs import Codec
from .commits import Committer
from .endings import Decided, Endings
from .errors import ResponseAlreadyStarted, SessionGone
from .flows import Flow, T, twins
from .merging import Delta, merge
from .plans import Nothing, Touch, takes_cookie
from .rows import Change, Done, Edit, Emptied, Lost, Next, RowMaker, Verdict
from .session import Session
from .states import SessionState, attempting, guarded, state_of
from .stores.cached import CachedStore
from .stores.protocol import Row

_RAISE: Any = object()
_ROTATED_AWAY: Final = "this request came with an ID that was rotated away"


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

    def save(self, session: Session) -> None:
        """Commit now; see ``Session.save``."""
        decided = self._decided_save(session)
        if decided is not None:
            work = state_of(session).fork()
            with attempting(session):
                flow = guarded(work, self.committer.commit(work, decided.plan, decided.change))
                self._saved(session, work, decided, self.run(flow))

    async def asave(self, session: Session) -> None:
        """Commit now; see ``Session.save``."""
        decided = self._decided_save(session)
        if decided is not None:
            work = state_of(session).fork()
            with attempting(session):
                flow = guarded(work, self.committer.commit(work, decided.plan, decided.change))
                self._saved(session, work, decided, await self.arun(flow))

    def _decided_save(self, session: Session) -> Decided | None:
        state = self._usable(session)
        decided = self.endings.decide(state, session, clock.now())
        if isinstance(decided.plan, Nothing):
            if not state.savable and dict.__len__(session):
                raise SessionGone(_ROTATED_AWAY)
            session.forget_intents()
            return None
        if state.started and takes_cookie(decided.plan):
            raise ResponseAlreadyStarted(
                "this save needs a Set-Cookie, and the response has begun already"
            )
        return decided

    def _saved(
        self, session: Session, work: SessionState, decided: Decided, verdict: Verdict
    ) -> None:
        """Show the application what a merge brought in, and keep what it changed meanwhile."""
        state = state_of(session)
        if isinstance(verdict, Lost) and not isinstance(decided.plan, Touch):
            raise SessionGone(verdict.reason)
        state.adopt(work)
        self.endings.show_merged(state, session, decided)
        if state.sent is not None:
            state.sent = self.endings.stored(state)

    def take(self, session: Session, key: Any, default: Any) -> Any:
        """Read and delete in the database; see ``Session.take``."""
        return self._edit(session, key, _removal(key, default), default)

    async def atake(self, session: Session, key: Any, default: Any) -> Any:
        """Read and delete in the database; see ``Session.take``."""
        return await self._aedit(session, key, _removal(key, default), default)

    def incr(self, session: Session, key: Any, amount: int | float) -> int | float:
        """Add in the database; see ``Session.incr``."""
        total: int | float = self._edit(session, key, _addition(key, amount))
        return total

    async def aincr(self, session: Session, key: Any, amount: int | float) -> int | float:
        """Add in the database; see ``Session.incr``."""
        total: int | float = await self._aedit(session, key, _addition(key, amount))
        return total

    def refresh(self, session: Session) -> None:
        """Take over what others have stored since the session was loaded, under the request's own
        unsaved keys. Raises ``SessionGone`` if it has ended.
        """
        self._edit(session, _RAISE, _as_it_is)

    async def arefresh(self, session: Session) -> None:
        """Take over what others have stored; see ``refresh``."""
        await self._aedit(session, _RAISE, _as_it_is)

    def _edit(self, session: Session, key: Any, edit: Edit, gone: Any = _RAISE) -> Any:
        state = self._editable(session, key, gone)
        if self._is_unsaved(state, session, key):
            return _edit_unstored(session, key, edit)
        work = state.fork()
        flow = guarded(work, self.committer.write(work, _edit_change(state, edit)))
        verdict = self.run(flow)
        return self._edited(session, key, work, verdict, gone)

    async def _aedit(self, session: Session, key: Any, edit: Edit, gone: Any = _RAISE) -> Any:
        state = self._editable(session, key, gone)
        if self._is_unsaved(state, session, key):
            return _edit_unstored(session, key, edit)
        work = state.fork()
        flow = guarded(work, self.committer.write(work, _edit_change(state, edit)))
        verdict = await self.arun(flow)
        return self._edited(session, key, work, verdict, gone)

    def _editable(self, session: Session, key: Any, gone: Any) -> SessionState:
        if key in self.endings.user_key:
            raise ValueError("who is logged in changes with a rotation: assign or delete the key")
        state = self._usable(session)
        if gone is _RAISE and not state.savable:
            # Nothing of this request is kept, and a counter that says otherwise would be believed.
            raise SessionGone(_ROTATED_AWAY)
        return state

    def _is_unsaved(self, state: SessionState, session: Session, key: Any) -> bool:
        """Whether the value, or that there is none, is this request's own until it is saved: nobody
        else can see it.
        """
        if state.row is None or session.asked.cleared or key in session.written:
            return True
        if key is _RAISE or dict.__contains__(session, key):
            return False
        return key in self.codec.decode(state.payload, state.rich)

    def _edited(
        self, session: Session, key: Any, work: SessionState, verdict: Verdict, gone: Any
    ) -> Any:
        """The request's own unsaved keys over what the store holds; but not the key just edited."""
        if isinstance(verdict, Lost):
            if gone is _RAISE:
                raise SessionGone(verdict.reason)
            return gone
        state = state_of(session)
        delta = self.endings.delta(state, session)
        state.adopt(work)
        stored = self.codec.decode(state.payload, state.rich)
        own = Delta(delta.written - {key}, delta.deleted - {key})
        session.written = session.written - {key}
        session.refill(merge(own, dict(dict.items(session)), stored))
        if state.sent is not None:
            state.sent = self.endings.stored(state)
        return verdict.result if isinstance(verdict, Next | Emptied | Done) else None

    def revalidate_flow(self, session: Session) -> Flow[bool]:
        """Whether the row still stands; see ``Session.revalidate``."""
        # Here, and not in the flow: where it is still to be loaded, a worker thread must not wait
        # for another one.
        return self._stands(self._usable(session).row)

    def stands_flow(self, session: Session) -> Flow[bool]:
        """As ``revalidate``, but no access of the application's, and from the cache where that is
        known to be current.
        """
        row = state_of(session).row
        cached = None if row is None else self.store.fresh(row.sid_hash)
        if row is not None and cached is not None and cached.row.id == row.id:
            return _already(True)
        return self._stands(row)

    def _stands(self, row: Row | None) -> Flow[bool]:
        if row is None:
            return False
        stamp = yield from self.store.stamp_flow(row.sid_hash)
        return stamp is not None and stamp.id == row.id and stamp.expires_at > clock.now()

    revalidate, arevalidate = twins(revalidate_flow)
    stands, astands = twins(stands_flow)

    def _usable(self, session: Session) -> SessionState:
        session.mark_accessed()
        return state_of(session)


def _already(answer: T) -> Flow[T]:
    """A flow that asks for nothing."""
    return answer
    yield


def _as_it_is(content: dict[Any, Any]) -> tuple[bool, Any]:
    return False, None


def _removal(key: Any, default: Any) -> Edit:
    def edit(content: dict[Any, Any]) -> tuple[bool, Any]:
        return key in content, content.pop(key, default)

    return edit


def _addition(key: Any, amount: int | float) -> Edit:
    def edit(content: dict[Any, Any]) -> tuple[bool, Any]:
        value = content.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"the value under {key!r} is not a number")
        content[key] = value + amount
        return True, content[key]

    return edit


def _edit_change(state: SessionState, edit: Edit) -> Change:
    return Change(nonce=eight_bytes(), now=clock.now(), edit=edit, may_renew=not state.started)


def _edit_unstored(session: Session, key: Any, edit: Edit) -> Any:
    """What nobody else can see yet is edited where it is."""
    content = dict(dict.items(session))
    edited, result = edit(content)
    if edited:
        session.mark_modified()
        session.note_written((key,))
        session.refill(content)
    return result
