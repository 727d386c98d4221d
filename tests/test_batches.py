"""Who waits for a commit, who leads, and what becomes of those who give up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sessionware.batches import ALONE, MOST, Job, Queue, answer, begin
from sessionware.flows import Call, Flow, Pause
from sessionware.waiting import Outcome


class Told:
    """A waiter that notes what it is told."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def tell(self, outcome: Outcome) -> None:
        self.outcome = outcome


def writing(*methods: str) -> Flow[list[Any]]:
    """Asks for one call after the other, and gives all answers."""
    answers = []
    for method in methods:
        answers.append((yield Call(method)))
    return answers


def job(*methods: str) -> Job:
    return Job(writing(*methods), Told(), Queue(1))


def takes(*methods: str) -> Callable[[Call], bool]:
    return lambda call: call.method in methods


@pytest.fixture
def queue() -> Queue:
    return Queue(3)


def lead(queue: Queue, *jobs: Job) -> None:
    """Somebody leads, and has taken these."""
    for each in jobs:
        queue.add(each)
    assert queue.appoint()
    queue.take()


def test_the_first_who_comes_calls_for_a_leader_and_nobody_else_until_there_is_need_of_one(
    queue: Queue,
) -> None:
    assert [queue.add(job()) for _ in range(2)] == [True, False]
    assert [queue.appoint() for _ in range(2)] == [True, False]
    assert not queue.add(job())


def test_nobody_is_to_lead_where_nobody_waits_any_more(queue: Queue) -> None:
    given_up = job()
    queue.add(given_up)
    queue.withdraw(given_up)
    assert not queue.appoint()
    assert queue.is_idle


def test_a_leader_gets_all_that_waits_in_the_order_it_came(queue: Queue) -> None:
    jobs = [job() for _ in range(5)]
    for each in jobs:
        queue.add(each)
    assert queue.take() == jobs


def test_a_batch_is_bounded_and_the_others_are_next(queue: Queue) -> None:
    jobs = [job() for _ in range(MOST + 2)]
    for each in jobs:
        queue.add(each)
    assert [queue.take(), queue.take()] == [jobs[:MOST], jobs[MOST:]]


def test_a_leader_with_nothing_to_do_leads_no_more(queue: Queue) -> None:
    lead(queue, job())
    assert not queue.is_idle
    assert queue.take() == []
    assert queue.is_idle
    assert queue.add(job())


def test_who_resigns_is_followed_by_another_if_somebody_waits(queue: Queue) -> None:
    lead(queue, job())
    queue.add(job())
    assert queue.resign()
    queue.take()
    assert not queue.resign()
    assert queue.is_idle


def test_a_leader_leaves_the_few_that_wait_to_those_whom_it_tells(queue: Queue) -> None:
    lead(queue, job(), job())
    queue.add(job())
    assert queue.rest(told=2)
    assert queue.called, "they have to call for the next leader"
    assert not queue.add(job())
    assert queue.appoint()


def test_a_leader_for_whom_nobody_waits_leaves_nobody_to_be_called(queue: Queue) -> None:
    lead(queue, job())
    assert queue.rest(told=1)
    assert not queue.called
    assert queue.is_idle


def test_a_leader_goes_on_where_as_many_wait_as_it_tells(queue: Queue) -> None:
    lead(queue, job())
    queue.add(job())
    assert not queue.rest(told=1)
    assert len(queue.take()) == 1


def test_for_whom_nobody_can_lead_is_never_done(queue: Queue) -> None:
    jobs = [job(), job()]
    for each in jobs:
        queue.add(each)
    queue.appoint()
    assert queue.step_down() == jobs
    assert queue.is_idle
    assert not queue.withdraw(jobs[0])
    assert queue.add(job())


def test_where_another_leads_nobody_is_given_up_for_want_of_one_more(queue: Queue) -> None:
    lead(queue, job())
    waiting = job()
    queue.add(waiting)
    assert queue.wants_leader(waiting)
    assert queue.step_down() == []
    assert queue.take() == [waiting]


def test_one_more_leads_where_a_commit_hangs_but_not_without_bound(queue: Queue) -> None:
    lead(queue, job())
    waiting = job()
    queue.add(waiting)
    assert [queue.wants_leader(waiting) for _ in range(3)] == [True, True, False]


def test_where_nobody_calls_who_was_to_the_one_who_waits_leads_and_all_is_as_before(
    queue: Queue,
) -> None:
    waiting = job()
    queue.add(waiting)
    assert queue.wants_leader(waiting)
    assert not queue.appoint()
    assert queue.take() == [waiting]
    assert queue.take() == []
    assert queue.add(job())


def test_nobody_leads_for_what_has_begun(queue: Queue) -> None:
    begun = job()
    lead(queue, begun)
    assert not queue.wants_leader(begun)


def test_what_is_withdrawn_in_time_is_never_done(queue: Queue) -> None:
    first, second = job(), job()
    queue.add(first)
    queue.add(second)
    assert queue.withdraw(first)
    assert queue.take() == [second]
    assert not queue.withdraw(second)
    assert not queue.withdraw(first)


def test_only_calls_that_may_share_a_commit_are_shared() -> None:
    def pausing() -> Flow[None]:
        yield Pause(0)

    jobs = [job("replace"), job("reload"), Job(pausing(), Told(), Queue(1)), job()]
    shared, alone = begin(jobs, takes("replace"))
    assert (shared, alone) == (jobs[:1], jobs[1:3])
    assert jobs[3].outcome == ([], None)


def test_each_flow_gets_its_own_answer() -> None:
    jobs = [job("replace"), job("replace")]
    begin(jobs, takes("replace"))
    assert answer(jobs, [True, False]) == []
    assert [each.outcome for each in jobs] == [([True], None), ([False], None)]


def test_an_exception_is_raised_in_the_flow_it_belongs_to_and_in_no_other() -> None:
    jobs, error = [job("replace"), job("replace")], LookupError()
    begin(jobs, takes("replace"))
    answer(jobs, [error, True])
    assert [each.outcome for each in jobs] == [(None, error), ([True], None)]


def test_who_wants_more_or_was_not_done_goes_on_alone() -> None:
    jobs = [job("replace", "reload"), job("replace"), job("replace")]
    begin(jobs, takes("replace"))
    assert answer(jobs, [False, ALONE, True]) == jobs[:2]
    assert [each.wanted for each in jobs[:2]] == [Call("reload"), Call("replace")]
