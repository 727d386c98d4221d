"""The cache: nothing old comes back through it, and it takes no more memory than it says."""

from __future__ import annotations

import gc
import os
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sessionware.cache import ENTRY_OVERHEAD, Entry, RowCache, _stripe
from sessionware.codecs import UNTOLD
from sessionware.stores.protocol import RETIRED, Row
from tests.byhand import NOON

KEY, OTHER = b"k" * 32, b"o" * 32


class Timer:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def cache(timer: Timer) -> RowCache:
    return RowCache(ttl=30, max_bytes=100_000, timer=timer)


def a_row(key: bytes = KEY, version: int = 1, size: int = 100) -> Row:
    return Row(1, key, version, 0, None, bytes(size), NOON, None, NOON, NOON, NOON)


def filled(cache: RowCache, row: Row | None = None) -> Row:
    row = a_row() if row is None else row
    assert cache.fill(row.sid_hash, cache.token(row.sid_hash), row)
    return row


def served(cache: RowCache, key: bytes = KEY) -> Row | None:
    """The cached row, if there is one."""
    entry = cache.get(key)
    return None if entry is None else entry.row


def test_what_was_filled_is_there_itself(cache: RowCache) -> None:
    row = filled(cache)
    assert served(cache) is row
    assert cache.get(OTHER) is None
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 1)


def test_an_entry_lives_for_its_ttl_from_its_filling_on(cache: RowCache, timer: Timer) -> None:
    row = filled(cache)
    timer.now += 29.999
    assert served(cache) is row
    timer.now += 0.001
    assert cache.get(KEY) is None
    assert (len(cache), cache.size) == (0, 0)


