"""The conformance suite: what ``stores.protocol`` says, sentence by sentence, for any store.

Derive a class from ``StoreSuite`` and give it a ``store`` fixture that yields a new, empty store;
pytest does the rest::

    import pytest
    from sessionware.testing import StoreSuite

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def store(self, tmp_path):
            return MyStore(tmp_path / "sessions")

A store of plain methods is called from threads, a store of coroutines in an event loop of the
suite's; the tests are the same. ``prepare`` is called before each test and ``close`` after it. What
else can be set, as attributes of the class:

- ``asynchronous``: True to test the coroutines of a store that has both; by default its plain
  methods.
- ``backend``: ``"asyncio"`` (the default) or ``"trio"``, whose event loop runs the coroutines.
- ``own_clock``: True for a store that answers for retired hashes by a clock of its own, as a cache
  does; the tests that look behind a tombstone's end by moving ``now`` are skipped.

What has to be made or let go of in that event loop, such as an ``AsyncEngine``, can ask for the
fixture ``portal``: an ``anyio.from_thread.BlockingPortal`` into it.

Needs pytest, which ``sessionware`` itself doesn't.
"""

from __future__ import annotations

import pytest

# Before they are imported, so that a failing assertion shows its values.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("identity", "purging", "racing", "reading", "support", "users", "writing")
    )
)

from .calls import caller  # noqa: E402
from .identity import IdentityChecks  # noqa: E402
from .purging import PurgingChecks  # noqa: E402
from .racing import RacingChecks  # noqa: E402
from .reading import ReadingChecks  # noqa: E402
from .users import UserChecks  # noqa: E402
from .writing import WritingChecks  # noqa: E402


class StoreSuite(
    ReadingChecks, WritingChecks, IdentityChecks, UserChecks, PurgingChecks, RacingChecks
):
    """Every check of the store protocol; derive from it and override ``store``."""


__all__ = ["StoreSuite", "caller"]
