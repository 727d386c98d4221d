"""Lifetimes: when a session ends, how long its cookie lives, when a touch and a purge are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware.lifetimes import (
    DEFAULT_EXPIRY,
    TOUCH_FLOOR,
    UNBOUNDED_LIFETIME,
    Lifetimes,
    as_expiry,
)
from sessionware.records import BROWSER, DEFAULT, SECONDS, UNTIL, Expiry
from tests.byhand import DAY, NOON, WEEK

MINUTE, HOUR = 60_000, 3_600_000
SPANS = st.integers(1, 400 * DAY)
AGES = st.integers(0, 400 * DAY)
LIFETIMES = st.builds(
    Lifetimes,
    max_age=st.none() | SPANS,
    idle=st.none() | SPANS,
    absolute=st.none() | SPANS,
    rolling=st.booleans(),
)
EXPIRIES = st.one_of(
    st.just(DEFAULT_EXPIRY),
    st.just(Expiry(BROWSER, 0)),
    st.builds(Expiry, st.just(SECONDS), SPANS),
    st.builds(Expiry, st.just(UNTIL), st.integers(NOON - DAY, NOON + 400 * DAY)),
)
BROWSERS_RUN = Expiry(BROWSER, 0)


def expected_span(lifetimes: Lifetimes, expiry: Expiry) -> int:
    if expiry.kind == SECONDS:
        return expiry.value
    return UNBOUNDED_LIFETIME if lifetimes.max_age is None else lifetimes.max_age


@given(LIFETIMES, EXPIRIES, AGES, AGES, AGES)
def test_it_ends_at_the_earliest_of_its_limits(
    lifetimes: Lifetimes, expiry: Expiry, since_renewal: int, since_seen: int, since_start: int
) -> None:
    renewed, seen, started = NOON - since_renewal, NOON - since_seen, NOON - since_start
    limits = [expiry.value if expiry.kind == UNTIL else renewed + expected_span(lifetimes, expiry)]
    if lifetimes.idle is not None:
        limits.append(seen + lifetimes.idle)
    if lifetimes.absolute is not None:
        limits.append(started + lifetimes.absolute)
    ends = lifetimes.expires_at(expiry, renewed=renewed, last_seen=seen, started=started)
    assert ends == min(limits)


@given(LIFETIMES, EXPIRIES, AGES, AGES)
def test_activity_never_moves_the_absolute_end(
    lifetimes: Lifetimes, expiry: Expiry, age: int, later: int
) -> None:
    started = NOON - age
    ends = lifetimes.expires_at(
        expiry, renewed=NOON + later, last_seen=NOON + later, started=started
    )
    assert lifetimes.absolute is None or ends <= started + lifetimes.absolute


@given(LIFETIMES, EXPIRIES, AGES, AGES)
def test_the_cookie_ends_within_a_second_of_the_session_whatever_ends_it(
    lifetimes: Lifetimes, expiry: Expiry, since_renewal: int, since_start: int
) -> None:
    renewed, started = NOON - since_renewal, NOON - since_start
    without_idle = Lifetimes(lifetimes.max_age, None, lifetimes.absolute)
    ends = without_idle.expires_at(expiry, renewed=renewed, last_seen=NOON, started=started)
    max_age = lifetimes.cookie_max_age(expiry, renewed=renewed, started=started, now=NOON)
    if expiry == BROWSERS_RUN or (expiry == DEFAULT_EXPIRY and lifetimes.max_age is None):
        assert max_age is None
        return
    assert max_age is not None
    if ends > NOON:
        assert 0 <= max_age * 1000 - (ends - NOON) < 1000
    else:
        assert max_age <= 0


def test_fifty_minutes_into_an_absolute_hour_the_cookie_gets_ten_minutes() -> None:
    lifetimes = Lifetimes(WEEK, absolute=HOUR)
    now = NOON + 50 * MINUTE
    assert lifetimes.cookie_max_age(DEFAULT_EXPIRY, renewed=now, started=NOON, now=now) == 600


def test_a_new_sessions_cookie_gets_max_age_itself() -> None:
    lifetimes = Lifetimes(1_209_600_000)
    later = NOON + 7
    assert lifetimes.cookie_max_age(DEFAULT_EXPIRY, renewed=NOON, started=NOON, now=later) == (
        1_209_600
    )


def test_no_cookie_asks_for_more_than_browsers_grant() -> None:
    """RFC 6265bis 5.5: 400 days."""
    ages = Expiry(SECONDS, 10**14)
    max_age = Lifetimes(WEEK).cookie_max_age(ages, renewed=NOON, started=NOON, now=NOON)
    assert max_age == 34_560_000


def test_an_idle_timeout_does_not_shorten_the_cookie() -> None:
    lifetimes = Lifetimes(WEEK, idle=MINUTE)
    max_age = lifetimes.cookie_max_age(DEFAULT_EXPIRY, renewed=NOON, started=NOON, now=NOON)
    assert max_age == WEEK // 1000


INTERVALS = [
    (100 * DAY, 10 * DAY),
    (HOUR, 6 * MINUTE),
    (10 * MINUTE, MINUTE),
    (5 * MINUTE, MINUTE),
    (2 * MINUTE, MINUTE),
    (MINUTE, MINUTE // 2),
    (10_000, 5_000),
    (2, 1),
]
"""A lifetime, and the time after which it is renewed: a tenth, a minute at least, half at most."""


@pytest.mark.parametrize(("span", "interval"), INTERVALS)
@pytest.mark.parametrize("kind", ["idle", "rolling", "rolling with an expiry of its own"])
def test_a_touch_is_due_exactly_when_its_interval_has_passed(
    span: int, interval: int, kind: str
) -> None:
    lifetimes, expiry = {
        "idle": (Lifetimes(WEEK, idle=span), DEFAULT_EXPIRY),
        "rolling": (Lifetimes(span, rolling=True), DEFAULT_EXPIRY),
        "rolling with an expiry of its own": (
            Lifetimes(WEEK, rolling=True),
            Expiry(SECONDS, span),
        ),
    }[kind]

    def due(now: int) -> bool:
        return lifetimes.touch_due(expiry, renewed=NOON, last_seen=NOON, now=now)

    assert not due(NOON)
    assert not due(NOON + interval - 1)
    assert due(NOON + interval)
    assert due(NOON + span)


@given(LIFETIMES, EXPIRIES, AGES, AGES)
def test_a_touch_is_due_neither_within_half_nor_after_all_of_what_it_renews(
    lifetimes: Lifetimes, expiry: Expiry, since_renewal: int, since_seen: int
) -> None:
    renewed, seen = NOON - since_renewal, NOON - since_seen
    due = lifetimes.touch_due(expiry, renewed=renewed, last_seen=seen, now=NOON)
    idle = lifetimes.idle
    span = lifetimes.renewable(expiry) if lifetimes.rolling else None
    if (idle and since_seen >= max(idle // 2, 1)) or (span and since_renewal >= max(span // 2, 1)):
        assert due
    quick = TOUCH_FLOOR // 2
    if since_seen < min(quick, (idle or DAY) // 2) and since_renewal < min(
        quick, (span or DAY) // 2
    ):
        assert not due


@given(EXPIRIES, AGES)
def test_without_rolling_and_idle_timeout_no_touch_is_ever_due(expiry: Expiry, age: int) -> None:
    lifetimes = Lifetimes(WEEK, absolute=DAY)
    assert not lifetimes.touch_due(expiry, renewed=NOON - age, last_seen=NOON - age, now=NOON)


@pytest.mark.parametrize("rolling", [True, False])
def test_an_end_that_was_set_to_a_date_is_never_renewed(rolling: bool) -> None:
    lifetimes = Lifetimes(WEEK, rolling=rolling)
    expiry = Expiry(UNTIL, NOON + DAY)
    assert lifetimes.renewable(expiry) is None
    assert not lifetimes.renewal_due(expiry, renewed=0, now=NOON)
    assert not lifetimes.touch_due(expiry, renewed=0, last_seen=0, now=NOON)


@pytest.mark.parametrize("max_age", [0, -5_000])
def test_a_lifetime_that_is_over_at_once_is_never_renewed(max_age: int) -> None:
    lifetimes = Lifetimes(max_age, rolling=True)
    assert not lifetimes.renewal_due(DEFAULT_EXPIRY, renewed=NOON - DAY, now=NOON)


@given(st.integers(0, 10 * HOUR), st.integers(0, DAY), st.integers(1, 400 * DAY))
def test_the_purge_mark_is_never_early_and_at_most_a_step_late(
    created: int, age: int, left: int
) -> None:
    seen = created + age
    ends = seen + left
    mark = Lifetimes(WEEK).purge_after(created_at=created, last_seen=seen, expires_at=ends)
    step = min(max(1000, left // 2), DAY)
    assert ends <= mark < ends + step
    assert (mark - created) % step == 0


def test_touches_within_a_step_do_not_move_the_purge_mark() -> None:
    lifetimes = Lifetimes(WEEK, idle=HOUR)
    seen = range(NOON, NOON + HOUR, MINUTE)
    marks = {
        lifetimes.purge_after(created_at=NOON, last_seen=now, expires_at=now + HOUR) for now in seen
    }
    assert len(marks) == 3, "sixty touches in an hour cross two steps"


KINDS: list[tuple[Any, Expiry]] = [
    (None, Expiry(DEFAULT, 0)),
    (0, Expiry(BROWSER, 0)),
    (0.0, Expiry(BROWSER, 0)),
    (timedelta(0), Expiry(BROWSER, 0)),
    (60, Expiry(SECONDS, 60_000)),
    (1.5, Expiry(SECONDS, 1_500)),
    (1e-9, Expiry(SECONDS, 1)),
    (timedelta(minutes=2), Expiry(SECONDS, 120_000)),
    (datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), Expiry(UNTIL, 10**12)),
    (
        datetime(2001, 9, 9, 3, 46, 40, tzinfo=timezone(timedelta(hours=2))),
        Expiry(UNTIL, 10**12),
    ),
]


@pytest.mark.parametrize(("value", "expiry"), KINDS, ids=lambda value: str(value))
def test_what_set_expiry_was_given_decides_the_kind(value: Any, expiry: Expiry) -> None:
    assert as_expiry(value) == expiry


@pytest.mark.parametrize(
    ("max_age", "expiry", "lives"),
    [
        (DAY, DEFAULT_EXPIRY, DAY),
        (None, DEFAULT_EXPIRY, 14 * DAY),
        (DAY, BROWSERS_RUN, DAY),
        (None, BROWSERS_RUN, 14 * DAY),
        (DAY, Expiry(SECONDS, HOUR), HOUR),
        (DAY, Expiry(UNTIL, NOON + MINUTE), MINUTE),
    ],
)
def test_the_row_lives_as_long_as_its_kind_of_expiry_says(
    max_age: int | None, expiry: Expiry, lives: int
) -> None:
    ends = Lifetimes(max_age).expires_at(expiry, renewed=NOON, last_seen=NOON, started=NOON)
    assert ends - NOON == lives


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63)])
@pytest.mark.parametrize("kind", [SECONDS, UNTIL])
def test_an_expiry_that_nobody_set_ends_the_session_in_place_of_overflowing_the_database(
    kind: int, value: int
) -> None:
    ends = Lifetimes(DAY).expires_at(Expiry(kind, value), renewed=0, last_seen=0, started=0)
    assert ends == 0
