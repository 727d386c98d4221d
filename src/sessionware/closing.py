"""From a session at the end of a request to a commit, and to what the response has to carry."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import clock
from .commits import Committer
from .cookies import CookieWriter
from .endings import Decided, Endings
from .errors import ResponseAlreadyStarted, StoreUnavailable
from .events import EventSink
from .lifetimes import DEFAULT_EXPIRY
from .plans import NOTHING, Touch, Update
from .rows import Lost, RowMaker, Verdict, started
from .session import Session
from .states import CookieDue, SessionState, state_of
from .stores.cached import CachedStore
from .tokens import Tokens
from .tracking import Intents


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


_NO_COOKIE = CookieDue.NOTHING
_READ = Closing(CookieDue.NOTHING, vary=True)
_EXPIRED = Closing(CookieDue.EXPIRE, vary=True)
_UNTOUCHED = Closing(CookieDue.NOTHING, vary=False)


class Closings:
    """The part of a manager that closes sessions."""

    tokens: Tokens
    rows: RowMaker
    endings: Endings
    committer: Committer
    events: EventSink
    store: CachedStore
    _writer: CookieWriter
    _renews: bool

    def ensure_loaded(self, session: Session) -> None:
        raise NotImplementedError

    def renewal_may_be_due(self, state: SessionState) -> bool:
        raise NotImplementedError

    def close(self, session: Session, *, failed: bool = False) -> list[tuple[str, str]]:
        """Save what there is to save and give the response's headers. For threads.

        ``failed`` discards changes. Raises as ``Session.save`` does, but ``SessionGone``.
        """
        return self._header_list(self.finish(session, failed=failed))

    async def aclose(self, session: Session, *, failed: bool = False) -> list[tuple[str, str]]:
        """Save what there is to save and give the response's headers; see ``close``."""
        return self._header_list(await self.afinish(session, failed=failed))

    def finish(self, session: Session, *, failed: bool = False, looked: bool = False) -> Closing:
        """Save as the response begins, and say what it has to carry. ``looked``: see ``decide``."""
        decided = self.decide(session, failed=failed, looked=looked)
        if decided is not None:
            state = state_of(session)
            work = state.fork()
            flow = self.committer.commit(work, decided.plan, decided.change)
            intents = session.take_intents()
            try:
                verdict = self.store.commit(flow)
            except BaseException as error:
                if not self._is_lost_touch(error, decided):
                    self._not_done(session, intents)
                    raise
            else:
                self._adopt(session, work, decided, verdict)
        return self.closing(session)

    async def afinish(self, session: Session, *, failed: bool = False) -> Closing:
        """Save as the response begins, and say what it has to carry."""
        decided = self.decide(session, failed=failed)
        if decided is not None:
            await self.acommit(session, decided)
        return self.closing(session)

    async def acommit(self, session: Session, decided: Decided) -> None:
        """Carry out what ``decide`` has decided."""
        state: Any = session.tie
        work: SessionState = state.fork()
        flow = self.committer.commit(work, decided.plan, decided.change)
        intents = session.take_intents()
        try:
            verdict = await self.store.acommit(flow)
        except BaseException as error:
            if not self._is_lost_touch(error, decided):
                self._not_done(session, intents)
                raise
        else:
            self._adopt(session, work, decided, verdict)

    def _not_done(self, session: Session, intents: Intents) -> None:
        """The error says that nothing was kept: what is still asked for is no late change."""
        session.put_back(intents)
        state = state_of(session)
        state.sent = None
        state.forsake()

    def _is_lost_touch(self, error: BaseException, decided: Decided) -> bool:
        """Report a failing store. A touch or renewal that it loses fails no request."""
        if not isinstance(error, StoreUnavailable):
            return False
        self.events.emit("store_error", detail=str(error))
        decision = decided.plan
        return isinstance(decision, Touch) or (isinstance(decision, Update) and decision.renewal)

    def _adopt(
        self, session: Session, work: SessionState, decided: Decided, verdict: Verdict
    ) -> None:
        state: Any = session.tie
        state.adopt(work)
        if isinstance(verdict, Lost):
            if not isinstance(decided.plan, Touch):
                # What was dropped differs from what is stored, and that is no late change.
                state.sent = None
        elif state.payload is not decided.payload and self.endings.show_merged(
            state, session, decided
        ):
            # Else a save later on would take what others have stored for deleted by this request.
            state.sent = self.endings.stored(state)

    def decide(
        self, session: Session, *, failed: bool = False, looked: bool = False
    ) -> Decided | None:
        """What is to be committed as the response begins; None for most requests, which only
        read. ``looked`` says that this one does more, by ``is_only_read``.
        """
        state: Any = session.tie if looked else state_of(session)
        simple = not (looked or failed or state.pending or state.failure)
        if simple and self.endings.is_as_loaded(state, session) and not self.is_touch_due(state):
            state.sent = state.loaded
            return None
        if state.pending is not None and self.renewal_may_be_due(state):
            self.ensure_loaded(session)
        if state.pending is not None or state.failure is not None:
            return None
        decided = self.endings.decide(state, session, clock.now(), failed=failed)
        if failed:
            # What a failed request changed is discarded, and nobody misses it.
            state.sent = None
        elif decided.payload is not None and not self.endings.custom:
            state.sent = (decided.payload, decided.rich)
        else:
            state.sent = self._sent(state, session, decided)
        if decided.plan is NOTHING:
            session.forget_intents()
            return None
        return decided

    def is_only_read(self, session: Session) -> bool:
        """Whether a response that begins now has nothing to commit and no cookie to carry, which is
        what ``decide`` and ``closing`` would find: in one step, for most requests.
        """
        state: Any = session.tie
        if state.failure or state.cookie is not _NO_COOKIE:
            return False
        if state.pending:
            # Never looked at.
            if self._renews:
                return False
            state.started = True
            return True
        if self._renews and self.is_touch_due(state):
            return False
        if (session.accessed or session.asking) and not self.endings.is_as_loaded(state, session):
            return False
        state.sent = state.loaded
        state.started = True
        return True

    def is_touch_due(self, state: SessionState) -> bool:
        """Whether a request that changed nothing has to renew the session's times."""
        if not self._renews or state.row is None or state.header is None:
            return False
        return self.rows.touch_due(state.row, state.header, clock.now())

    def _sent(self, state: SessionState, session: Session, decided: Decided) -> object:
        """A snapshot of what the session held as its response began."""
        if decided.payload is None and state.loaded is not None:
            return state.loaded
        return self.endings.sent(session, decided)

    def closing(self, session: Session) -> Closing:
        """What the response has to carry, now that all is committed."""
        state: Any = session.tie
        state.started = True
        cookie = state.cookie
        if cookie is _NO_COOKIE:
            return _READ if session.accessed else _UNTOUCHED
        state.cookie = CookieDue.NOTHING
        if cookie is CookieDue.SET:
            return self.reissued(session)
        return _EXPIRED

    def reissued(self, session: Session) -> Closing:
        """The cookie of a stored session once more, as long as that lives from now on."""
        state: Any = session.tie
        row, header = state.row, state.header
        if state.id is None or row is None or header is None:
            return _READ if session.accessed else _UNTOUCHED
        max_age = self.rows.lifetimes.cookie_max_age(
            header.expiry,
            renewed=self.rows.renewed(header, row),
            started=started(row),
            now=clock.now(),
        )
        lasting = header.expiry != DEFAULT_EXPIRY
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
        if not session.has_traces:
            return
        state = state_of(session)
        if state.sent is None or state.failure is not None:
            return
        asked = session.asked
        asked_for = asked.ended or asked.rotation or asked.expiry_set
        if not asked_for and self.endings.still_holds(state, session):
            return
        self.events.emit("late_change", state.handle, "changed after the response had begun")
        raise ResponseAlreadyStarted(
            "the session was changed after the response had begun, and the change is lost: change "
            "it before, or call `await session.asave()` (in a thread: `session.save()`) where the "
            "cookie is already there"
        )
