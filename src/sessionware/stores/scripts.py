"""Each store operation as SQL on a connection; the same for threads and for ``AsyncEngine``.

Connections come in AUTOCOMMIT: a single statement needs no BEGIN and COMMIT round trips. What takes
more than one statement runs in ``_transaction``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql import Executable

from ..errors import ConfigurationError, DuplicateKey, Finding
from .protocol import PURGE_LEASE, RETIRED, Decision, Found, Row, Stamp
from .schema import Schema

_MOST_PARAMETERS = 500


class Scripts:
    """The statements, built once, and the operations made of them."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        sessions = schema.sessions.c
        retired = schema.retired.c
        self._row = select(*(sessions[name] for name in Row._fields))
        self._load = self._row.where(sessions.sid_hash == bindparam("hash"))
        self._retired = select(retired.until).where(retired.sid_hash == bindparam("hash"))
        self._reload = self._row.where(sessions.id == bindparam("row_id"))
        self._lock = self._reload.with_for_update()
        self._stamp = select(*(sessions[name] for name in Stamp._fields)).where(
            sessions.sid_hash == bindparam("hash")
        )
        self._insert = insert(schema.sessions)
        guarded = and_(
            sessions.id == bindparam("row_id"),
            sessions.version == bindparam("old_version"),
            sessions.epoch == bindparam("old_epoch"),
            sessions.expires_at > bindparam("now"),
        )
        times: tuple[str, ...] = ("last_seen", "expires_at")
        content: tuple[str, ...] = (
            "version",
            "epoch",
            "user_id",
            "data",
            "authenticated_at",
            "ip",
            "user_agent",
        )
        content = (*content, *times)
        self._replace = self._variants(guarded, content)
        self._rotate = self._variants(guarded, ("sid_hash", *content))
        self._overwrite = self._variants(sessions.id == bindparam("row_id"), ("sid_hash", *content))
        self._touch = self._variants(
            and_(
                sessions.id == bindparam("row_id"),
                sessions.sid_hash == bindparam("old_hash"),
                sessions.version == bindparam("old_version"),
                sessions.last_seen < bindparam("seen"),
                sessions.expires_at > bindparam("now"),
            ),
            times,
        )
        self._retire = insert(schema.retired)

    def _variants(self, where: Any, columns: tuple[str, ...]) -> tuple[_Update, _Update]:
        """Without and with ``purge_after``: SQLite rewrites an index for a column that is only
        named.
        """

        def variant(names: tuple[str, ...]) -> _Update:
            values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
            if "version" in values:
                values.update(self._later_times())
            statement = update(self.schema.sessions).where(where).values(values)
            return _Update(statement, tuple(statement.compile().params))

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

    def load(self, connection: Connection, sid_hash: bytes, now: int) -> Found:
        found = connection.execute(self._load, {"hash": sid_hash}).first()
        if found is not None:
            return _as_row(found)
        until = connection.execute(self._retired, {"hash": sid_hash}).scalar()
        return RETIRED if until is not None and until > now else None

    def reload(self, connection: Connection, row_id: int) -> Row | None:
        found = connection.execute(self._reload, {"row_id": row_id}).first()
        return None if found is None else _as_row(found)

    def stamp(self, connection: Connection, sid_hash: bytes) -> Stamp | None:
        found = connection.execute(self._stamp, {"hash": sid_hash}).first()
        return None if found is None else Stamp._make(found)

    def user_rows(self, connection: Connection, user_id: str, now: int) -> list[Row]:
        sessions = self.schema.sessions.c
        statement = self._row.where(sessions.user_id == user_id, sessions.expires_at > now)
        found = connection.execute(
            statement.order_by(sessions.last_seen.desc(), sessions.id.desc())
        )
        # A collation that pads or folds may find more than was asked for.
        return [row for row in map(_as_row, found) if row.user_id == user_id]

    def count(self, connection: Connection, now: int) -> int:
        sessions = self.schema.sessions.c
        statement = select(func.count()).where(sessions.expires_at > now)
        return int(connection.execute(statement).scalar_one())

    def is_empty(self, connection: Connection) -> bool:
        """Whether there has never been a row; asked of SQLite only, which counts them."""
        statement = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        found = connection.exec_driver_sql(statement, (self.schema.sessions.name,))
        return not found.scalar()

    # Writing.

    def insert(self, connection: Connection, row: Row) -> int:
        values = row._asdict()
        del values["id"]
        return self._insert_unique(connection, values)

    def _insert_unique(self, connection: Connection, values: dict[str, Any]) -> int:
        try:
            result = connection.execute(self._insert, values)
        except IntegrityError:
            pass
        else:
            key = result.inserted_primary_key
            return int(key[0]) if key is not None else 0
        raise DuplicateKey("a session with this key exists")

    def replace(self, connection: Connection, old: Row, new: Row, now: int) -> bool:
        return self._write(connection, self._replace, old, new, now)

    def rotate(
        self, connection: Connection, old: Row, new: Row, now: int, retired_until: int
    ) -> bool:
        duplicate = False
        with self._transaction(connection) as end:
            try:
                if not self._write(connection, self._rotate, old, new, now):
                    end.rollback = True
                    return False
                self._bury(connection, old.sid_hash, retired_until)
            except IntegrityError:
                duplicate = end.rollback = True
        if duplicate:
            raise DuplicateKey("a session with this key exists")
        return True

    def alter(
        self,
        connection: Connection,
        row: Row,
        decide: Decision,
        now: int,
        retired_until: int,
    ) -> Any:
        with self._transaction(connection):
            found = connection.execute(self._lock, {"row_id": row.id}).first()
            old = None if found is None else _as_row(found)
            new, result = decide(old)
            if old is None or new is None:
                return result
            if new == "delete":
                self.remove(connection, row)
                return result
            self._write(connection, self._overwrite, old, new, now)
            if new.sid_hash != old.sid_hash:
                self._bury(connection, old.sid_hash, retired_until)
            return result

    def touch(self, connection: Connection, old: Row, new: Row, now: int) -> bool:
        return self._write(connection, self._touch, old, new, now)

    def remove(
        self,
        connection: Connection,
        row: Row,
        version: int | None = None,
        epoch: int | None = None,
    ) -> bool:
        sessions = self.schema.sessions.c
        statement = delete(self.schema.sessions).where(sessions.id == bindparam("row_id"))
        if version is not None:
            statement = statement.where(sessions.version == version)
        if epoch is not None:
            statement = statement.where(sessions.epoch == epoch)
        return bool(connection.execute(statement, {"row_id": row.id}).rowcount)

    def remove_user(
        self, connection: Connection, user_id: str, keep: int | None = None
    ) -> list[bytes]:
        sessions = self.schema.sessions.c
        statement = select(sessions.id, sessions.sid_hash, sessions.user_id).where(
            sessions.user_id == user_id
        )
        if keep is not None:
            statement = statement.where(sessions.id != keep)
        hashes: list[bytes] = []
        # Again until there is none: a login may have come in between.
        while True:
            found = [row for row in connection.execute(statement) if row.user_id == user_id]
            if not found:
                return hashes
            gone = self._delete_returning(connection, found, sessions.user_id == user_id)
            hashes.extend(gone)

    def _delete_returning(
        self, connection: Connection, rows: list[Any], condition: Any
    ) -> list[bytes]:
        """The hashes of what was deleted: a rotation may have come in between."""
        sessions = self.schema.sessions
        ids = [row.id for row in rows]
        hashes: list[bytes] = []
        if not connection.dialect.delete_returning:
            with self._transaction(connection):
                for part in _parts(ids):
                    chosen = select(sessions.c.sid_hash).where(sessions.c.id.in_(part), condition)
                    hashes.extend(connection.execute(chosen.with_for_update()).scalars())
                self._delete_ids(connection, ids, condition)
            return hashes
        for part in _parts(ids):
            statement = delete(sessions).where(sessions.c.id.in_(part), condition)
            deleted = connection.execute(statement.returning(sessions.c.sid_hash))
            hashes.extend(deleted.scalars())
        return hashes

    def remove_all(self, connection: Connection) -> int:
        return connection.execute(delete(self.schema.sessions)).rowcount

    # Purging.

    # Leases are rows among the retired hashes: that works on every database, through any pooler.

    def claim(self, connection: Connection, key: bytes, now: int, until: int) -> bool:
        # Whoever waits for a lease asks often: looking takes no lock.
        held = connection.execute(self._retired, {"hash": key}).scalar()
        if held is not None:
            retired = self.schema.retired
            claim = update(retired).where(retired.c.sid_hash == key, retired.c.until <= now)
            return held <= now and bool(connection.execute(claim.values(until=until)).rowcount)
        try:
            self._bury(connection, key, until)
        except IntegrityError:
            return False
        return True

    def release(self, connection: Connection, key: bytes, until: int) -> bool:
        retired = self.schema.retired
        statement = delete(retired).where(retired.c.sid_hash == key, retired.c.until == until)
        return bool(connection.execute(statement).rowcount)

    def notify(self, connection: Connection, channel: str, payload: str) -> None:
        """Tell who listens on a channel (PostgreSQL), in a transaction of its own."""
        connection.execute(select(func.pg_notify(channel, payload)))

    def purge(self, connection: Connection, now: int, limit: int, exact: bool = False) -> int:
        sessions = self.schema.sessions.c
        spent: ColumnElement[bool] = sessions.expires_at <= now
        order: ColumnElement[int] = sessions.id
        if not exact:
            spent, order = and_(spent, sessions.purge_after <= now), sessions.purge_after
        candidates = select(sessions.id).where(spent).order_by(order).limit(limit)
        ids = sorted(connection.execute(candidates).scalars())
        deleted = self._delete_ids(connection, ids, spent)
        retired = self.schema.retired.c
        statement = select(retired.sid_hash).where(
            retired.until <= now, retired.sid_hash != PURGE_LEASE
        )
        hashes = sorted(connection.execute(statement.limit(limit)).scalars())
        for part in _parts(hashes):
            # A lease that has run out may have been taken again meanwhile.
            removal = delete(self.schema.retired).where(retired.sid_hash.in_(part))
            connection.execute(removal.where(retired.until <= now))
        return deleted

    def _delete_ids(self, connection: Connection, ids: list[int], condition: Any) -> int:
        sessions = self.schema.sessions
        deleted = 0
        for part in _parts(ids):
            statement = delete(sessions).where(sessions.c.id.in_(part), condition)
            deleted += connection.execute(statement).rowcount
        return deleted

    # Shared pieces.

    def _bury(self, connection: Connection, sid_hash: bytes, until: int) -> None:
        connection.execute(self._retire, {"sid_hash": sid_hash, "until": until})

    def _write(
        self,
        connection: Connection,
        variants: tuple[_Update, _Update],
        old: Row,
        new: Row,
        now: int,
    ) -> bool:
        parameters: dict[str, Any] = {f"new_{name}": value for name, value in new._asdict().items()}
        parameters.update(
            row_id=old.id,
            old_hash=old.sid_hash,
            old_version=old.version,
            old_epoch=old.epoch,
            seen=new.last_seen,
            grows=int(new.expires_at >= old.expires_at),
            now=now,
        )
        chosen = variants[new.purge_after != old.purge_after]
        values = {name: parameters[name] for name in chosen.parameters}
        return bool(connection.execute(chosen.statement, values).rowcount)

    @contextmanager
    def _transaction(self, connection: Connection) -> Iterator[_End]:
        end = _End()
        if connection.dialect.name == "sqlite":
            # An application's engine may begin one by itself, as SQLAlchemy's documentation has it.
            if not connection.in_transaction():
                connection.begin()
            if getattr(connection.connection.driver_connection, "in_transaction", False):
                connection.exec_driver_sql("ROLLBACK")
            # A deferred transaction can fail on its first write (SQLITE_BUSY_SNAPSHOT).
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield end
                connection.exec_driver_sql("ROLLBACK" if end.rollback else "COMMIT")
            except BaseException:
                # SQLite may have rolled back by itself.
                with suppress(DBAPIError):
                    connection.exec_driver_sql("ROLLBACK")
                raise
            return
        if connection.in_transaction():
            connection.rollback()
        connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin() as transaction:
            yield end
            if end.rollback:
                transaction.rollback()

    def create(self, connection: Connection) -> None:
        """Create what is missing; several processes may do so at once."""
        for table in (self.schema.sessions, self.schema.retired):
            if connection.dialect.has_table(connection, table.name, table.schema):
                continue
            try:
                with self._transaction(connection):
                    connection.execute(CreateTable(table, if_not_exists=True))
                    for index in sorted(table.indexes, key=lambda index: str(index.name)):
                        connection.execute(CreateIndex(index))
            except DBAPIError:
                # Another process was quicker: PostgreSQL can fail in spite of IF NOT EXISTS.
                if not connection.dialect.has_table(connection, table.name, table.schema):
                    raise
        self._check_columns(connection)

    def check(self, connection: Connection) -> None:
        """Raise ``ConfigurationError`` unless both tables are there."""
        missing = [
            table.name
            for table in (self.schema.sessions, self.schema.retired)
            if not connection.dialect.has_table(connection, table.name, table.schema)
        ]
        if not missing:
            self._check_columns(connection)
            return
        raise ConfigurationError(
            [
                Finding(
                    "SW026",
                    "create_table",
                    f"table {missing[0]!r} is not in the database.",
                    "set create_table=True, or create it with your migrations "
                    "(docs/schema.md has the Alembic recipe).",
                )
            ]
        )

    def _check_columns(self, connection: Connection) -> None:
        """Raise ``ConfigurationError`` if a table of this name is somebody else's."""
        for table in (self.schema.sessions, self.schema.retired):
            found = connection.dialect.get_columns(connection, table.name, table.schema)
            missing = sorted(set(table.c.keys()) - {column["name"] for column in found})
            if missing:
                raise ConfigurationError(
                    [
                        Finding(
                            "SW027",
                            "table_name",
                            f"table {table.name!r} has no column {missing[0]!r}: it was made by "
                            "something else, or by another version.",
                            "give another table_name, or migrate it (docs/schema.md).",
                        )
                    ]
                )


class _Update(NamedTuple):
    """An UPDATE and the names of the parameters it takes."""

    statement: Executable
    parameters: tuple[str, ...]


class _End:
    """How a transaction shall end."""

    rollback = False


def _as_row(found: Any) -> Row:
    """SQLite keeps whatever was put into a column: what is not bytes is no record of ours."""
    row = Row._make(found)
    return row if type(row.data) is bytes else row._replace(data=b"")


def _parts(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _MOST_PARAMETERS):
        yield items[start : start + _MOST_PARAMETERS]
