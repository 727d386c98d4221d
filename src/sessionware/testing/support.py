"""What every check needs: the store under test, and rows to put into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..stores.protocol import Row, Store
from .calls import caller

# Milliseconds. The suite's time is its own: a store has no clock.
NOW = 1_750_000_000_000
MINUTE = 60_000
HOUR = 60 * MINUTE
# Columns of a row that the purge may delete.
SPENT = {"expires_at": NOW - HOUR, "purge_after": NOW - MINUTE}


def new_hash() -> bytes:
    """A key that no other row has."""
    return os.urandom(32)


def make_row(**changes: Any) -> Row:
    """A row that was made at ``NOW`` and lives for an hour."""
    row = Row(
        id=0,
        sid_hash=new_hash(),
        version=1,
        epoch=0,
        user_id="alice",
        data=b"some data",
        created_at=NOW,
        authenticated_at=NOW,
        last_seen=NOW,
        expires_at=NOW + HOUR,
        purge_after=NOW + HOUR + MINUTE,
        ip="192.0.2.1",
        user_agent="Mozilla/5.0",
    )
    return row._replace(**changes)


def put(store: Store, **changes: Any) -> Row:
    """Insert such a row; the row as it is stored."""
    row = make_row(**changes)
    return row._replace(id=store.insert(row))


def following(row: Row, **changes: Any) -> Row:
    """The next version of a row, with every column different that a write may change."""
    changed = row._replace(
        version=row.version + 1,
        epoch=row.epoch + 1,
        user_id="bob",
        data=b"other data",
        authenticated_at=row.last_seen + MINUTE,
        last_seen=row.last_seen + MINUTE,
        expires_at=row.expires_at + MINUTE,
        purge_after=row.purge_after + HOUR,
        ip="2001:db8::1",
        user_agent="curl/8",
    )
    return changed._replace(**changes)


def resaved(row: Row, **changes: Any) -> Row:
    """The next version of a row as most requests leave it: other content, later times, and all else
    as it was.
    """
    changed = row._replace(
        version=row.version + 1,
        data=b"new data",
        last_seen=row.last_seen + 1,
        expires_at=row.expires_at + 1,
    )
    return changed._replace(**changes)


@contextmanager
def unchanged(store: Store, row: Row) -> Iterator[None]:
    """Prove that the row is there, the same before and after."""
    assert store.load(row.sid_hash, NOW) == row
    yield
    assert store.load(row.sid_hash, NOW) == row
    assert store.reload(row.id) == row


class Checks:
    """The fixtures. ``store`` is the one to override."""

    asynchronous: bool | None = None
    backend = "asyncio"
    own_clock = False

    @pytest.fixture
    def store(self) -> Any:
        """A new and empty store."""
        raise NotImplementedError("override the `store` fixture")

    @pytest.fixture
    def portal(self) -> Iterator[BlockingPortal]:
        """The event loop in which a store's coroutines run."""
        with start_blocking_portal(self.backend) as portal:
            yield portal

    @pytest.fixture
    def subject(self, store: Any, request: pytest.FixtureRequest) -> Iterator[Store]:
        """The store under test, as one of plain methods, and ready."""
        awaited = not hasattr(store, "load") if self.asynchronous is None else self.asynchronous
        portal = request.getfixturevalue("portal") if awaited else None
        subject: Store = caller(store, portal)
        subject.prepare()
        yield subject
        subject.close()

    @pytest.fixture
    def no_own_clock(self) -> None:
        """Skip where the store reads a clock of its own."""
        if self.own_clock:
            pytest.skip("this store has a clock of its own")
