"""How a purge goes about it: how many rows at a time, how much rest, and when it is done."""

from __future__ import annotations

import pytest

from sessionware.pacing import FIRST, LEAST, LEAST_REST, MOST_REST, TARGET, Progress

MOST = 1000


def full(progress: Progress, seconds: float) -> float:
    """A batch that leaves nothing out took so long; the rest that follows."""
    return progress.note(progress.limit, seconds)


def limits(progress: Progress, seconds: float, batches: int) -> list[int]:
    found = []
    for _ in range(batches):
        full(progress, seconds)
        found.append(progress.limit)
    return found


def test_batches_grow_while_they_are_quick_up_to_what_the_store_takes() -> None:
    assert limits(Progress(MOST, exact=False), TARGET / 10, 4) == [400, 800, MOST, MOST]


def test_batches_shrink_while_they_are_slow_down_to_a_least() -> None:
    progress = Progress(MOST, exact=False)
    limits(progress, TARGET / 10, 9)

    assert limits(progress, TARGET * 2, 5) == [500, 250, 125, LEAST, LEAST]


@pytest.mark.parametrize("seconds", [TARGET / 2, TARGET])
def test_batches_that_take_about_what_they_should_stay_as_they_are(seconds: float) -> None:
    assert limits(Progress(MOST, exact=False), seconds, 3) == [FIRST] * 3


@pytest.mark.parametrize("most", [1, 2, LEAST - 1])
def test_a_store_may_take_less_than_the_least(most: int) -> None:
    progress = Progress(most, exact=False)

    assert progress.limit == most
    assert limits(progress, 0.0, 2) == limits(progress, 1.0, 2) == [most, most]


@pytest.mark.parametrize(
    "seconds", [0.0, LEAST_REST / 100, TARGET, MOST_REST, 10 * MOST_REST], ids=str
)
def test_others_have_the_database_for_at_least_half_of_the_time(seconds: float) -> None:
    rest = full(Progress(MOST, exact=False), seconds)

    assert rest >= max(seconds, LEAST_REST)
    assert rest <= max(seconds, MOST_REST)


def test_the_rest_is_longer_after_a_batch_that_took_longer() -> None:
    progress = Progress(MOST, exact=False)

    rests = [full(progress, seconds) for seconds in (0.002, 0.004, 0.006, 0.1, 0.2)]

    assert rests == sorted(set(rests))


@pytest.mark.parametrize("seconds", [TARGET / 10, TARGET, TARGET * 2])
def test_a_hundred_thousand_rows_are_gone_within_about_a_minute(seconds: float) -> None:
    """Even where each batch takes twice as long as it should, however small it is."""
    progress, spent = Progress(MOST, exact=False), 0.0
    while progress.deleted < 100_000:
        spent += seconds + full(progress, seconds)

    assert spent < 75


def test_it_is_done_when_a_batch_has_left_something_out() -> None:
    progress = Progress(MOST, exact=False)

    full(progress, TARGET)
    assert not progress.done
    assert progress.note(progress.limit - 1, TARGET) == 0

    assert progress.done
    assert progress.deleted == 2 * FIRST - 1


def test_the_whole_table_comes_after_the_index_in_the_largest_batches() -> None:
    """Each of them looks through the whole table, however few rows it takes."""
    progress = Progress(MOST, exact=True)

    progress.note(7, TARGET * 10)
    assert (progress.whole, progress.done) == (True, False)
    assert limits(progress, TARGET * 10, 3) == [MOST] * 3
    progress.note(0, TARGET)

    assert progress.done
    assert progress.deleted == 7 + 3 * MOST
