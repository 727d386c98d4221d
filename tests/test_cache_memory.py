"""The memory of a process's cache, as the allocator sees it: per session, and within its limit."""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from sessionware.cache import RowCache
from sessionware.cookies import CookieReader, Recognizer
from sessionware.records import HEADER_BYTES
from sessionware.stores.protocol import RETIRED, Row
from sessionware.tokens import Tokens, new_id
from tests.apps import SECRET
from tests.byhand import NOON

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[Callable[[], int]]:
    """What was allocated since the test began."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()


def loaded(number: int, size: int, login: bool, texts: tuple[str | None, ...]) -> tuple[bytes, Row]:
    """A key and a row as a database driver gives it: every value an object of its own."""
    sid_hash = os.urandom(32)
    user, ip, agent = (None if text is None else f"{text}{number}" for text in texts)
    row = Row(
        id=1_000 + number,
        sid_hash=sid_hash,
        version=1,
        epoch=0,
        user_id=user,
        data=os.urandom(size + HEADER_BYTES),
        created_at=NOON + number * 7,
        authenticated_at=NOON + number * 3 if login else None,
        last_seen=NOON + number * 11,
        expires_at=NOON + number * 13,
        purge_after=NOON + number * 17,
        ip=ip,
        user_agent=agent,
    )
    return bytes(bytearray(sid_hash)), row


def use(cache: RowCache, key: bytes, row: Row) -> None:
    """As a request does: read from the store, with a mark, then decoded."""
    mark = int.from_bytes(os.urandom(7))
    cache.fill(key, cache.token(key), row, mark)
    entry = cache.find(key)
    if entry is not None:
        cache.describe(key, entry, int.from_bytes(os.urandom(7)))


def test_a_session_of_five_hundred_bytes_takes_at_most_1228(memory: Callable[[], int]) -> None:
    cache = RowCache(ttl=3600, max_bytes=64 * MIB)
    for number in range(20_000):
        use(cache, *loaded(number, 500, False, (None, None, None)))
    gc.collect()
    assert len(cache) == 20_000
    assert memory() / len(cache) <= 1_228


SIZES = {"200 B": [200], "500 B": [500], "20 KB": [20_000], "any": [200, 200, 500, 500, 20_000]}
WHO: dict[str, list[tuple[str | None, ...]]] = {
    "anonymous": [(None, None, None)],
    "users": [("user", None, None)],
    "users and clients": [("user-", "192.0.2.", "Mozilla/5.0 (X11; Linux x86_64) " * 3)],
    "any": [(None, None, None), ("user", None, None), ("u", "192.0.2.1", "Lynx")],
}
MIXES = [
    # So many that the dicts are as empty as they get.
    ("200 B", "anonymous", 11.2),
    ("200 B", "users and clients", 8),
    ("500 B", "anonymous", 8),
    ("500 B", "users", 8),
    ("20 KB", "anonymous", 8),
    ("any", "any", 20),
]


@pytest.mark.parametrize(("sizes", "who", "mebibytes"), MIXES)
def test_it_never_takes_a_tenth_more_than_cache_max_bytes(
    memory: Callable[[], int], sizes: str, who: str, mebibytes: float
) -> None:
    """Whatever is kept beside the rows included, and whether it grows or is turned over."""
    limit = int(mebibytes * MIB)
    choose = random.Random(limit)
    cache = RowCache(ttl=3600, max_bytes=limit)
    tokens = Tokens(SECRET, [], "session")
    known = Recognizer(CookieReader("session"), tokens, limit, lambda presented: presented)
    # Enough to turn it over, and what comes beside it.
    rows = 2 * limit // (sum(SIZES[sizes]) // len(SIZES[sizes]) + 700)
    most, cached = 0, []
    for number in range(rows):
        texts = choose.choice(WHO[who])
        key, row = loaded(number, choose.choice(SIZES[sizes]), texts[0] is not None, texts)
        use(cache, key, row)
        if choose.random() < 0.2:
            cached.append((key, row.id))
        if cached and choose.random() < 0.2:
            gone, row_id = cached.pop(choose.randrange(len(cached)))
            cache.end(row_id)
            cache.bury(gone, choose.choice([None, RETIRED]), 60)
        del cached[:-50]
        if number % 4 == 0:
            cookie = f"a={number}; session={tokens.sign(new_id())}"
            known.recognize([(b"cookie", cookie.encode())])
        if number % 64 == 0:
            most = max(most, memory())
    assert cache.size <= limit
    assert 0.8 * limit < most <= 1.1 * limit, f"{most / limit:.3f} of what it may take"


def test_nothing_but_rows_takes_little(memory: Callable[[], int]) -> None:
    limit = 8 * MIB
    cache = RowCache(ttl=3600, max_bytes=limit)
    for number in range(30_000):
        cache.end(1_000 + number)
        cache.bury(os.urandom(32), None, 60)
    assert memory() < limit / 20
