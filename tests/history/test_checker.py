"""The checker on histories written by hand: each kind of violation, and its innocent neighbour."""

from __future__ import annotations

from typing import Any

import pytest

from tests.history.checker import check
from tests.history.records import Bounds, Operation, Outcome, parse, value_text

OK, MISSING, FAILED, UNKNOWN = Outcome


class Story:
    """Writes a history: each operation takes from one moment to another, half a second if nothing
    is said. What it found counts for reads only, unless it is given.
    """

    def __init__(self) -> None:
        self.history: list[Operation] = []

    def add(self, kind: str, sent: float, answered: float | None = None, **more: Any) -> Operation:
        """An operation on session ``s`` with its first ID, done at once and well."""
        operation = Operation(len(self.history), kind, more.pop("session", "s"), sent)
        operation.answered = sent + 0.5 if answered is None else answered
        operation.outcome, operation.token, operation.explicit = OK, 0, True
        operation.seen = {"sid": operation.session} if kind == "read" else None
        for name, value in more.items():
            setattr(operation, name, value)
        if operation.outcome is UNKNOWN:
            operation.answered, operation.seen = float("inf"), None
        if operation.outcome is MISSING:
            operation.seen = {}
        self.history.append(operation)
        return operation

    def write(self, sent: float, answered: float | None = None, **more: Any) -> str:
        """Write ``k``; the value."""
        return value(self.add("set", sent, answered, key="k", **more))

    def read(self, sent: float, answered: float | None = None, **seen: Any) -> Operation:
        """Read; what it saw beside the name."""
        return self.add("read", sent, answered, seen={"sid": "s", **seen})

    def miss(self, sent: float, **more: Any) -> Operation:
        return self.add("read", sent, outcome=MISSING, **more)

    def found(self, *bounds: Any, **options: Any) -> set[str]:
        """The kinds of the violations."""
        return check(self.history, Bounds(*bounds), **options).kinds()


def value(operation: Operation, user: str = "") -> str:
    return value_text(operation.session, operation.number, user)


@pytest.fixture
def story() -> Story:
    made = Story()
    made.add("create", 0, new_token=0, token=-1)
    return made


def test_a_value_says_whose_it_is() -> None:
    assert parse(value_text("s7", 12, "u1")) == ("s7", 12, "u1")
    assert parse("something else") is parse(None) is parse("a.b.c") is None


# Stale and lost.


def test_a_value_that_was_overwritten_before_the_read_is_stale(story: Story) -> None:
    old = story.write(1)
    story.write(2)
    story.read(3, k=old)
    assert story.found() == {"stale read"}


def test_a_value_that_is_overwritten_during_the_read_is_not_stale(story: Story) -> None:
    old = story.write(1)
    story.write(2, answered=4)
    story.read(3, k=old)
    assert not story.found()


def test_of_two_parallel_writes_either_may_stay(story: Story) -> None:
    one = story.write(1, answered=3)
    story.write(2, answered=4)
    story.read(5, k=one)
    assert not story.found()


def test_within_the_bound_a_read_may_be_stale_and_its_lateness_is_measured(story: Story) -> None:
    old = story.write(1)
    story.write(2)
    story.read(3, k=old)
    report = check(story.history, Bounds(1.0))
    assert not report.violations
    assert report.lateness == [0.5]
    assert report.percentile(0.99) == 0.5


def test_the_rough_bound_holds_only_where_something_was_broken(story: Story) -> None:
    old = story.write(1)
    story.write(2)
    story.read(5, k=old)
    assert story.found(1.0, 10.0, [(20, 21)]) == {"stale read"}
    assert not story.found(1.0, 10.0, [(3, 4), (3.5, 3.6)])
    story.read(13, k=old)
    assert story.found(1.0, 10.0, [(3, 14)]) == {"stale read"}


def test_a_value_that_one_read_has_shown_is_seen_by_all_that_follow(story: Story) -> None:
    old = story.write(1)
    new = story.write(2, outcome=UNKNOWN)
    story.read(3, k=new)
    story.read(4, k=old)
    assert story.found() == {"stale read"}


def test_a_write_of_unknown_outcome_may_appear_at_any_time_or_never(story: Story) -> None:
    old = story.write(1)
    new = story.write(2, outcome=UNKNOWN)
    story.read(3, k=old)
    story.read(4, k=new)
    assert not story.found()


def test_an_acknowledged_key_that_is_not_there_is_stale_and_in_the_end_lost(story: Story) -> None:
    story.write(1)
    story.read(2)
    assert story.found() == {"stale read"}
    story.read(9).final = True
    assert story.found() == {"stale read", "key lost"}


