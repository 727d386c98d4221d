"""What is said and heard on a channel of messages, played by hand with a virtual clock."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sessionware.coherence.lease import LEASE_SECONDS
from sessionware.coherence.line import Line
from sessionware.coherence.messages import MOST_PREFIXES, ONCE, Kind, Message, parse
from tests.coherence.virtual import Seconds, hash_of

A, B = hash_of(1), hash_of(2)


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def here(seconds: Seconds) -> Line:
    return alive(seconds)


@pytest.fixture
def there(seconds: Seconds) -> Line:
    return alive(seconds)


def alive(seconds: Seconds) -> Line:
    """A line whose first beat has come back."""
    line = Line(clock=seconds)
    line.connected()
    line.proven()
    line.hear(line.next(Kind.BEAT))
    assert line.lease.alive
    return line


def tell(lines: Iterable[Line], *texts: str) -> None:
    """Let all of them hear these texts."""
    for text in texts:
        for line in lines:
            line.hear(text)


def trusting(line: Line, row: bytes = A) -> bool:
    return line.lease.trusts(row, line.lease.mark(row))


def understood(text: str) -> Message:
    message = parse(text)
    assert message is not None
    return message


def test_a_change_is_heard_by_others_and_costs_its_own_sender_nothing(
    here: Line, there: Line
) -> None:
    there.hear(there.next(Kind.BEAT))
    # The first one that is heard of another: it may not be the first that was said.
    tell([here, there], here.next(Kind.BEAT))
    there.hear(there.next(Kind.BEAT))
    mine, theirs, other = here.lease.mark(A), there.lease.mark(A), there.lease.mark(B)
    here.queue((A,))
    tell([here, there], *here.due())
    assert there.lease.trusts(B, other)
    assert here.lease.trusts(A, mine)
    assert not there.lease.trusts(A, theirs)


def test_a_thousand_changes_are_said_in_two_messages(here: Line) -> None:
    for number in range(1000):
        here.queue((hash_of(number),))
    texts = here.due()
    assert len(texts) == -(-1000 // MOST_PREFIXES)
    said = {prefix for text in texts for prefix in understood(text).prefixes}
    assert said == {hash_of(number)[:8] for number in range(1000)}
    assert not here.waiting
    assert here.due() == []


def test_too_many_changes_are_said_as_any_row(here: Line) -> None:
    for number in range(30_000):
        here.queue((number.to_bytes(8, "big"),))
    (text,) = here.due()
    assert understood(text).kind is Kind.ALL


def test_a_gap_in_what_another_says_makes_every_row_be_asked_for(here: Line, there: Line) -> None:
    here.hear(there.next(Kind.BEAT))
    here.hear(here.next(Kind.BEAT))
    mark = here.lease.mark(A)
    there.next(Kind.CHANGED, (A[:8],))
    here.hear(there.next(Kind.BEAT))
    assert not here.lease.alive
    assert here.beat_wanted
    here.hear(here.next(Kind.BEAT))
    assert trusting(here)
    assert not here.lease.trusts(A, mark)


def test_a_message_heard_twice_or_late_is_no_gap(here: Line, there: Line) -> None:
    first, second = there.next(Kind.BEAT), there.next(Kind.CHANGED, (B[:8],))
    tell([here], first, second, first, second)
    here.hear(here.next(Kind.BEAT))
    mark = here.lease.mark(A)
    tell([here], first, second, there.next(Kind.BEAT))
    assert here.lease.trusts(A, mark)


def test_who_falls_silent_may_have_changed_any_row_last(
    here: Line, there: Line, seconds: Seconds
) -> None:
    """As a process does that is killed between its commit and its message."""
    here.hear(there.next(Kind.BEAT))
    here.hear(here.next(Kind.BEAT))
    mark = here.lease.mark(A)
    began = seconds.now
    while here.lease.trusts(A, mark):
        seconds.tick(1)
        here.hear(here.next(Kind.BEAT))
        here.forget_the_silent()
    assert LEASE_SECONDS < seconds.now - began <= LEASE_SECONDS + 1


def test_a_message_of_our_own_that_is_lost_shows_when_the_next_comes_back(here: Line) -> None:
    mark = here.lease.mark(A)
    here.next(Kind.BEAT)
    here.hear(here.next(Kind.BEAT))
    assert not here.lease.trusts(A, mark)
    assert not here.lease.alive


def test_a_change_that_was_not_heard_is_said_again(here: Line) -> None:
    here.queue((A,))
    (lost,) = here.due()
    here.hear(here.next(Kind.BEAT))
    assert lost
    assert [understood(text).kind for text in here.due()] == [Kind.ALL]


def test_a_change_said_into_a_dead_connection_is_said_again_on_the_next(here: Line) -> None:
    here.queue((A,))
    here.due()
    here.lost()
    here.connected()
    assert [understood(text).kind for text in here.due()] == [Kind.ALL]


def test_beats_that_are_lost_need_not_be_said_again(here: Line) -> None:
    here.next(Kind.BEAT)
    here.lost()
    here.connected()
    assert not here.waiting


def test_a_change_that_waits_when_the_connection_breaks_is_said_on_the_next(here: Line) -> None:
    here.queue((A,))
    here.lost()
    here.connected()
    (text,) = here.due()
    assert understood(text).prefixes == (A[:8],)


def test_a_new_connection_voids_every_mark(here: Line) -> None:
    mark = here.lease.mark(A)
    here.lost()
    here.connected()
    here.hear(here.next(Kind.BEAT))
    assert not here.lease.trusts(A, mark)
    assert trusting(here)


def test_nothing_is_trusted_between_two_connections(here: Line) -> None:
    here.lost()
    assert not trusting(here)
    here.connected()
    assert not trusting(here)


def test_a_message_of_the_connection_before_renews_nothing(here: Line) -> None:
    late = here.next(Kind.BEAT)
    here.lost()
    here.connected()
    here.hear(late)
    assert not here.lease.alive


# While it is in doubt whether what is said is heard.


def test_what_is_said_before_the_connection_is_proven_counts_as_unheard(seconds: Seconds) -> None:
    """Behind a pooler that loses subscriptions it never is."""
    line = Line(clock=seconds)
    assert not line.sound()
    line.connected()
    assert not line.sound()
    line.proven()
    assert line.sound()
    line.lost()
    assert not line.sound()


def test_a_connection_whose_messages_do_not_come_back_is_in_doubt_soon(
    here: Line, seconds: Seconds
) -> None:
    text = here.next(Kind.BEAT)
    assert here.unheard
    seconds.tick(0.5)
    assert here.sound()
    seconds.tick(1)
    assert not here.sound()
    assert not here.overdue()
    seconds.tick(3)
    assert here.overdue()
    here.hear(text)
    assert here.sound()
    assert not here.overdue()
    assert not here.unheard


def test_the_text_for_the_store_says_what_was_not_said_before_too(here: Line) -> None:
    here.queue((A,))
    message = understood(here.at_once((B,)))
    assert message.sender == ONCE
    assert set(message.prefixes) == {A[:8], B[:8]}


def test_the_text_for_the_store_is_never_too_long(here: Line) -> None:
    many = tuple(hash_of(number) for number in range(MOST_PREFIXES + 1))
    assert len(here.at_once(many)) < 8000
    assert understood(here.at_once(many)).kind is Kind.ALL
    here.queue(many[:-1])
    assert understood(here.at_once(many[-1:])).kind is Kind.ALL


def test_a_text_that_stands_alone_is_obeyed_and_counts_nothing(here: Line, there: Line) -> None:
    mark, other = here.lease.mark(A), here.lease.mark(B)
    for _ in range(2):
        here.hear(there.at_once((A,)))
    assert not here.lease.trusts(A, mark)
    assert here.lease.trusts(B, other)
    here.hear(there.at_once(None))
    assert not here.lease.trusts(B, other)
    assert here.lease.alive


# Hostile texts.


def test_nobody_else_can_send_a_message_of_ours_before_we_do(here: Line, seconds: Seconds) -> None:
    """Known by its number alone, a delayed forgery would renew the lease for what is still under
    way.
    """
    seen = understood(here.next(Kind.BEAT))
    forged = [
        str(seen._replace(sequence=seen.sequence + 1, nonce=nonce)) for nonce in ("0", seen.nonce)
    ]
    here.hear(str(seen))
    seconds.tick(LEASE_SECONDS)
    here.next(Kind.BEAT)
    tell([here], *forged)
    assert not here.lease.alive


def test_many_invented_senders_do_not_fill_the_memory(here: Line) -> None:
    for number in range(25_000):
        here.hear(str(Message(f"{number:016x}", 1, Kind.BEAT)))
    assert len(here._heard) <= 10_001


def test_a_forged_message_can_only_take_trust_away(here: Line, there: Line) -> None:
    sender = understood(there.next(Kind.BEAT)).sender
    until = here.lease._until
    for sequence in (1, 5, 10**17):
        for kind in Kind:
            here.hear(str(Message(sender, sequence, kind, (A[:8],))))
            assert here.lease._until <= until
