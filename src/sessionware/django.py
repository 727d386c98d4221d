"""Django: ``SESSION_ENGINE = "sessionware.django"``.

Here is only what is Django's: its ``SessionBase``, its settings, its cookie and its expiry, which
Django's own middleware writes. The rules of a session's life are the manager's.
"""

from __future__ import annotations

# Django has no types: neither its imports nor its twins can be checked.
# mypy: disable-error-code="import-untyped"
# pyright: reportAssignmentType=false
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, UpdateError

from .cookies import NO_COOKIE, Presented
from .django_expiry import Expiring
from .django_middleware import CLIENT, SessionwareMiddleware
from .django_settings import engine, manager
from .endings import drop_unwritten
from .errors import SessionGone, StoreUnavailable
from .flows import Call, Flow, T, adrive, drive, twins
from .manager import SessionManager
from .session import Session
from .states import CookieDue, SessionState, state_of
from .waiting import in_event_loop

__all__ = ["SessionStore", "SessionwareMiddleware", "manager"]

# In Django a session that was emptied, or saved empty, has a row; in the core it has none. This key
# fills such a row. It is taken out of whatever is loaded, so nobody else sees it.
_KEPT: Final = "_sessionware_kept"
_EXPIRY: Final = "_session_expiry"


class SessionStore(Expiring):
    """Django's ``request.session``. Its key is the cookie's value: a signed ID.

    What Django keeps in ``_session_cache`` is a ``Session`` of the manager's, once it is loaded;
    before that, a plain dict that is to replace whatever is stored.
    """

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._presented = session_key
        # Whether what was presented names nothing that is stored, as what is no key at all.
        self._gone = session_key is not None and self.session_key is None
        # Whether this request has ended it, so that its cookie is to go.
        self._ended = False
        self._modified: bool | None = None
        self._failed = False

    @property
    def modified(self) -> bool:
        """Also true if something inside a value was changed, unless it was set to False."""
        own = self._own()
        if own is None and self._is_cleared_unseen():
            own = self.run(self._tied())
        if own is None:
            return bool(self._modified and (not self._gone or self.__dict__.get("_session_cache")))
        state = state_of(own)
        if (self._gone or not state.savable) and state.row is None and not dict.__len__(own):
            # A parallel request may have set a newer cookie, which must not be touched.
            return False
        if self._modified is None and state.row is not None:
            if own.modified or own.asked.rotation:
                return True
            # What can't be told at a glance is compared.
            return not manager().endings.is_as_loaded(state, own) and self._differs(own)
        return bool(self._modified)

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified = bool(value)

    def _is_cleared_unseen(self) -> bool:
        """Whether it was emptied unread, so that nobody knows whether there was anything. Only
        where the answer may be waited for: Django's middleware asks in a thread.
        """
        if not self._modified or self.session_key is None:
            return False
        return self.__dict__.get("_session_cache") == {} and not in_event_loop()

    def _differs(self, own: Session) -> bool:
        core = manager()
        try:
            return core.endings.content(state_of(own), own).changed
        except (TypeError, ValueError):
            # It can't be stored: the save says why.
            return True

    @property
    def unavailable(self) -> bool:
        """Whether the store could not be asked in this request."""
        own = self._own()
        return self._failed or (own is not None and state_of(own).failure is not None)

    # Running: each operation is written once, for threads and for coroutines.

    def run(self, flow: Flow[T], /) -> T:
        try:
            return drive(flow, manager())
        except StoreUnavailable:
            self._failed = True
            raise

    async def arun(self, flow: Flow[T], /) -> T:
        try:
            return await adrive(flow, manager())
        except StoreUnavailable:
            self._failed = True
            raise

    def _opened(self, presented: Presented) -> Flow[Session]:
        session: Session = yield Call("load", (presented, CLIENT.get()))
        return session

    def load_flow(self) -> Flow[Session]:
        """The session that the key names, empty if there is none: then the key is gone as well."""
        presented = _presented_by(self.session_key)
        session = yield from self._opened(presented)
        state = state_of(session)
        if state.failure is not None:
            # Whoever uses it gets the error raised.
            return session
        if dict.pop(session, _KEPT, None):
            _forget_kept(state)
        if manager().is_touch_due(state):
            with suppress(StoreUnavailable, SessionGone):
                yield Call("save", (session,))
        self._gone = self._presented is not None and state.row is None
        if state.cookie is CookieDue.SET:
            # Rolling lifetimes: Django's middleware sends the cookie of what was modified.
            self._modified = True
        if state.id is None or state.id != presented.id or not presented.current:
            self._take_key(state)
        state.cookie = CookieDue.NOTHING
        return session

    def _take_key(self, state: SessionState) -> bool:
        """Whether it is another one than before."""
        state.cookie = CookieDue.NOTHING
        before = self.session_key
        self._session_key = None if state.id is None else engine().tokens.sign(state.id)
        return bool(self.session_key != before)

    def _tied(self) -> Flow[Session]:
        """The manager's session, with what Django put in its place while it was not loaded."""
        own = self._own()
        if own is not None:
            return own
        cached = self.__dict__.get("_session_cache")
        own = yield from self.load_flow()
        if cached is not None:
            own.clear()
            own.update(cached)
        self._session_cache = own
        return own

    def _write(self, own: Session) -> Flow[None]:
        """Commit; raises ``UpdateError`` if the session ended meanwhile."""
        state = state_of(own)
        if self._is_over(state):
            return
        while True:
            # This is a write, so that a save without a change renews the lifetime, as in Django.
            own.set_expiry(self._lifetime(dict.get(own, _EXPIRY)))
            if not dict.__len__(own):
                dict.__setitem__(own, _KEPT, True)
                own.note_written((_KEPT,))
            row = state.row
            try:
                yield Call("save", (own,))
            except SessionGone:
                raise UpdateError from None
            finally:
                kept = dict.pop(own, _KEPT, False)
            # Nothing was written. The middleware sends the cookie again all the same, and a late
            # one must not replace that of a parallel login.
            if row is not None and state.row is row and not (yield Call("stands", (own,))):
                raise UpdateError
            if kept:
                _forget_kept(state)
            if state.row is not None:
                break
            # Two requests deleted the last keys: merged, nothing was left.
        if self._take_key(state):
            self._modified = True

    # Django's interface; the base class has the rest.

    def __delitem__(self, key: str) -> None:
        # In Django a key that is not there changes nothing: `set_expiry(None)` asks for one.
        if not dict.__contains__(self._session, key):
            raise KeyError(key)
        super().__delitem__(key)

    @contextmanager
    def _popping(self) -> Iterator[None]:
        """Django's own ``pop`` says of a key that is not there that nothing was modified, which
        would hold for what is changed inside a value later on.
        """
        before = self._modified
        try:
            yield
        finally:
            self._modified = self._modified or before

    def pop(self, key: str, *default: Any, **named: Any) -> Any:
        with self._popping():
            return super().pop(key, *default, **named)

    async def apop(self, key: str, *default: Any, **named: Any) -> Any:
        with self._popping():
            return await super().apop(key, *default, **named)

    def clear(self) -> None:
        """Empty the session; no I/O."""
        own = self._own()
        if own is None:
            super().clear()
            return
        own.clear()
        self.accessed = self.modified = True

    def is_empty(self) -> bool:
        """True if there is neither key nor content; Django's middleware deletes the cookie then.

        False for a cookie that was bad or dead, though nothing is there: a parallel login may have
        set a newer one. With SESSION_SAVE_EVERY_REQUEST it is True for those too, or the middleware
        would save a session for each of them.
        """
        every_request: bool = settings.SESSION_SAVE_EVERY_REQUEST
        if every_request and self.session_key is not None and self._own() is None:
            self.run(self._tied())
        content: Mapping[str, Any] = self.__dict__.get("_session_cache", {})
        if self.session_key is not None or dict.__len__(content):  # type: ignore[arg-type]
            return False
        own = self._own()
        if own is not None and not state_of(own).savable:
            return False
        return self._presented is None or self.modified or every_request

    def exists_flow(self, session_key: str | None) -> Flow[bool]:
        """Whether a session with this key is stored."""
        session = yield from self._opened(_presented_by(session_key))
        session.mark_accessed()
        return state_of(session).row is not None

    def create_flow(self) -> Flow[None]:
        """Store what is in the session as a new one, with a new key; the old one is left alone."""
        content = dict(dict.items(self.__dict__.get("_session_cache", {})))
        self._session_key = None
        own = yield from self._opened(NO_COOKIE)
        own.update(content)
        self._session_cache = own
        yield from self._write(own)
        self.accessed = self.modified = True

    def save_flow(self, must_create: bool = False) -> Flow[None]:
        """Commit the changes, each key for itself.

        Raises ``UpdateError`` if the session ended meanwhile and, with ``must_create``,
        ``CreateError`` if it is stored already.
        """
        self.accessed = True
        own = yield from self._tied()
        if must_create and state_of(own).row is not None:
            raise CreateError
        yield from self._write(own)

    def delete_flow(self, session_key: str | None = None) -> Flow[None]:
        """End a session at once, this one if no key is given."""
        own = self._own()
        if session_key is None:
            session_key = self.session_key
        if session_key is None:
            return
        if own is None or session_key != self.session_key:
            doomed = yield from self._opened(_presented_by(session_key))
        else:
            # By its row, which a parallel request may have given another ID.
            own.mark_accessed()
            doomed = Session()
            doomed.attach(state_of(own).fork())
        doomed.mark_accessed()
        if state_of(doomed).row is None:
            return
        doomed.invalidate()
        try:
            yield Call("save", (doomed,))
        except SessionGone:
            return
        self._ended = self._ended or session_key == self.session_key

    def flush_flow(self) -> Flow[None]:
        """End the session at once. What is stored afterwards goes into a new one.

        The cookie of one that had ended before, or was rotated, is left alone.
        """
        yield from self.delete_flow()
        self._session_key = None
        self._session_cache = yield from self._opened(NO_COOKIE)
        self._gone = not self._ended and _presented_by(self._presented).id is not None
        self.accessed = self.modified = True

    def cycle_key_flow(self) -> Flow[None]:
        """Give the session a new key at once, and store it.

        If it ended meanwhile, a new one begins, with what this request wrote.
        """
        self.accessed = True
        own = yield from self._tied()
        own.mark_accessed()
        if state_of(own).row is None:
            yield from self.create_flow()
            return
        own.rotate()
        try:
            yield from self._write(own)
        except UpdateError:
            drop_unwritten(own)
            yield from self.create_flow()
        self.modified = True

    load, aload = twins(load_flow)
    exists, aexists = twins(exists_flow)
    create, acreate = twins(create_flow)
    save, asave = twins(save_flow)
    delete, adelete = twins(delete_flow)
    flush, aflush = twins(flush_flow)
    cycle_key, acycle_key = twins(cycle_key_flow)

    @classmethod
    def clear_expired(cls) -> None:
        """Delete expired rows; for ``manage.py clearsessions``."""
        manager().purge()

    @classmethod
    async def aclear_expired(cls) -> None:
        """Delete expired rows."""
        await manager().apurge()

    # For session_of and manager_of.

    def sessionware_session(self) -> Session:
        """The manager's session behind this one; loaded, if it is not yet."""
        self.accessed = True
        return self.run(self._tied())

    def sessionware_manager(self) -> SessionManager:
        return manager()


def _presented_by(key: str | None) -> Presented:
    """Which session a key names; forged ones are told by their signature, before any I/O."""
    return NO_COOKIE if key is None else manager().recognizer.recognize_value(key)


def _forget_kept(state: SessionState) -> None:
    """What is stored, as if the key that only fills the row were not in it."""
    codec = manager().codec
    content = codec.decode(state.payload, state.rich)
    content.pop(_KEPT, None)
    state.payload, state.rich = codec.encode(content)
