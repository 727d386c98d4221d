"""Ending everything, in parts: no table is too large for a time-out, and others go on meanwhile."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from ..cache import RowCache
from ..errors import OutcomeUnknown, StoreUnavailable
from ..flows import Call, Flow, Part, Parts, Pause, part_twins, patiently
from ..pacing import HASTY_TARGET, Pace
from .uncached import Uncached


class Clears(Uncached):
    """The part of a ``CachedStore`` that deletes every row."""

    cache: RowCache

    def _announce(self, hashes: tuple[bytes, ...] | None) -> Call | None:
        raise NotImplementedError

    def _tell(self, hashes: tuple[bytes, ...] | None) -> Flow[None]:
        raise NotImplementedError

    @property
    def batch(self) -> int:
        """How many rows the store deletes at a time at the most."""
        return int(getattr(self.store, "purge_batch", 1000))

    def remove_all_parts(self) -> Parts[int]:
        """See ``Store.remove_all``. What begins meanwhile may stay."""
        if not self.offers("remove_some"):
            count: int = yield from self._surely(Call("remove_all"))
            return count
        pace, after, deleted = Pace(self.batch, HASTY_TARGET), 0, 0
        last: int = yield Part(self._last_id())
        removed: int
        reached: int
        while True:
            began = time.perf_counter()
            call = Call("remove_some", (after, last, pace.size))
            removed, reached = yield from self._surely(call)
            seconds = time.perf_counter() - began
            deleted += removed
            if reached >= last:
                return deleted
            if reached <= after:
                raise StoreUnavailable("this store's remove_some comes to no end")
            after = reached
            pace.note(seconds)
            # At least half of the time is the others'.
            yield Pause(seconds)

    def _last_id(self) -> Flow[int]:
        answer: int = yield Call("last_id")
        return answer

    def _surely(self, call: Call) -> Parts[Any]:
        """Deleting what is gone does no harm, so a lost answer is asked for again."""
        try:
            return (yield Part(patiently(partial(self._emptying, call))))
        except OutcomeUnknown:
            pass
        return (yield Part(patiently(partial(self._emptying, call))))

    def _emptying(self, call: Call) -> Flow[Any]:
        """Delete any rows, and let everybody know: with each part, since a part that is under way
        is done whatever becomes of the whole.
        """
        try:
            answer: Any = yield call
        except BaseException:
            self._announce(None)
            raise
        finally:
            self.cache.clear()
        yield from self._tell(None)
        return answer

    remove_all, aremove_all = part_twins(remove_all_parts)
