"""The trust lease alone: until when cached rows are served unasked."""

from __future__ import annotations

import time

import pytest

from sessionware.clock import boot_clock
from sessionware.coherence.lease import LEASE_SECONDS, Lease
from tests.coherence.virtual import Seconds, hash_of

A, B = hash_of(1), hash_of(2)


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def lease(seconds: Seconds) -> Lease:
    """A lease that is alive."""
    made = Lease(clock=seconds)
    made.returned(seconds.now)
    return made


def test_nothing_is_trusted_before_a_message_has_come_back(seconds: Seconds) -> None:
    lease = Lease(clock=seconds)
    assert not lease.alive
    assert not lease.trusts(A, lease.mark(A))
    lease.returned(seconds.now)
    assert lease.alive
    assert lease.trusts(A, lease.mark(A))


def test_the_lease_counts_from_when_the_message_was_sent(seconds: Seconds) -> None:
    lease = Lease(clock=seconds)
    sent = seconds.now
    seconds.tick(LEASE_SECONDS - 1)
    lease.returned(sent)
    assert lease.trusts(A, lease.mark(A))
    seconds.tick(1)
    assert not lease.trusts(A, lease.mark(A))


def test_a_message_that_comes_back_after_the_lease_renews_nothing(seconds: Seconds) -> None:
    lease = Lease(clock=seconds)
    sent = seconds.now
    seconds.tick(LEASE_SECONDS)
    lease.returned(sent)
    assert not lease.alive


def test_an_older_message_does_not_shorten_the_lease(lease: Lease, seconds: Seconds) -> None:
    lease.returned(seconds.now - 5)
    seconds.tick(LEASE_SECONDS - 1)
    assert lease.alive


def test_a_row_that_was_changed_is_asked_for_and_others_are_not(lease: Lease) -> None:
    a, b = lease.mark(A), lease.mark(B)
    lease.move([A[:8]])
    assert not lease.trusts(A, a)
    assert lease.trusts(B, b)
    assert lease.trusts(A, lease.mark(A))


def test_a_gap_voids_every_mark_and_the_lease(lease: Lease, seconds: Seconds) -> None:
    mark = lease.mark(A)
    lease.missed()
    assert not lease.alive
    lease.returned(seconds.now)
    assert not lease.trusts(A, mark)
    assert lease.trusts(A, lease.mark(A))


def test_a_lost_connection_voids_the_lease_and_keeps_the_marks(
    lease: Lease, seconds: Seconds
) -> None:
    mark = lease.mark(A)
    lease.lost()
    assert not lease.trusts(A, mark)
    lease.returned(seconds.now)
    assert lease.trusts(A, mark)


def test_no_mark_is_trusted_as_little_as_a_wrong_one(lease: Lease) -> None:
    assert not lease.trusts(A, None)
    assert not lease.trusts(A, lease.mark(A) + 1)


def test_a_mark_of_another_lease_means_nothing(lease: Lease, seconds: Seconds) -> None:
    """As of before a shutdown, or of the parent process."""
    other = Lease(clock=seconds)
    other.returned(seconds.now)
    assert not other.trusts(A, lease.mark(A))


def test_the_clock_counts_the_time_that_the_machine_is_suspended() -> None:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this system has no such clock")
    assert abs(boot_clock() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1
