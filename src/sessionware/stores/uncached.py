"""What a store is asked past the cache."""

from __future__ import annotations

from typing import Any

from ..flows import Call, Flow, T, twins
from .protocol import Row, Stamp


class Uncached:
    """The part of a ``CachedStore`` that the cache has no part in."""

    store: Any

    def run(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    async def arun(self, flow: Flow[T], /) -> T:
        raise NotImplementedError

    def offers(self, method: str) -> bool:
        """Whether the store has a method, or its twin, that it may leave out."""
        return hasattr(self.store, method) or hasattr(self.store, "a" + method)

    def prepare_flow(self) -> Flow[None]:
        """Make the store ready; every use does so by itself."""
        yield Call("prepare")

    def look_after_flow(self) -> Flow[None]:
        """Look after the channel, where that is due."""
        yield Call("look_after_stamps")

    def reload_flow(self, row_id: int) -> Flow[Row | None]:
        """See ``Store.reload``; never from the cache."""
        answer: Row | None = yield Call("reload", (row_id,))
        return answer

    def stamp_flow(self, sid_hash: bytes) -> Flow[Stamp | None]:
        """See ``Store.stamp``; never from the cache."""
        answer: Stamp | None = yield Call("stamp", (sid_hash,))
        return answer

    def user_rows_flow(self, user_id: str, now: int) -> Flow[list[Row]]:
        """See ``Store.user_rows``; never from the cache."""
        answer: list[Row] = yield Call("user_rows", (user_id, now))
        return answer

    def count_flow(self, now: int) -> Flow[int]:
        """See ``Store.count``."""
        answer: int = yield Call("count", (now,))
        return answer

    def claim_flow(self, key: bytes, now: int, until: int) -> Flow[bool]:
        """See ``Store.claim``."""
        answer: bool = yield Call("claim", (key, now, until))
        return answer

    def take_over_flow(self, key: bytes, now: int, until: int, latest: int) -> Flow[bool]:
        """See ``Store.claim``, which takes its place where the store has none of its own."""
        if not self.offers("take_over"):
            return (yield from self.claim_flow(key, now, until))
        answer: bool = yield Call("take_over", (key, now, until, latest))
        return answer

    def release_flow(self, key: bytes, until: int) -> Flow[bool]:
        """See ``Store.release``."""
        answer: bool = yield Call("release", (key, until))
        return answer

    def purge_flow(self, now: int, limit: int, exact: bool = False) -> Flow[int]:
        """See ``Store.purge``; what it deletes has expired, and no cached row outlives that."""
        answer: int = yield Call("purge", (now, limit, True) if exact else (now, limit))
        return answer

    def purge_retired_flow(self, now: int, limit: int) -> Flow[int]:
        """See ``Store.purge``; 0 where the store has left none."""
        if not self.offers("purge_retired"):
            return 0
        answer: int = yield Call("purge_retired", (now, limit))
        return answer

    prepare, aprepare = twins(prepare_flow)
    look_after, alook_after = twins(look_after_flow)
    reload, areload = twins(reload_flow)
    stamp, astamp = twins(stamp_flow)
    user_rows, auser_rows = twins(user_rows_flow)
    count, acount = twins(count_flow)
    claim, aclaim = twins(claim_flow)
    take_over, atake_over = twins(take_over_flow)
    release, arelease = twins(release_flow)
    purge, apurge = twins(purge_flow)
    purge_retired, apurge_retired = twins(purge_retired_flow)
