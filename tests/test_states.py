"""SessionState: what is known of one session between its load and its response."""

from __future__ import annotations

from sessionware.states import SessionState
from tests.apps import Managers


def test_a_commit_works_on_a_copy_of_all_that_is_known(sqlite_url: str) -> None:
    manager = Managers()(store=sqlite_url)
    state = SessionState(manager)
    for name in SessionState.__slots__:
        if name not in ("folded", "manager"):
            # Each something else: none is left out, and none takes another's place.
            setattr(state, name, object())
    work = state.fork()
    assert work is not state
    for name in SessionState.__slots__:
        assert getattr(work, name) is getattr(state, name)
    manager.shutdown()
