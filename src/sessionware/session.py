"""Session: what the application holds, and what it asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

from .errors import ReauthenticationRequired
from .tracking import ExpiryArgument, SessionLink, Tracked

_NO_DEFAULT: Any = object()


class Session(Tracked):
    """The data of one browser session: a real ``dict`` that remembers what was done with it.

    Changes, nested ones too, are saved when the response begins. ``accessed`` and ``modified`` mean
    what they mean in Starlette. Nothing here does I/O but the methods that come in twins,
    ``name()`` for threads and ``await name()`` with an ``a`` before the name for coroutines.
    """

    def rotate(self, *, authenticated: bool = False) -> None:
        """Give the session a new ID at the response; the old one is dead with the same commit.

        ``authenticated`` says that the user has just proven who they are once more: it renews
        ``authenticated_at`` (OWASP ASVS 5.0 7.5.3). A login, that is a change under ``user_key``,
        rotates by itself.
        """
        self.mark_exposed()
        self.asking = True
        proven = self.asked.reauthenticated or authenticated
        self.asked = self.asked._replace(rotation=True, reauthenticated=proven)

    def invalidate(self) -> None:
        """End the session: it is empty at once, its row and cookie go with the response.

        It holds even if the request fails later on. What is stored afterwards goes into a new
        session.
        """
        self.mark_modified()
        self.asked = self.asked._replace(
            cleared=True, ended=True, rotation=False, expiry=None, expiry_set=False
        )
        self.written = frozenset()
        super().clear()

    def set_expiry(self, value: ExpiryArgument) -> None:
        """Give this session its own lifetime in place of ``max_age``.

        Seconds or a ``timedelta``: from the last renewal on. An aware ``datetime``: until then.
        ``0``: until the browser closes. ``None``: the configured one. Idle and absolute timeouts
        hold all the same. Raises ``ValueError`` for a negative or non-finite number or a naive
        ``datetime``.
        """
        check_expiry(value)
        self.mark_modified()
        self.asked = self.asked._replace(expiry=value, expiry_set=True)

    @property
    def is_new(self) -> bool:
        """True until the session has been stored."""
        standing = self._standing()
        return True if standing is None else standing.is_new

    @property
    def handle(self) -> str:
        """The session's public name: stable over rotation, useless as a credential."""
        self.mark_accessed()
        return self._bound().handle

    @property
    def created_at(self) -> datetime | None:
        """When the session was first stored (aware, UTC), or None."""
        standing = self._standing()
        return None if standing is None else as_datetime(standing.created_at)

    @property
    def authenticated_at(self) -> datetime | None:
        """When the user last logged in (aware, UTC), or None."""
        standing = self._standing()
        return None if standing is None else as_datetime(standing.authenticated_at)

    def require_recent(self, seconds: float) -> None:
        """Raise ``ReauthenticationRequired`` unless the login is at most ``seconds`` old.

        A rotation alone does not renew it (OWASP ASVS 5.0 7.5.3).
        """
        standing = self._standing()
        age = None if standing is None else standing.seconds_since_login()
        # Not `age > seconds`, which no age is where that is NaN.
        if age is None or not age <= seconds:
            raise ReauthenticationRequired(
                f"a login within the last {seconds:g} seconds is required"
            )

    def save(self) -> None:
        """Commit the changes now. For threads; under a running event loop use ``await asave()``.

        Raises ``SessionGone`` if the session ended meanwhile, ``ResponseAlreadyStarted`` if it
        would take a cookie that can't be sent any more, ``StoreUnavailable``, ``SessionTooLarge``
        and ``SerializationError``.
        """
        self._bound().save(self)

    async def asave(self) -> None:
        """Commit the changes now; see ``save``."""
        await self._bound().asave(self)

    def take(self, key: Any, default: Any = _NO_DEFAULT) -> Any:
        """Read and delete a one-time value in the database: of all callers at most one gets it.

        Raises ``KeyError`` if it is not there (any more) and no default was given.
        """
        return self._taken(key, self._bound().take(self, key, _NO_DEFAULT), default)

    async def atake(self, key: Any, default: Any = _NO_DEFAULT) -> Any:
        """Read and delete a one-time value; see ``take``."""
        return self._taken(key, await self._bound().atake(self, key, _NO_DEFAULT), default)

    def incr(self, key: Any, amount: int | float = 1) -> int | float:
        """Add to a number in the database, where no increment is lost; a missing key counts as 0.

        Returns the new number. Raises ``TypeError`` if the stored value is not a number.
        """
        return self._bound().incr(self, key, amount)

    async def aincr(self, key: Any, amount: int | float = 1) -> int | float:
        """Add to a number in the database; see ``incr``."""
        return await self._bound().aincr(self, key, amount)

    def lock(
        self, timeout: float = 5.0, *, hold: float = 30.0
    ) -> AbstractContextManager[Session, None]:
        """Keep other handlers that lock this session out, over all workers: for check-then-act.

        ``with session.lock():`` waits up to ``timeout`` seconds, brings the session up to date, and
        at the end of the block saves it and gives the lock back; an exception in the block saves
        nothing. After ``hold`` seconds the lock ends by itself, as it must when a worker dies.
        Whoever does not lock is not kept out. Raises ``LockTimeout``, ``SessionGone``, and
        whatever ``save`` raises.
        """
        return self._bound().lock(self, timeout, hold)

    def alock(
        self, timeout: float = 5.0, *, hold: float = 30.0
    ) -> AbstractAsyncContextManager[Session, None]:
        """``async with session.alock():``; see ``lock``."""
        return self._bound().lock(self, timeout, hold)

    def on_ended(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Have ``callback`` called once when this session ends: by whomever and in whichever
        worker, by its time, or because another user logs in or out in it. For WebSockets.

        A plain function or, in an event loop, a coroutine function; it is called in the loop (on
        asyncio and trio) or thread pool of ours. With a channel (``stamps``, ``notify``) it takes a
        moment, else about two seconds. Returns a function that calls it off. A session that is
        not stored yet is not watched.
        """
        return self._bound().on_ended(self, callback)

    def revalidate(self) -> bool:
        """Ask the database whether this session still stands: not ended, expired or rotated."""
        return self._bound().revalidate(self)

    async def arevalidate(self) -> bool:
        """Ask the database whether this session still stands; see ``revalidate``."""
        return await self._bound().arevalidate(self)

    def _standing(self) -> SessionLink | None:
        """The tie to what is stored; None after ``invalidate()``, when another session begins."""
        self.mark_accessed()
        return None if self.asked.ended else self.tie

    def _bound(self) -> SessionLink:
        if self.tie is None:
            raise RuntimeError("this Session was built by hand: no manager has loaded it")
        return self.tie

    @staticmethod
    def _taken(key: Any, value: Any, default: Any) -> Any:
        if value is not _NO_DEFAULT:
            return value
        if default is _NO_DEFAULT:
            raise KeyError(key)
        return default


class NoSession(Session):
    """Stands where there is no session (``exclude``): empty to read, refuses to be written."""

    def mark_modified(self) -> None:
        raise self._excluded()

    def rotate(self, *, authenticated: bool = False) -> None:
        raise self._excluded()

    def _bound(self) -> SessionLink:
        raise self._excluded()

    @staticmethod
    def _excluded() -> RuntimeError:
        return RuntimeError("this path has no session: it is listed under the setting `exclude`")


def check_expiry(value: ExpiryArgument) -> None:
    """Raise ``ValueError`` or ``TypeError`` for what can't be a lifetime."""
    if value is None:
        return
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("set_expiry needs an aware datetime (with a time zone)")
        return
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError("set_expiry takes seconds, a timedelta, an aware datetime, 0 or None")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 <= seconds < 1e11:
        raise ValueError("set_expiry takes a finite number of seconds, 0 or more")


def as_datetime(milliseconds: int | None) -> datetime | None:
    """Milliseconds since the epoch as an aware UTC datetime."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
