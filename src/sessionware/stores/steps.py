"""The operations that requests wait for, as scripts: one text for threads and for coroutines.

A script is a generator that yields the statement it wants executed and is sent what that gives. It
runs on a connection in AUTOCOMMIT; what takes a transaction says so itself, or is in ``scripts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Integer,
    and_,
    bindparam,
    case,
    delete,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError

from ..errors import DuplicateKey
from ..flows import Call
from .emptying import Emptying
from .many import ManySaves
from .protocol import RETIRED, Decision, Found, Row, Stamp
from .saving import CONTENT, TIMES, Larger, grows, is_plain
from .schema import Schema
from .spent import Spent
from .statements import Gives, Script, Statement, Text

# What an UPDATE is given: see ``_written``.
_WRITTEN: Final = (
    *(f"new_{name}" for name in Row._fields),
    "row_id",
    "old_hash",
    "old_version",
    "old_epoch",
    "grows",
    "now",
)
_PLAINLY_WRITTEN: Final = (
    "new_data",
    "new_last_seen",
    "new_expires_at",
    "row_id",
    "old_version",
    "old_epoch",
    "now",
)
_REPLACED: Final = (*CONTENT, *TIMES)
# What a ``datetime`` can be, and an INTEGER of SQL.
_EARLIEST: Final = -62_135_596_800_000
_LATEST: Final = 253_402_300_799_999
_INTEGER_END: Final = 2**31


class Steps:
    """The statements, built once, and the scripts made of them."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        table, sessions, retired = schema.sessions, schema.sessions.c, schema.retired.c
        rows = select(*(sessions[name] for name in Row._fields))
        by_hash = sessions.sid_hash == bindparam("hash")
        self._load = Statement(rows.where(by_hash), Gives.ROW, ("hash",))
        until = select(retired.until).where(retired.sid_hash == bindparam("hash"))
        self._retired = Statement(until, Gives.ROW, ("hash",))
        by_id = sessions.id == bindparam("row_id")
        self._reload = Statement(rows.where(by_id), Gives.ROW, ("row_id",))
        locked = rows.where(by_id).with_for_update()
        self._lock = Statement(locked, Gives.ROW, ("row_id",))
        stamp = select(*(sessions[name] for name in Stamp._fields)).where(by_hash)
        self._stamp = Statement(stamp, Gives.ROW, ("hash",))
        self._insert = Statement(insert(table), Gives.KEY, Row._fields[1:])
        guarded = and_(
            by_id,
            sessions.version == bindparam("old_version"),
            sessions.epoch == bindparam("old_epoch"),
            sessions.expires_at > bindparam("now"),
        )
        self._plain = self._plain_save(guarded)
        self._replace = self._variants(guarded, _REPLACED)
        self._rotate = self._variants(guarded, ("sid_hash", *_REPLACED))
        self._overwrite = self._variants(by_id, ("sid_hash", *_REPLACED))
        self._touch = self._variants(
            and_(
                by_id,
                sessions.sid_hash == bindparam("old_hash"),
                sessions.version == bindparam("old_version"),
                sessions.last_seen < bindparam("new_last_seen"),
                sessions.expires_at > bindparam("now"),
            ),
            TIMES,
        )
        removal = delete(table).where(by_id)
        same_version = sessions.version == bindparam("version")
        same_epoch = sessions.epoch == bindparam("epoch")
        # By whether a version and an epoch are asked for.
        self._remove = {
            (versioned, epochal): Statement(
                removal.where(*[same_version] * versioned, *[same_epoch] * epochal),
                Gives.COUNT,
                ("row_id", "version", "epoch"),
            )
            for versioned in (False, True)
            for epochal in (False, True)
        }
        self._retire = Statement(insert(schema.retired), Gives.NOTHING, ("sid_hash", "until"))
        self._many = ManySaves(schema)
        emptying = Emptying(schema)
        self.last_id = emptying.last_id
        self.next_id = emptying.next_id
        self.remove_range = emptying.remove_range
        spent = Spent(schema)
        self.purge = spent.purge
        self.purge_retired = spent.purge_retired

    def _plain_save(self, guarded: Any) -> Statement:
        sessions = self.schema.sessions.c
        one: Any = literal_column("1")
        values: dict[str, Any] = {"version": sessions.version + one, "data": bindparam("new_data")}
        for name in TIMES:
            # A touch that came between moved no version, and is not undone.
            values[name] = Larger(sessions[name], bindparam(f"new_{name}", type_=BigInteger))
        clause = update(self.schema.sessions).where(guarded).values(values)
        return Statement(clause, Gives.COUNT, _PLAINLY_WRITTEN)

    def _variants(self, where: Any, columns: tuple[str, ...]) -> tuple[Statement, Statement]:
        """Without and with ``purge_after``: SQLite rewrites an index for a column that is only
        named.
        """

        def variant(names: tuple[str, ...]) -> Statement:
            values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
            if "version" in values:
                values.update(self._later_times())
            clause = update(self.schema.sessions).where(where).values(values)
            return Statement(clause, Gives.COUNT, _WRITTEN)

        return variant(columns), variant((*columns, "purge_after"))

    def _later_times(self) -> dict[str, Any]:
        """A touch that came between moved no version, and is not undone by a save.

        Only a save that shortens the lifetime has its way with ``expires_at``.
        """
        sessions = self.schema.sessions.c
        seen = bindparam("new_last_seen", type_=BigInteger)
        ends = bindparam("new_expires_at", type_=BigInteger)
        grows = and_(
            bindparam("grows", type_=Integer) == literal_column("1"), sessions.expires_at > ends
        )
        return {
            "last_seen": case((sessions.last_seen > seen, sessions.last_seen), else_=seen),
            "expires_at": case((grows, sessions.expires_at), else_=ends),
        }

    # Reading.

    def load(self, sid_hash: bytes, now: int) -> Script[Found]:
        found = yield self._load, (sid_hash,)
        if found is not None:
            return as_row(found)
        retired = yield self._retired, (sid_hash,)
        return RETIRED if retired is not None and retired[0] > now else None

    def reload(self, row_id: int) -> Script[Row | None]:
        found = yield self._reload, (row_id,)
        return None if found is None else as_row(found)

    def lock(self, row_id: int) -> Script[Row | None]:
        """As ``reload``, and nobody else writes it until the transaction ends."""
        found = yield self._lock, (row_id,)
        return None if found is None else as_row(found)

    def stamp(self, sid_hash: bytes) -> Script[Stamp | None]:
        found = yield self._stamp, (sid_hash,)
        return None if found is None else as_stamp(found)

    # Writing.

    def insert(self, row: Row) -> Script[int]:
        try:
            key: int = yield self._insert, row[1:]
            return key
        except IntegrityError:
            pass
        raise DuplicateKey("a session with this key exists")

    def replace(self, old: Row, new: Row, now: int) -> Script[bool]:
        if is_plain(old, new):
            times = new.last_seen, new.expires_at
            values = (new.data, *times, old.id, old.version, old.epoch, now)
            return bool((yield self._plain, values))
        return bool((yield _written(self._replace, old, new, now)))

    def rotate(self, old: Row, new: Row, now: int, retired_until: int) -> Script[bool]:
        """In a transaction, which has to be rolled back if it raises."""
        try:
            if not (yield _written(self._rotate, old, new, now)):
                return False
            yield self._retire, (old.sid_hash, retired_until)
        except IntegrityError:
            pass
        else:
            return True
        raise DuplicateKey("a session with this key exists")

    def alter(self, row: Row, decide: Decision, now: int, retired_until: int) -> Script[Any]:
        """In a transaction."""
        old = yield from self.lock(row.id)
        new, result = decide(old)
        if old is None or new is None:
            return result
        if new == "delete":
            yield from self.remove(row)
            return result
        yield _written(self._overwrite, old, new, now)
        if new.sid_hash != old.sid_hash:
            yield from self.bury(old.sid_hash, retired_until)
        return result

    def in_one_statement(self, calls: Sequence[Call]) -> list[list[int]]:
        """Which saves go into one statement each, by their places: no two of one session in any,
        and so many that there are few different statements.
        """
        return self._many.parts(calls)

    def replace_many(self, saves: Sequence[tuple[Row, Row, int]]) -> Script[list[bool]]:
        """Several saves of ``in_one_statement``."""
        return self._many.replace(saves)

    def touch(self, old: Row, new: Row, now: int) -> Script[bool]:
        return bool((yield _written(self._touch, old, new, now)))

    def remove(
        self, row: Row, version: int | None = None, epoch: int | None = None
    ) -> Script[bool]:
        statement = self._remove[version is not None, epoch is not None]
        return bool((yield statement, (row.id, version, epoch)))

    def bury(self, sid_hash: bytes, until: int) -> Script[None]:
        yield self._retire, (sid_hash, until)

    # Upkeep.

    def checkpoint(self) -> Script[None]:
        """Of SQLite: copy the WAL into the file. It waits for the disk, and better here than in the
        next writer, with all the others behind it.
        """
        # It fails in a transaction, and an application's engine may begin one by itself.
        with suppress(OperationalError):
            yield Text("PRAGMA wal_checkpoint(PASSIVE)", gives=Gives.ROW)


