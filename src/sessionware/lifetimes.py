"""When a session ends, and when a touch is due. All times are milliseconds since the epoch, UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .records import BROWSER, DEFAULT, SECONDS, UNTIL, Expiry
from .tracking import ExpiryArgument

DEFAULT_EXPIRY = Expiry(DEFAULT, 0)
# How long a row lives when neither max_age nor a timeout says so (``max_age=None``): 14 days.
UNBOUNDED_LIFETIME = 14 * 24 * 3600 * 1000
TOUCH_FLOOR = 60_000
_LONGEST_PURGE_STEP = 24 * 3_600_000
# RFC 6265bis 5.5: browsers cap a cookie's lifetime at 400 days.
_LONGEST_COOKIE = 34_560_000
# The year 9000: what every database and ``datetime`` can hold.
_LATEST = 221_845_305_600_000


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The configured lifetimes in milliseconds; None means there is none.

    Idle and absolute timeout: OWASP ASVS 5.0 7.3.1 and 7.3.2.
    """

    max_age: int | None
    idle: int | None = None
    absolute: int | None = None
    rolling: bool = False

    def renewable(self, expiry: Expiry) -> int | None:
        """The lifetime that a renewal starts again; None if a renewal changes nothing."""
        kind, value = expiry
        if kind == SECONDS:
            return value
        if kind == UNTIL:
            return None
        return UNBOUNDED_LIFETIME if self.max_age is None else self.max_age

    def _limit(self, expiry: Expiry, renewed: int, started: int) -> int:
        """The end that no activity without a renewal moves."""
        kind, value = expiry
        if kind == SECONDS:
            end = renewed + value
        elif kind == UNTIL:
            end = value
        else:
            end = renewed + (UNBOUNDED_LIFETIME if self.max_age is None else self.max_age)
        return end if self.absolute is None else min(end, started + self.absolute)

    def expires_at(self, expiry: Expiry, *, renewed: int, last_seen: int, started: int) -> int:
        """``min(renewed + max_age, last_seen + idle_timeout, started + absolute_timeout)``.

        ``started`` is the login, or the creation where nobody is logged in.
        """
        end = self._limit(expiry, renewed, started)
        if self.idle is not None:
            end = min(end, last_seen + self.idle)
        # A header that was tampered with may say any number, and a database holds no such row.
        return end if -_LATEST <= end <= _LATEST else 0

    def cookie_max_age(self, expiry: Expiry, *, renewed: int, started: int, now: int) -> int | None:
        """Seconds for ``Max-Age``, never past the absolute end; None for a cookie of the browser's
        run.
        """
        if expiry.kind == BROWSER or (expiry.kind == DEFAULT and self.max_age is None):
            return None
        if self.max_age is not None and self.max_age <= 0 and expiry.kind == DEFAULT:
            # Starlette's max_age of 0 or less, said as it was given.
            return self.max_age // 1000
        remaining = self._limit(expiry, renewed, started) - now
        return max(0, min(-(-remaining // 1000), _LONGEST_COOKIE))

    def renewal_due(self, expiry: Expiry, *, renewed: int, now: int) -> bool:
        """Whether a save, or with ``rolling`` a read, renews the lifetime: a tenth of it has
        passed.
        """
        span = self.renewable(expiry)
        return span is not None and span > 0 and _is_due(span, now - renewed)

    def touch_due(self, expiry: Expiry, *, renewed: int, last_seen: int, now: int) -> bool:
        """Whether a request that changed nothing has to write the time columns."""
        if self.idle is not None and _is_due(self.idle, now - last_seen):
            return True
        return self.rolling and self.renewal_due(expiry, renewed=renewed, now=now)

    def purge_after(
        self, *, created_at: int, last_seen: int, expires_at: int, mark: int = 0
    ) -> int:
        """``expires_at`` rounded up to a coarse step, so that a touch seldom moves the indexed
        column; the old ``mark`` while it is not early and not much too late.

        The steps of different sessions are offset, so that they are not all rewritten at one time.
        """
        step = (expires_at - last_seen) // 2
        if step > _LONGEST_PURGE_STEP:
            step = _LONGEST_PURGE_STEP
        elif step < 1000:
            step = 1000
        due = expires_at + (created_at - expires_at) % step
        return mark if expires_at <= mark <= due else due


def _is_due(span: int, age: int) -> bool:
    """Whether a tenth of the span has passed, but at least ``TOUCH_FLOOR``, or half of it."""
    return age >= span // 2 or (age >= TOUCH_FLOOR and age >= span // 10)


def as_expiry(value: ExpiryArgument) -> Expiry:
    """A ``set_expiry`` argument, already checked, as it is kept in the record."""
    if value is None:
        return DEFAULT_EXPIRY
    if isinstance(value, datetime):
        return Expiry(UNTIL, min(int(value.timestamp() * 1000), _LATEST))
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds == 0:
        return Expiry(BROWSER, 0)
    return Expiry(SECONDS, min(max(1, int(seconds * 1000)), _LATEST // 2))