@pytest.mark.parametrize("outcome", [OK, UNKNOWN])
def test_a_key_may_be_missing_after_a_deletion(story: Story, outcome: Outcome) -> None:
    written = story.write(1)
    deletion = story.add("del", 2, key="k", outcome=outcome)
    if outcome is OK:
        deletion.seen = {"sid": "s", "k": written}
    story.read(3)
    assert not story.found()


def test_a_deletion_that_found_no_key_deletes_none(story: Story) -> None:
    story.add("del", 1, 4, key="k", seen={"sid": "s"})
    story.write(2, 3)
    story.read(5)
    assert story.found() == {"stale read"}


def test_a_key_that_was_deleted_does_not_come_back(story: Story) -> None:
    written = story.write(1)
    story.add("del", 2, key="k", seen={"sid": "s", "k": written})
    story.read(3, k=written)
    assert story.found() == {"stale read"}


def test_an_unconfirmed_save_may_be_dropped_by_a_parallel_reset(story: Story) -> None:
    reset = story.add("reset", 1, 3, key="other")
    story.write(2, explicit=False)
    story.read(5, other=value(reset))
    assert not story.found()


def test_an_unconfirmed_save_is_not_dropped_for_nothing(story: Story) -> None:
    reset = story.add("reset", 1, key="other")
    story.write(2, explicit=False)
    story.read(5, other=value(reset))
    assert story.found() == {"stale read"}


def test_a_reset_empties_all_other_keys(story: Story) -> None:
    written = story.write(1)
    reset = story.add("reset", 2, key="other", seen={"sid": "s", "k": written})
    story.read(3, other=value(reset), k=written)
    assert story.found() == {"stale read"}


def test_a_change_is_applied_again_only_where_answers_are_lost(story: Story) -> None:
    one = story.write(1, answered=5)
    story.read(2, k=one)
    story.write(3, answered=4)
    story.read(6, k=one)
    assert story.found() == {"stale read"}
    assert not story.found(replays=True)


# From nowhere.


def test_a_value_that_nobody_wrote_is_from_nowhere(story: Story) -> None:
    story.read(1, k="s.77.")
    assert story.found() == {"key from nowhere"}


def test_a_value_under_another_key_is_from_nowhere(story: Story) -> None:
    written = story.write(1)
    story.read(2, k=written, other=written)
    assert story.found() == {"key from nowhere"}


def test_a_value_that_is_seen_before_it_is_written_is_from_nowhere(story: Story) -> None:
    story.read(1, k="s.2.")
    story.write(2)
    assert story.found() == {"key from nowhere"}


@pytest.mark.parametrize(("kind", "outcome"), [("set", FAILED), ("set", MISSING), ("boom", FAILED)])
def test_what_was_refused_or_discarded_is_not_there(
    story: Story, kind: str, outcome: Outcome
) -> None:
    refused = story.add(kind, 1, key="k", outcome=outcome)
    story.read(2, k=value(refused))
    assert story.found() - {"session lost"} == {"key from nowhere"}


def test_another_sessions_data_is_noticed_by_name_and_by_value(story: Story) -> None:
    story.add("create", 0, session="t", new_token=0, token=-1)
    story.add("read", 1, seen={"sid": "t"})
    assert story.found() == {"other session's data"}
    theirs = story.write(2, session="t")
    del story.history[2]
    story.read(3, k=theirs)
    assert "other session's data" in story.found()


def test_what_one_user_wrote_is_not_in_anothers_session(story: Story) -> None:
    login = story.add("login", 1, user="u2", key="", new_token=1)
    written = story.add("set", 1, 3, key="k", token=0)
    seen = {"user_id": "u2", "who": value(login, "u2")}
    story.add("read", 4, token=1, seen={"sid": "s", **seen, "k": value(written, "u1")})
    assert story.found() == {"mixed users"}
    story.history[-1].seen = {"sid": "s", **seen, "k": value(written)}
    assert not story.found()


def test_a_user_and_their_login_belong_together(story: Story) -> None:
    login = story.add("login", 1, user="u2", new_token=1)
    story.add("read", 4, token=1, seen={"sid": "s", "user_id": "u1", "who": value(login, "u2")})
    assert story.found() == {"mixed users"}


# Counted and taken.


def test_two_increments_do_not_give_the_same_number(story: Story) -> None:
    story.add("incr", 1, 4, result=1)
    story.add("incr", 2, 3, result=1)
    assert story.found() == {"increment lost"}


def test_an_increment_counts_those_before_it(story: Story) -> None:
    story.add("incr", 1, result=1)
    story.add("incr", 2, outcome=UNKNOWN)
    story.add("incr", 3, result=3)
    assert not story.found()
    story.add("incr", 4, result=2)
    assert story.found() == {"increment lost"}