INTERFERENCES: dict[str, Callable[[RowCache], object]] = {
    "an invalidation": lambda cache: cache.invalidate(KEY),
    "a write": lambda cache: cache.settle(KEY, cache.begin_write(KEY), a_row(version=2)),
    "an end": lambda cache: cache.bury(KEY, None, 60),
    "a rotation": lambda cache: cache.bury(KEY, RETIRED, 60),
    "the end of all": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("interfere", INTERFERENCES.values(), ids=INTERFERENCES)
def test_a_fill_that_began_before_it_is_dropped_after(
    cache: RowCache, interfere: Callable[[RowCache], object]
) -> None:
    token = cache.token(KEY)
    old = a_row()
    interfere(cache)
    assert not cache.fill(KEY, token, old)
    assert served(cache) is not old


@pytest.mark.parametrize("interfere", INTERFERENCES.values(), ids=INTERFERENCES)
def test_a_write_that_overlapped_with_it_leaves_nothing_cached(
    cache: RowCache, interfere: Callable[[RowCache], object]
) -> None:
    """Which of the two committed last, nobody knows here."""
    token = cache.begin_write(KEY)
    interfere(cache)
    cache.settle(KEY, token, a_row(version=3))
    assert cache.get(KEY) is None


@pytest.mark.parametrize("interfere", INTERFERENCES.values(), ids=INTERFERENCES)
def test_what_was_cached_is_replaced_or_gone_after(
    cache: RowCache, interfere: Callable[[RowCache], object]
) -> None:
    old = filled(cache)
    interfere(cache)
    assert served(cache) is not old


def test_a_fill_for_another_key_is_not_disturbed(cache: RowCache) -> None:
    token = cache.token(OTHER)
    filled(cache)
    cache.invalidate(KEY)
    assert cache.fill(OTHER, token, a_row(OTHER))


def test_two_fills_at_once_both_hold(cache: RowCache) -> None:
    tokens = cache.token(KEY), cache.token(KEY)
    assert [cache.fill(KEY, token, a_row()) for token in tokens] == [True, True]


def test_a_write_caches_what_it_wrote(cache: RowCache) -> None:
    row = a_row(version=2)
    cache.settle(KEY, cache.begin_write(KEY), row)
    assert served(cache) is row


def keys_of_one_stripe() -> tuple[bytes, bytes]:
    seen: dict[int, bytes] = {}
    for number in range(100_000):
        key = number.to_bytes(32, "big")
        stripe = _stripe(key)
        if stripe in seen:
            return seen[stripe], key
        seen[stripe] = key
    raise AssertionError("there are fewer stripes than that")


def test_writes_of_different_keys_do_not_evict_each_other_whatever_stripe_they_have(
    cache: RowCache,
) -> None:
    keys = keys_of_one_stripe()
    tokens = [cache.begin_write(key) for key in keys]
    rows = [a_row(key, 2) for key in keys]
    for key, token, row in zip(keys, tokens, rows, strict=True):
        cache.settle(key, token, row)
    assert [served(cache, key) for key in keys] == rows


def test_while_one_of_two_writes_is_under_way_nothing_is_served(cache: RowCache) -> None:
    filled(cache)
    first, second = cache.begin_write(KEY), cache.begin_write(KEY)
    cache.settle(KEY, first, a_row(version=2))
    cache.fill(KEY, cache.token(KEY), a_row(version=2))
    assert cache.get(KEY) is None
    last = a_row(version=3)
    cache.settle(KEY, second, last)
    assert served(cache) is last


@pytest.mark.parametrize("interfere", INTERFERENCES.values(), ids=INTERFERENCES)
def test_what_is_new_is_cached_unless_it_was_ended_meanwhile(
    cache: RowCache, interfere: Callable[[RowCache], object]
) -> None:
    row = a_row()
    cache.fill(KEY, cache.token(KEY), row, snapshot=UNTOLD)
    entry = cache.get(KEY)
    assert entry is not None
    assert (entry.row, entry.snapshot) == (row, UNTOLD)
    token = cache.token(KEY)
    interfere(cache)
    cache.fill(KEY, token, row, snapshot=UNTOLD)
    assert served(cache) is not row


class TestMarks:
    """What an entry is judged by; where it comes from and what it means, the channel knows."""

    def test_an_entry_has_the_mark_of_its_filling_or_writing(self, cache: RowCache) -> None:
        cache.fill(KEY, cache.token(KEY), a_row(), 4)
        assert mark(cache) == 4
        cache.settle(KEY, cache.begin_write(KEY), a_row(version=2), 6)
        assert mark(cache) == 6
        filled(cache, a_row(version=3))
        assert mark(cache) is None

    def test_later_times_leave_the_mark(self, cache: RowCache) -> None:
        cache.fill(KEY, cache.token(KEY), a_row(), 4)
        cache.retime(KEY, a_row()._replace(last_seen=NOON + 5))
        assert mark(cache) == 4

    def test_a_confirmed_entry_gets_a_new_mark_and_no_longer_life(
        self, cache: RowCache, timer: Timer
    ) -> None:
        cache.fill(KEY, cache.token(KEY), a_row(), 4)
        timer.now += 20
        entry = cache.get(KEY)
        assert entry is not None
        cache.confirm(KEY, entry, 6)
        assert mark(cache) == 6
        timer.now += 10
        assert cache.get(KEY) is None

    @pytest.mark.parametrize("interfere", INTERFERENCES.values(), ids=INTERFERENCES)
    def test_a_confirmation_of_what_was_replaced_meanwhile_is_dropped(
        self, cache: RowCache, interfere: Callable[[RowCache], object]
    ) -> None:
        cache.fill(KEY, cache.token(KEY), a_row(), 4)
        entry = cache.get(KEY)
        assert entry is not None
        interfere(cache)
        cache.confirm(KEY, entry, 6)
        after = cache.get(KEY)
        assert after is None or (after.row.version, after.mark) == (2, None)


def mark(cache: RowCache) -> int | None:
    entry = cache.get(KEY)
    assert entry is not None
    return entry.mark


class TestTombstones:
    @pytest.mark.parametrize("answer", [None, RETIRED])
    def test_one_gives_its_answer_for_its_time(
        self, cache: RowCache, timer: Timer, answer: None
    ) -> None:
        cache.bury(KEY, answer, 60)
        timer.now += 59.999
        assert cache.tombstone(KEY) == (answer,)
        timer.now += 0.001
        assert cache.tombstone(KEY) is None

    def test_what_is_buried_cannot_be_filled_even_with_a_new_token(self, cache: RowCache) -> None:
        cache.bury(KEY, None, 60)
        assert not cache.fill(KEY, cache.token(KEY), a_row())

    def test_what_is_unburied_can(self, cache: RowCache) -> None:
        cache.bury(KEY, None, 60)
        cache.unbury(KEY)
        cache.unbury(OTHER)
        assert cache.tombstone(KEY) is None
        filled(cache)

    def test_when_its_time_has_passed_the_key_can_be_filled(
        self, cache: RowCache, timer: Timer
    ) -> None:
        cache.bury(KEY, None, 60)
        timer.now += 60
        assert cache.tombstone(KEY) is None
        filled(cache)

    def test_a_key_without_one_has_none(self, cache: RowCache) -> None:
        filled(cache)
        assert cache.tombstone(KEY) is None

    def test_no_number_of_dead_ids_evicts_a_live_entry(self, cache: RowCache) -> None:
        row = filled(cache)
        for number in range(70_000):
            cache.bury(number.to_bytes(32, "big"), None, 60)
        assert served(cache) is row
        assert cache.tombstone((0).to_bytes(32, "big")) is None
        assert cache.tombstone((69_999).to_bytes(32, "big")) == (None,)


class TestTimes:
    def test_later_times_replace_those_of_the_same_version(
        self, cache: RowCache, timer: Timer
    ) -> None:
        row = filled(cache)
        timer.now += 20
        touched = row._replace(last_seen=NOON + 5)
        cache.retime(KEY, touched)
        assert served(cache) is touched
        timer.now += 10
        assert cache.get(KEY) is None, "a touch does not prolong the entry"

    def test_times_of_another_version_are_not_taken_over(self, cache: RowCache) -> None:
        row = filled(cache)
        cache.retime(KEY, a_row(version=2))
        assert served(cache) is row

    def test_times_alone_do_not_fill_the_cache(self, cache: RowCache) -> None:
        cache.retime(KEY, a_row())
        assert cache.get(KEY) is None


class TestBounds:
    def test_the_least_lately_used_entry_goes_first(self) -> None:
        cache = RowCache(ttl=30, max_bytes=3 * (ENTRY_OVERHEAD + 100))
        keys = [bytes([number]) * 32 for number in range(4)]
        for key in keys[:3]:
            filled(cache, a_row(key))
        cache.get(keys[0])
        filled(cache, a_row(keys[3]))
        assert [cache.get(key) is not None for key in keys] == [True, False, True, True]

    def test_a_row_that_is_larger_than_all_is_not_cached_and_evicts_nothing_else(
        self, cache: RowCache
    ) -> None:
        filled(cache)
        filled(cache, a_row(OTHER))
        huge = a_row(size=100_001)
        assert not cache.fill(KEY, cache.token(KEY), huge)
        cache.settle(KEY, cache.begin_write(KEY), huge)
        assert cache.get(KEY) is None
        assert cache.get(OTHER) is not None

    @pytest.mark.parametrize(("ttl", "max_bytes"), [(0, 100_000), (30, 0), (0, 0)])
    def test_without_time_or_room_it_is_off(self, ttl: float, max_bytes: int) -> None:
        cache = RowCache(ttl=ttl, max_bytes=max_bytes)
        assert not cache.enabled
        assert not cache.fill(KEY, cache.token(KEY), a_row())
        cache.settle(KEY, cache.begin_write(KEY), a_row())
        assert cache.get(KEY) is None
        cache.bury(KEY, RETIRED, 60)
        assert cache.tombstone(KEY) == (RETIRED,)

    def test_the_size_is_that_of_the_entries(self, cache: RowCache) -> None:
        filled(cache, a_row(size=10))
        filled(cache, a_row(OTHER, size=20))
        assert cache.size == 30 + 2 * ENTRY_OVERHEAD
        cache.settle(KEY, cache.begin_write(KEY), a_row(size=1))
        assert cache.size == 21 + 2 * ENTRY_OVERHEAD
        cache.clear()
        assert cache.size == len(cache) == 0


def test_after_a_fork_it_is_empty_and_unlocked(cache: RowCache) -> None:
    filled(cache)
    cache.bury(OTHER, None, 60)
    with cache._lock:
        cache.after_fork()
        assert cache.get(KEY) is None
    assert cache.tombstone(OTHER) is None
    filled(cache)


class LikeADict(RuleBasedStateMachine):
    """Against a dict that forgets nothing: the cache may have less, but never something else."""

    keys = st.sampled_from([bytes([number]) * 32 for number in range(6)])
    sizes = st.sampled_from([0, 100, 900, 5_000])

    def __init__(self) -> None:
        super().__init__()
        self.timer = Timer()
        self.limit = 4 * (ENTRY_OVERHEAD + 300)
        self.cache = RowCache(ttl=10, max_bytes=self.limit, timer=self.timer)
        self.newest: dict[bytes, tuple[Row, float]] = {}
        self.reads: list[tuple[bytes, int, Row]] = []
        self.writes: list[tuple[bytes, int, Row]] = []
        self.versions = 0
        self.buried: set[bytes] = set()

    def row(self, key: bytes, size: int) -> Row:
        self.versions += 1
        return a_row(key, self.versions, size)

    @rule(key=keys, size=sizes)
    def write(self, key: bytes, size: int) -> None:
        if key in self.buried:
            return
        row = self.row(key, size)
        self.cache.settle(key, self.cache.begin_write(key), row)
        self.newest[key] = row, self.timer.now

    @rule(key=keys)
    def begin_to_write(self, key: bytes) -> None:
        """What is written now may be committed at any time later."""
        if key in self.newest:
            self.writes.append((key, self.cache.begin_write(key), self.newest[key][0]))

    @rule(number=st.integers(0, 5), size=sizes)
    def a_write_is_committed(self, number: int, size: int) -> None:
        """If nobody was quicker."""
        if not self.writes:
            return
        key, token, old = self.writes.pop(number % len(self.writes))
        if key in self.newest and self.newest[key][0] is old:
            row = self.row(key, size)
            self.newest[key] = row, self.timer.now
            self.cache.settle(key, token, row)
        else:
            self.cache.invalidate(key)

    @rule(key=keys, size=sizes)
    def begin_to_read(self, key: bytes, size: int) -> None:
        """What is read now may arrive at any time later."""
        if key not in self.newest:
            self.newest[key] = self.row(key, size), self.timer.now
        self.reads.append((key, self.cache.token(key), self.newest[key][0]))

    @rule(number=st.integers(0, 5))
    def a_read_arrives(self, number: int) -> None:
        if self.reads:
            key, token, row = self.reads.pop(number % len(self.reads))
            if self.cache.fill(key, token, row):
                assert self.newest[key][0] is row, "an old row was cached"
                self.newest[key] = row, self.timer.now

    @rule(key=keys)
    def invalidate(self, key: bytes) -> None:
        """Another process has written."""
        self.cache.invalidate(key)
        self.newest.pop(key, None)

    @rule(key=keys)
    def bury(self, key: bytes) -> None:
        self.cache.bury(key, None, 1_000_000)
        self.newest.pop(key, None)
        self.buried.add(key)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.newest.clear()

    @rule(seconds=st.floats(0, 6))
    def time_passes(self, seconds: float) -> None:
        self.timer.now += seconds

    @rule(key=keys)
    def read(self, key: bytes) -> None:
        row = served(self.cache, key)
        if row is not None:
            newest, since = self.newest[key]
            assert row is newest
            assert self.timer.now < since + 10
            assert key not in self.buried

    @invariant()
    def it_keeps_to_its_limit(self) -> None:
        assert 0 <= self.cache.size <= self.limit


TestLikeADict = LikeADict.TestCase
TestLikeADict.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def interrupted(cache: RowCache, now: float, act: Callable[[], object]) -> Entry | None:
    """What is found where another thread acts in the midst of it, as the time is looked at."""

    def look() -> float:
        cache._timer = lambda: now
        act()
        return now

    cache._timer = look
    return cache.find(KEY)


@pytest.mark.parametrize("end", [RowCache.invalidate, lambda cache, _: cache.clear()])
def test_a_hit_whose_entry_is_evicted_in_the_midst_of_it_is_one_that_came_before(
    cache: RowCache, timer: Timer, end: Callable[[RowCache, bytes], None]
) -> None:
    row = filled(cache)
    entry = interrupted(cache, timer.now, lambda: end(cache, KEY))
    assert entry is not None
    assert entry.row == row
    assert cache.find(KEY) is None
    assert (len(cache), cache.size) == (0, 0)


def test_an_entry_that_has_lapsed_does_not_take_its_successor_with_it(
    cache: RowCache, timer: Timer
) -> None:
    filled(cache)
    new = a_row(version=2)
    assert interrupted(cache, timer.now + 31, lambda: filled(cache, new)) is None
    found = cache.find(KEY)
    assert found is not None
    assert found.row == new


def test_thirty_two_threads_may_do_all_at_once() -> None:
    limit = 50 * ENTRY_OVERHEAD
    cache = RowCache(ttl=0.01, max_bytes=limit)
    keys = [bytes([number]) * 32 for number in range(64)]
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        try:
            for version in range(1_500):
                key = choose.choice(keys)
                row = a_row(key, version, choose.randrange(2_000))
                match choose.randrange(8):
                    case 0:
                        cache.settle(key, cache.begin_write(key), row)
                    case 1:
                        cache.invalidate(key)
                    case 2:
                        cache.bury(key, None, 0.001)
                    case 3:
                        cache.retime(key, row)
                    case 4:
                        cache.tombstone(key)
                    case 5 if version % 100 == 0:
                        cache.clear()
                    case 6:
                        found = served(cache, key)
                        assert found is None or found.sid_hash == key
                    case _:
                        cache.fill(key, cache.token(key), row)
                assert cache.size <= limit
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.fixture
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


ROWS = 10_000


def loaded(number: int, user: str | None, agent: str | None) -> tuple[bytes, Row]:
    """A key and a row as a database driver gives it: every value an object of its own."""
    login = None if user is None else NOON + number
    times = (NOON + number * 7, login, NOON + number * 11, NOON + number * 13, NOON + number * 17)
    sid_hash = os.urandom(32)
    row = Row(1000 + number, sid_hash, 1, 0, user, os.urandom(500), *times, None, agent)
    return bytes(bytearray(sid_hash)), row


def fill_with_users(cache: RowCache, user_length: int | None, agent_length: int | None) -> None:
    for number in range(ROWS):
        user = None if user_length is None else f"{number:0{user_length}}"
        agent = None if agent_length is None else f"{number:0{agent_length}}"
        key, row = loaded(number, user, agent)
        cache.fill(key, cache.token(key), row)


@pytest.mark.parametrize(
    ("user_length", "agent_length"),
    [(None, None), (36, None), (36, 120)],
    ids=["anonymous", "logged in", "with the client recorded"],
)
def test_the_memory_it_takes_is_within_a_tenth_of_what_it_says(
    traced: None, user_length: int | None, agent_length: int | None
) -> None:
    cache = RowCache(ttl=3600, max_bytes=64 * 1024 * 1024)
    before = tracemalloc.get_traced_memory()[0]
    fill_with_users(cache, user_length, agent_length)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    assert len(cache) == ROWS
    per_row = taken / ROWS
    said = cache.size / ROWS
    assert 0.9 <= per_row / said <= 1.1, f"{per_row:.0f} bytes a row, {said:.0f} said"
