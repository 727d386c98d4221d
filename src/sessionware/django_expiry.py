"""Django's expiry, which is part of a session's content, in the manager's terms and back."""

from __future__ import annotations

# Django has no types: neither its imports nor its twins can be checked.
# mypy: disable-error-code="import-untyped"
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.sessions.backends.base import SessionBase

from . import clock
from .django_settings import manager
from .rows import started
from .session import Session
from .states import SessionState, state_of
from .tracking import ExpiryArgument
from .users import user_of


class Expiring(SessionBase):  # type: ignore[misc]
    """The part of Django's ``request.session`` that says how long it lives."""

    def _own(self) -> Session | None:
        """The manager's session, if it is loaded."""
        cached = self.__dict__.get("_session_cache")
        return cached if isinstance(cached, Session) and cached.link() is not None else None

    def get_session_cookie_age(self) -> int:
        age = manager().settings.max_age
        return super().get_session_cookie_age() if age is None else age

    def get_expiry_age(self, **kwargs: Any) -> Any:
        """Seconds until the session ends, ``absolute_timeout`` included: the cookie's Max-Age."""
        return self._capped(super().get_expiry_age(**kwargs))

    async def aget_expiry_age(self, **kwargs: Any) -> Any:
        """Seconds until the session ends; see ``get_expiry_age``."""
        return self._capped(await super().aget_expiry_age(**kwargs))

    def _capped(self, age: Any) -> Any:
        core, own, now = manager(), self._own(), clock.now()
        absolute = core.rows.lifetimes.absolute
        if absolute is None:
            return age
        row = None if own is None else state_of(own).row
        began = now
        if own is not None and row is not None:
            user = user_of(own, core.endings.user_key)
            if user == row.user_id:
                began = started(row)
            elif user is None:
                # Logged out, and that is not saved yet.
                began = row.created_at
        return min(age, max(0, -(-(began + absolute - now) // 1000)))

    def _lifetime(self, expiry: Any) -> ExpiryArgument:
        """Django's expiry, which is part of the session's content, in the manager's terms."""
        if not expiry:
            age = self.get_session_cookie_age()
            if age == manager().settings.max_age:
                return None if expiry is None else 0
            expiry = age
        if isinstance(expiry, str):
            expiry = datetime.fromisoformat(expiry)
        if not isinstance(expiry, datetime):
            # The past is an end as well in Django; in the core only a moment can lie in it.
            return float(expiry) if expiry > 0 else datetime.now(UTC) + timedelta(seconds=expiry)
        # A naive one is local time, as Django's timezone.now() is where USE_TZ is off.
        return expiry.astimezone(UTC)

    def _is_over(self, state: SessionState) -> bool:
        """Whether an earlier save of this request has ended the session by an expiry in the past:
        the middleware saves once more.
        """
        if state.row is None or state.row.expires_at > clock.now():
            return False
        age: int = super().get_expiry_age()
        return age <= 0