def _written(
    variants: tuple[Statement, Statement], old: Row, new: Row, now: int
) -> tuple[Statement, tuple[Any, ...]]:
    values = (*new, old.id, old.sid_hash, old.version, old.epoch, grows(old, new), now)
    return variants[new.purge_after != old.purge_after], values


def as_row(found: Any) -> Row:
    """SQLite keeps whatever was put into a column, and every database keeps moments that
    ``datetime`` doesn't know: a row with what we can't have written is no record of ours.
    """
    row = Row._make(found)
    if type(row.data) is bytes and _is_ours(row):
        return row
    return row._replace(
        data=b"", created_at=0, authenticated_at=None, last_seen=0, expires_at=_LATEST
    )


def as_stamp(found: Any) -> Stamp | None:
    """That of such a row is none: the row itself says what is wrong with it."""
    stamp = Stamp._make(found)
    return stamp if _are_times(stamp.last_seen, stamp.expires_at) else None


def _is_ours(row: Row) -> bool:
    # Each cold read comes by here: in as few steps as there are.
    _, _, version, epoch, user_id, _, created, login, seen, expires, purge, ip, agent = row
    return (
        type(version) is type(epoch) is int
        and type(created) is type(seen) is type(expires) is type(purge) is int
        and version < _INTEGER_END
        and epoch < _INTEGER_END
        and _EARLIEST <= created <= _LATEST
        and _EARLIEST <= seen <= _LATEST
        and _EARLIEST <= expires <= _LATEST
        and _EARLIEST <= purge <= _LATEST
        and (login is None or _are_times(login))
        and (user_id is None or isinstance(user_id, str))
        and (ip is None or isinstance(ip, str))
        and (agent is None or isinstance(agent, str))
    )


def _are_times(*values: object) -> bool:
    return all(type(each) is int and _EARLIEST <= each <= _LATEST for each in values)
