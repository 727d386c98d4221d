"""What tests of every channel share."""

from __future__ import annotations

import time
from collections.abc import Callable

from sessionware import SessionManager
from tests.byhand import Visitor, storing

PATIENCE = 10


def until(holds: Callable[[], object], patience: float = PATIENCE) -> float:
    """Wait until it holds; the seconds that it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < patience, "what the test waits for never came"
        time.sleep(0.001)
    return time.monotonic() - began


def session(manager: SessionManager, **content: object) -> str:
    """The cookie of a new session."""
    visitor = Visitor(manager)
    visitor.visit(storing(**content))
    assert visitor.cookie is not None
    return visitor.cookie


def content(manager: SessionManager, cookie: str) -> dict[object, object]:
    """What a request with this cookie finds."""
    return Visitor(manager, cookie).content()


def change(manager: SessionManager, cookie: str, **more: object) -> None:
    """A request that stores these keys."""
    Visitor(manager, cookie).visit(storing(**more))


def logout(manager: SessionManager, cookie: str) -> None:
    Visitor(manager, cookie).visit(lambda session: session.invalidate())


def warm(manager: SessionManager, cookie: str) -> None:
    """Read until it is served without asking the database."""
    sid_hash = _hash(manager, cookie)

    def unasked() -> bool:
        content(manager, cookie)
        return manager.store.fresh(sid_hash) is not None

    until(unasked)


def served_unasked(manager: SessionManager, cookie: str) -> bool:
    """Whether a request with this cookie would be served without asking the database."""
    return manager.store.fresh(_hash(manager, cookie)) is not None


def unmoved(manager: SessionManager, cookie: str) -> bool:
    """Whether the session is cached, and its slot has not moved since."""
    sid_hash = _hash(manager, cookie)
    entry = manager.store.cache.get(sid_hash)
    return entry is not None and entry.mark == manager.store.channel.mark(sid_hash) is not None


def seconds_until_seen(here: SessionManager, there: SessionManager) -> list[float]:
    """How long ``there`` did not see each of forty changes and a logout that ``here`` made, while
    it had the session in its cache. What ``here`` wrote stays in its own.
    """
    cookie = session(here, n=0)
    warm(here, cookie)
    took: list[float] = []
    for number in range(1, 41):
        warm(there, cookie)
        change(here, cookie, n=number)
        took.append(until(lambda number=number: content(there, cookie) == {"n": number}))  # type: ignore[misc]
        assert served_unasked(here, cookie), "its own message evicts nothing"
    warm(there, cookie)
    logout(here, cookie)
    took.append(until(lambda: content(there, cookie) == {}))
    return took


def survive_a_restart(
    here: SessionManager,
    there: SessionManager,
    stop: Callable[[], object],
    start: Callable[[], object],
) -> None:
    """The channel's server goes and comes back: nothing stale meanwhile, and nothing afterwards."""
    cookie = session(here, n=1)
    warm(here, cookie)
    warm(there, cookie)
    stop()
    until(lambda: not (here.store.channel.alive or there.store.channel.alive), patience=1)
    start()
    change(here, cookie, n=2)
    assert content(there, cookie) == {"n": 2}
    warm(there, cookie)
    warm(here, cookie)
    change(there, cookie, n=3)
    until(lambda: content(here, cookie) == {"n": 3}, patience=1)


def _hash(manager: SessionManager, cookie: str) -> bytes:
    presented = manager.identify(manager.cookies.values([cookie.encode()]))
    assert presented.sid_hash is not None
    return presented.sid_hash
