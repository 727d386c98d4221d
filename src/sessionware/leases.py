"""A lease in the store: how it is taken and given back, and by whom if a request goes away."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any, Generic, NamedTuple

from .errors import Contention, OutcomeUnknown
from .flows import Call, Flow, T
from .stores.cached import CachedStore


class Lease(NamedTuple):
    """A lease in the store. ``until`` tells it from the leases of others, before and after."""

    key: bytes
    until: int


def claim(store: CachedStore, lease: Lease, now: int) -> Flow[bool]:
    """Take a lease; False if somebody holds it, or if others were in the way."""
    try:
        return (yield from store.claim_flow(lease.key, now, lease.until))
    except Contention:
        return False
    except OutcomeUnknown:
        pass
    # It may be ours, and nobody would know.
    yield from release(store, lease)
    return False


def release(store: CachedStore, lease: Lease) -> Flow[None]:
    """Give a lease back. Where the store fails it ends by itself."""
    try:
        yield from store.release_flow(lease.key, lease.until)
    except (Contention, OutcomeUnknown):
        # Giving back what is given back already does no harm.
        yield from store.release_flow(lease.key, lease.until)


class Attempt:
    """One try to take a lock, and the lease that came of it. Flows go on when the request has given
    up waiting for them, so one of the two has to see to the lease.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._ended = False
        self._writes = 0
        self.until: int | None = None

    def succeed(self, lease: Lease, until: int) -> bool:
        """Note the lease; False if nobody waits for it any more."""
        with self._lock:
            if not self._ended:
                self._lease, self.until = lease, until
            return not self._ended

    def begin_write(self) -> bool:
        """Whether a write may begin; from now on the lease waits for it."""
        with self._lock:
            if not self._ended:
                self._writes += 1
            return not self._ended

    def end_write(self, unsure: bool = False) -> Lease | None:
        """The lease, if the block has left it to this write to give it back. If the write may still
        be carried out, nobody ever does.
        """
        with self._lock:
            self._writes -= 1
            if unsure:
                self._lease = None
            return self._take() if self._ended else None

    def end(self) -> Lease | None:
        """The lease, if the block has to give it back."""
        with self._lock:
            self._ended = True
            return self._take()

    def _take(self) -> Lease | None:
        if self._writes:
            return None
        lease, self._lease = self._lease, None
        return lease


class Watched(Generic[T]):
    """A flow; and ``unsure``, whether something that it wanted may still be carried out."""

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self.unsure = False

    def run(self) -> Flow[T]:
        """The flow itself."""
        with closing(self._flow) as flow:
            answer: Any = None
            error: Exception | None = None
            while True:
                try:
                    wanted = flow.send(answer) if error is None else flow.throw(error)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                answer, error = None, None
                try:
                    answer = yield wanted
                except GeneratorExit:
                    self.unsure = self.unsure or isinstance(wanted, Call)
                    raise
                except Exception as raised:
                    self.unsure = self.unsure or isinstance(raised, OutcomeUnknown)
                    error = raised
