"""CachedStore: what it says to its channel, and when."""

from __future__ import annotations

import pytest

from sessionware import CachedStore, MemoryStore
from sessionware.coherence.slots import Quiet
from sessionware.stores.protocol import Row, Store
from sessionware.testing.support import MINUTE, NOW, following, put


class Noting(Quiet):
    """A channel that trusts nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, ...] | None] = []

    def trusts(self, sid_hash: bytes, mark: int | None) -> bool:
        return False

    def changed(self, hashes: tuple[bytes, ...] | None) -> None:
        self.told.append(hashes)


@pytest.mark.parametrize("result", [False, True, None, "done"])
def test_a_row_that_was_altered_is_announced_whatever_its_caller_wants_to_know(
    result: object,
) -> None:
    channel = Noting()
    store = CachedStore(MemoryStore(), coherence=channel)
    plain: Store = store
    row = put(plain)

    def decide(current: Row | None) -> tuple[Row, object]:
        return following(row), result

    assert store.alter(row, decide, NOW, NOW + MINUTE) is result
    assert channel.told == [(row.sid_hash,)]
