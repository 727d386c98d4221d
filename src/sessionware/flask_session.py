"""What ``flask.session`` and ``quart.session`` stand for."""

from __future__ import annotations

from typing import Any, Final

from flask.sessions import SessionMixin

from .adapting import MANAGER_KEY, SESSION_KEY, hand_over
from .errors import SerializationError, SessionTooLarge
from .merging import diff, merge
from .session import NoSession, Session
from .states import state_of
from .tracking import SessionLink

PERMANENT: Final = "_permanent"


class FlaskSession(Session, SessionMixin):
    """What ``flask.session`` stands for: our ``Session`` with Flask's ``permanent`` and ``new``."""

    # Whether the browser was last told to keep the cookie; None while there is none.
    was_permanent: bool | None = None
    # Opened by the test client's `session_transaction`, not for a request.
    rehearsed = False
    # Whether nobody had looked at it when Quart took it to have it saved.
    unused = False
    # The session of a middleware around us, of which this is a copy, and the environ or scope that
    # it came in; and what the copy held when it was handed back, as it would be stored.
    outer: Session | None = None
    carrier: dict[str, Any]
    handed: tuple[bytes, bool] | None = None

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether the session has not been stored yet."""
        return self.is_new

    def refill(self, content: dict[Any, Any]) -> None:
        if self.was_permanent is None:
            self.was_permanent = bool(content.get(PERMANENT))
        super().refill(content)

    def copy_of(self, outer: Session, carrier: dict[str, Any]) -> None:
        """Stand for the session of a middleware around us until ``hand_back``."""
        state = state_of(outer)
        state.manager.ensure_loaded(outer)
        # The copy has what the outer one has in it.
        outer.exposed = True
        self.attach(state)
        self.refill(dict(dict.items(outer)))
        self.outer, self.carrier = outer, carrier
        self.stand_in()
        carrier[MANAGER_KEY] = state.manager

    def stand_in(self) -> None:
        """Be what is found in the request."""
        # Or two sessions of one request would be changed, and one put back what the other ended.
        self.carrier[SESSION_KEY] = self

    def hand_back(self) -> None:
        """Do to the session around us what was done to this copy of it, which is not saved."""
        outer = self.outer
        assert outer is not None
        self.carrier[SESSION_KEY] = outer
        if state_of(self).failure is None:
            hand_over(self, outer)
            self.handed = _encoded(self)
        else:
            # Nobody could read it, so nothing was done to it; what the application says to that
            # stands.
            outer.accessed = outer.accessed or self.accessed

    def hand_back_late(self) -> None:
        """As ``hand_back``, if something was done, or saved by hand, since. The other session's own
        end says what becomes of it.
        """
        if state_of(self).failure is not None:
            return
        self._follow()
        if self.asking or _encoded(self) != self.handed:
            self.hand_back()

    def _follow(self) -> None:
        """Take over what the save of the session around us has brought in since it was handed this
        copy: a save of the copy would take it for deleted by this request.
        """
        outer, handed = self.outer, self.handed
        if outer is None or handed is None:
            return
        theirs = _encoded(outer)
        if theirs is not None and theirs != handed:
            codec = state_of(self).manager.codec
            mine = dict(dict.items(self))
            own = diff(codec.decode(*handed), mine, codec.fingerprint)
            self.refill(merge(own, mine, dict(dict.items(outer))))
            self.handed = theirs

    def _bound(self) -> SessionLink:
        self._follow()
        return super()._bound()

    def is_permanent(self) -> bool:
        """As ``permanent``, but no access of the application's."""
        return bool(dict.get(self, PERMANENT))

    def forget_lone_flag(self) -> None:
        """``session.permanent = True`` before each request stores nothing by itself."""
        if self.accessed and dict.keys(self) == {PERMANENT}:
            del self[PERMANENT]


class NoFlaskSession(NoSession, SessionMixin):
    """``flask.session`` on a path that is listed under ``exclude``."""

    @property
    def permanent(self) -> bool:
        """False. ``session.permanent = True`` before each request stores nothing here either."""
        return False

    @permanent.setter
    def permanent(self, value: bool) -> None:
        """There is nothing to keep."""


def _encoded(session: Session) -> tuple[bytes, bool] | None:
    """What it holds, as it would be stored; None if it can't be."""
    try:
        return state_of(session).manager.rows.encode(session)
    except (SerializationError, SessionTooLarge):
        return None
