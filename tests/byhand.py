"""Below the frameworks: a clock, rows, and a visitor who uses a manager by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from sessionware import Session, SessionManager
from sessionware.codecs import JSONCodec
from sessionware.lifetimes import Lifetimes
from sessionware.records import RecordFormat
from sessionware.rows import Change, RowMaker
from sessionware.stores.protocol import Row

NOON: Final = 1_700_000_000_000
DAY: Final = 24 * 3600 * 1000
WEEK: Final = 7 * DAY

CODEC: Final = JSONCodec()


class Clock:
    """Milliseconds since the epoch, in place of ``sessionware.clock.now``."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


def row_maker(max_bytes: int = 65_536, **lifetimes: Any) -> RowMaker:
    """A RowMaker with plain records; ``max_age`` is a week."""
    chosen = Lifetimes(**{"max_age": WEEK, **lifetimes})
    return RowMaker(CODEC, RecordFormat(CODEC, None), chosen, max_bytes)


def change_to(content: dict[str, Any], now: int = NOON, **more: Any) -> Change:
    """A request's wish to leave this content behind."""
    payload, rich = CODEC.encode(content)
    more.setdefault("nonce", os.urandom(8))
    return Change(now=now, payload=payload, rich=rich, empty=not content, **more)


def stored(maker: RowMaker, content: dict[str, Any], now: int = NOON, **more: Any) -> Row:
    """A row as it stands after its session was first stored."""
    made = maker.first(change_to(content, now, **more), os.urandom(32), os.urandom(6))
    return made.row._replace(id=1)


def content_of(maker: RowMaker, row: Row) -> dict[Any, Any]:
    """What is stored in a row."""
    record = maker.records.read(row.data, sid_hash=row.sid_hash)
    return maker.codec.decode(record.payload, record.rich)


class Visitor:
    """A browser in front of code that calls a manager by hand. Keeps the cookie as browsers do."""

    def __init__(self, manager: SessionManager, cookie: str | None = None) -> None:
        self.manager = manager
        self.cookie = cookie

    def open(self) -> Session:
        return self.manager.open(self.cookie)

    def close(self, session: Session, *, failed: bool = False) -> dict[str, str]:
        return self.keep(self.manager.close(session, failed=failed))

    def visit(self, act: Callable[[Session], object] = len) -> dict[str, str]:
        """One request; the response's headers. Reads if it isn't told what to do."""
        session = self.open()
        act(session)
        return self.close(session)

    async def avisit(self, act: Callable[[Session], object] = len) -> dict[str, str]:
        session = await self.manager.aopen(self.cookie)
        act(session)
        return self.keep(await self.manager.aclose(session))

    def content(self) -> dict[Any, Any]:
        """What the session holds now."""
        return dict(self.open())

    def keep(self, headers: list[tuple[str, str]]) -> dict[str, str]:
        found = dict(headers)
        assert len(found) == len(headers), "a header was sent twice"
        set_cookie = found.get("Set-Cookie")
        if set_cookie is not None:
            self.cookie = None if "expires=" in set_cookie else set_cookie.partition(";")[0]
        return found


def storing(**content: Any) -> Callable[[Session], None]:
    """For ``visit``: stores these keys."""
    return lambda session: session.update(content)


def expiring(value: Any, **content: Any) -> Callable[[Session], None]:
    """For ``visit``: stores these keys and sets the expiry."""

    def act(session: Session) -> None:
        session.update(content)
        session.set_expiry(value)

    return act


def login(user: Any) -> Callable[[Session], None]:
    """For ``visit``: logs a user in."""
    return storing(user_id=user)


def deleting(*keys: str) -> Callable[[Session], None]:
    """For ``visit``: deletes these keys."""

    def act(session: Session) -> None:
        for key in keys:
            del session[key]

    return act


def in_turn(*acts: Callable[[Session], object]) -> Callable[[Session], None]:
    """For ``visit``: one act after the other."""

    def act(session: Session) -> None:
        for each in acts:
            each(session)

    return act