@pytest.mark.parametrize(("number", "kind"), [(0, "stale read"), (2, "increment doubled")])
def test_a_count_is_that_of_the_increments(story: Story, number: int, kind: str) -> None:
    story.add("incr", 1, result=1)
    story.read(2, n=1)
    assert not story.found()
    story.read(3, n=number)
    assert story.found() == {kind}


def test_a_one_time_value_is_taken_once(story: Story) -> None:
    written = value(story.add("set", 1, key="t"))
    story.add("take", 2, 4, key="t", result=written)
    assert not story.found()
    story.add("take", 3, 5, key="t", result=written)
    assert story.found() == {"taken twice"}


def test_a_taken_value_is_gone(story: Story) -> None:
    written = value(story.add("set", 1, key="t"))
    story.add("take", 2, key="t", result=written)
    story.read(3)
    assert not story.found()
    story.read(4, t=written)
    assert story.found() == {"stale read"}


def test_a_value_that_was_overwritten_is_not_taken(story: Story) -> None:
    old = value(story.add("set", 1, key="t"))
    story.add("set", 2, key="t")
    story.add("take", 3, key="t", result=old)
    assert story.found(10.0) == {"stale take"}


def test_a_value_that_was_never_there_is_not_taken(story: Story) -> None:
    story.add("take", 3, key="t", result="s.55.")
    assert story.found() == {"key from nowhere"}


# Ends and IDs.


def test_nothing_is_alive_after_a_logout(story: Story) -> None:
    story.add("logout", 1, 3)
    story.read(2)
    assert not story.found()
    story.read(4)
    assert story.found() == {"alive after its end"}
    assert not story.found(2.0)


def test_a_clear_ends_the_session_if_it_says_so(story: Story) -> None:
    clear = story.add("clear", 1)
    story.read(2)
    assert not story.found()
    clear.expired_cookie = True
    assert story.found() == {"alive after its end"}


def test_a_revocation_ends_the_users_sessions(story: Story) -> None:
    story.add("login", 1, user="u1", new_token=1)
    story.add("revoke", 2, user="u1", token=-1, seen=None)
    story.miss(3, token=1)
    assert not story.found()
    story.add("read", 4, token=1)
    assert story.found() == {"alive after its end"}


@pytest.mark.parametrize("user", ["u1", "u2"])
def test_a_revocation_during_a_login_may_end_it_or_not(story: Story, user: str) -> None:
    story.add("login", 1, 4, user=user, new_token=1)
    story.add("revoke", 2, 3, user="u1", token=-1, seen=None)
    who = value(story.history[1], user)
    story.add("read", 5, token=1, seen={"sid": "s", "user_id": user, "who": who})
    assert not story.found()
    story.miss(6, token=1)
    assert story.found() == (set() if user == "u1" else {"session lost"})


def test_an_id_that_was_replaced_opens_nothing(story: Story) -> None:
    story.add("rotate", 1, new_token=1)
    story.miss(2)
    story.add("read", 3, token=1)
    assert not story.found()
    story.read(4)
    assert story.found() == {"old ID alive"}


def test_an_id_has_one_successor(story: Story) -> None:
    story.add("rotate", 1, 3, new_token=1)
    story.add("rotate", 1, 4, new_token=2)
    assert story.found() == {"old ID alive"}


def test_a_session_that_nothing_has_ended_is_found(story: Story) -> None:
    story.miss(1)
    assert story.found() == {"session lost"}


@pytest.mark.parametrize("kind", ["logout", "clear", "rotate", "login"])
def test_an_end_of_unknown_outcome_explains_a_missing_session(story: Story, kind: str) -> None:
    story.add(kind, 1, outcome=UNKNOWN, user="u1" if kind == "login" else "")
    story.miss(2)
    assert not story.found()


def test_a_rotation_that_was_dropped_explains_nothing(story: Story) -> None:
    story.add("rotate", 1)
    story.miss(2)
    assert story.found() == {"session lost"}


def test_the_rotation_of_an_older_id_explains_nothing(story: Story) -> None:
    story.add("rotate", 1, new_token=1)
    story.miss(2, token=1)
    assert story.found() == {"session lost"}


def test_a_cookie_that_nobody_asked_for_is_strange(story: Story) -> None:
    story.write(1, strange_cookie=True)
    assert story.found() == {"strange cookie"}


def test_a_violation_shows_its_operations_and_the_report_counts(story: Story) -> None:
    old = story.write(1)
    story.write(2)
    story.read(3, k=old)
    report = check(story.history)
    assert str(report).startswith("1 violations in 4 operations\nstale read: 'k' was changed 0.5")
    assert [each.number for each in report.violations[0].operations] == [1, 2, 3]
