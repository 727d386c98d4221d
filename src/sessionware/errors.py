"""Every exception that sessionware raises.

No message here ever carries a session ID, a cookie, a secret or session data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class SessionError(Exception):
    """Base of every error that sessionware raises on purpose."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or risky, in a configuration.

    ``code`` is stable (``SW001``); ``message`` names the risk, ``fix`` the exact remedy. The value
    of a secret is never part of either.
    """

    code: str
    setting: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.code} {self.setting}: {self.message} Fix: {self.fix}"


class ConfigurationError(SessionError, ValueError):
    """The settings are wrong; ``findings`` lists all that is wrong with them, not only the
    first.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.findings,)


class SerializationError(SessionError, TypeError):
    """A value cannot be stored and come back equal and of the same type; nothing was saved.

    ``path`` leads to the value, for example ``("cart", 0, "price")``.
    """

    def __init__(self, path: Iterable[object], reason: str) -> None:
        self.path = tuple(path)
        self.reason = reason
        where = "".join(f"[{key!r}]" for key in self.path)
        super().__init__(f"session{where}: {reason}")


class SessionTooLarge(SessionError, ValueError):
    """The encoded session is over ``max_session_bytes``; the stored row is left as it was.

    ``size`` and ``limit`` are bytes; ``largest`` holds the biggest top-level keys with their sizes.
    """

    def __init__(self, size: int, limit: int, largest: Sequence[tuple[str, int]]) -> None:
        self.size = size
        self.limit = limit
        self.largest = tuple(largest)
        keys = ", ".join(f"{key!r} ({length} bytes)" for key, length in self.largest)
        super().__init__(
            f"the session takes {size} bytes, max_session_bytes is {limit}; largest keys: {keys}"
        )


class StoreUnavailable(SessionError):
    """The store could not be asked, or did not answer within ``store_timeout`` seconds.

    The middleware turns it into ``503`` with ``Retry-After`` where the application does not handle
    it.
    """


class OutcomeUnknown(StoreUnavailable):
    """The connection broke while a write was under way: it may or may not have been committed."""


class Contention(StoreUnavailable):
    """The database refused the write because of other writers (deadlock, lock timeout): try
    again.
    """


class DuplicateKey(SessionError):
    """A row with this key exists already."""


class CorruptRecord(SessionError):
    """A stored record cannot be read: damaged, sealed for another row, or of an unknown format."""


class SessionGone(SessionError):
    """An explicit save found that the session had ended, or changed its identity, meanwhile."""


class SessionLimitReached(SessionError):
    """The user has ``max_sessions_per_user`` sessions, and ``session_limit_action`` refuses more;
    nobody was logged in.
    """


class LockTimeout(SessionError, TimeoutError):
    """The lock of a session could not be had in time, or was held for too long (see
    ``Session.lock``).
    """


class ResponseAlreadyStarted(SessionError, RuntimeError):
    """The session was changed when the response, and with it the cookie, had already left."""


class ReauthenticationRequired(SessionError):
    """The last login is too long ago, or there was none (see ``Session.require_recent``)."""


def apart(error: E) -> E:
    """An error that several requests are to raise, for one of them: what is raised collects the
    frames that it passes, and these hold the sessions of whoever raised it.
    """
    if not isinstance(error, SessionError):
        return error
    try:
        again = copy(error)
    except TypeError:
        # One that is made of more than its message.
        return error
    again.__cause__ = error.__cause__
    return again
