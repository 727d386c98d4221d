"""What tests of every channel share."""

from __future__ import annotations

import time
from collections.abc import Callable

from sessionware import SessionManager
from sessionware.tokens import hash_id
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


def _hash(manager: SessionManager, cookie: str) -> bytes:
    presented = manager.identify(manager.cookies.values([cookie.encode()]))
    assert presented.id is not None
    return hash_id(presented.id)
