"""One request on a session, from the first access to the row that it leaves behind: no store."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from sessionware import Session, SessionManager
from sessionware.endings import Decided, Endings
from sessionware.plans import Insert, Rotate
from sessionware.rows import Next, RowMaker
from sessionware.states import SessionState
from sessionware.stores.protocol import Row
from tests.apps import SECRET
from tests.byhand import NOON, content_of, row_maker

MAKER: Final = row_maker()
KEYS: Final = ("user_id",)
MANAGER: Final = SessionManager(secret_key=SECRET, purge_interval=None)
"""Only for its type: nothing here goes through a manager."""

Act = Callable[[Session], object]


class Case:
    """One request on a session, new or stored, and how it ends."""

    def __init__(
        self,
        row: Row | None = None,
        *,
        maker: RowMaker = MAKER,
        user_key: tuple[str, ...] = KEYS,
        record_client: bool = False,
    ) -> None:
        self.maker = maker
        self.endings = Endings(maker, user_key, record_client)
        self.state = SessionState(MANAGER, client=("::1", "curl"))
        content: dict[Any, Any] = {}
        if row is not None:
            record = maker.records.read(row.data, sid_hash=row.sid_hash)
            self.state.row, self.state.header = row, record.header
            self.state.payload, self.state.rich = record.payload, record.rich
            content = content_of(maker, row)
        self.session = Session(content)

    def ends(self, act: Act = len, *, now: int = NOON, failed: bool = False) -> Decided:
        act(self.session)
        return self.endings.decide(self.state, self.session, now, failed=failed)

    def leaves(self, act: Act, *, now: int = NOON) -> Row:
        """The row that the request leaves behind."""
        decided = self.ends(act, now=now)
        assert decided.change is not None
        if isinstance(decided.plan, Insert):
            return self.maker.first(decided.change, os.urandom(32), os.urandom(6)).row
        change = decided.change
        if isinstance(decided.plan, Rotate):
            change = replace(change, new_hash=os.urandom(32))
        row = self.state.row
        assert row is not None
        verdict = self.maker.following(change, row, row)
        assert isinstance(verdict, Next)
        return verdict.row
