"""The operations that no request waits for often, as SQL on a SQLAlchemy connection.

The same for threads and for ``AsyncEngine``, which lends its connections to plain code. They come
in AUTOCOMMIT: a single statement needs no BEGIN and COMMIT round trips. What takes more than one
runs in a transaction of ``Through``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from ..errors import ConfigurationError, Finding
from .executing import Through, run_script
from .protocol import PURGE_LEASE, Row
from .steps import Steps, as_row

_MOST_PARAMETERS = 500


class Scripts:
    """Each is called with a connection."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.schema = steps.schema
        self._row = select(*(self.schema.sessions.c[name] for name in Row._fields))
        self._until = select(self.schema.retired.c.until)

    # Reading.

    def user_rows(self, connection: Connection, user_id: str, now: int) -> list[Row]:
        sessions = self.schema.sessions.c
        statement = self._row.where(sessions.user_id == user_id, sessions.expires_at > now)
        found = connection.execute(
            statement.order_by(sessions.last_seen.desc(), sessions.id.desc())
        )
        # A collation that pads or folds may find more than was asked for.
        return [row for row in map(as_row, found) if row.user_id == user_id]

    def count(self, connection: Connection, now: int) -> int:
        sessions = self.schema.sessions.c
        statement = select(func.count()).where(sessions.expires_at > now)
        return int(connection.execute(statement).scalar_one())

    def is_empty(self, connection: Connection) -> bool:
        """Whether there has never been a row; asked of SQLite only, which counts them."""
        statement = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        found = connection.exec_driver_sql(statement, (self.schema.sessions.name,))
        return not found.scalar()

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
            with Through(connection).transaction():
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
        return self.take_over(connection, key, now, until)

    def take_over(
        self,
        connection: Connection,
        key: bytes,
        now: int,
        until: int,
        latest: int | None = None,
    ) -> bool:
        # Whoever waits for a lease asks often: looking takes no lock.
        retired = self.schema.retired
        held = connection.execute(self._until.where(retired.c.sid_hash == key)).scalar()
        if held is not None:
            if held > now and (latest is None or held <= latest):
                return False
            free = retired.c.until <= now
            if latest is not None:
                free = or_(free, retired.c.until > latest)
            claim = update(retired).where(retired.c.sid_hash == key, free)
            return bool(connection.execute(claim.values(until=until)).rowcount)
        try:
            run_script(self._steps.bury(key, until), Through(connection))
        except IntegrityError:
            return False
        return True

    def release(self, connection: Connection, key: bytes, until: int) -> bool:
        retired = self.schema.retired
        statement = delete(retired).where(retired.c.sid_hash == key, retired.c.until == until)
        return bool(connection.execute(statement).rowcount)

    def notify(self, connection: Connection, channel: str, payload: str) -> None:
        """Tell who listens on a channel (PostgreSQL), in a transaction of its own, which waits for
        no disk.
        """
        soon = func.set_config("synchronous_commit", "off", True)
        connection.execute(select(soon, func.pg_notify(channel, payload)))

    def spent(self, connection: Connection, now: int, limit: int, exact: bool) -> list[int]:
        """The ids of a batch for ``delete_spent``."""
        sessions = self.schema.sessions.c
        ended: ColumnElement[bool] = sessions.expires_at <= now
        order: ColumnElement[int] = sessions.id
        if not exact:
            ended, order = and_(ended, sessions.purge_after <= now), sessions.purge_after
        candidates = select(sessions.id).where(ended).order_by(order).limit(limit)
        return sorted(connection.execute(candidates).scalars())

    def delete_spent(self, connection: Connection, ids: list[int], now: int, limit: int) -> int:
        """Delete these unless they have been touched, and spent tombstones."""
        deleted = self._delete_ids(connection, ids, self.schema.sessions.c.expires_at <= now)
        self.delete_retired(connection, now, limit)
        return deleted

    def delete_retired(self, connection: Connection, now: int, limit: int) -> int:
        """Delete a batch of spent tombstones."""
        retired = self.schema.retired.c
        statement = select(retired.sid_hash).where(
            retired.until <= now, retired.sid_hash != PURGE_LEASE
        )
        hashes = sorted(connection.execute(statement.limit(limit)).scalars())
        deleted = 0
        for part in _parts(hashes):
            # A lease that has run out may have been taken again meanwhile.
            removal = delete(self.schema.retired).where(retired.sid_hash.in_(part))
            deleted += connection.execute(removal.where(retired.until <= now)).rowcount
        return deleted

    def _delete_ids(self, connection: Connection, ids: list[int], condition: Any) -> int:
        sessions = self.schema.sessions
        deleted = 0
        for part in _parts(ids):
            statement = delete(sessions).where(sessions.c.id.in_(part), condition)
            deleted += connection.execute(statement).rowcount
        return deleted

    def create(self, connection: Connection) -> None:
        """Create what is missing; several processes may do so at once."""
        there: list[Table] = []
        for table in (self.schema.sessions, self.schema.retired):
            if connection.dialect.has_table(connection, table.name, table.schema):
                there.append(table)
                continue
            try:
                with Through(connection).transaction():
                    connection.execute(CreateTable(table, if_not_exists=True))
                    for index in sorted(table.indexes, key=lambda index: str(index.name)):
                        connection.execute(CreateIndex(index))
            except DBAPIError:
                # Another process was quicker: PostgreSQL can fail in spite of IF NOT EXISTS.
                if not connection.dialect.has_table(connection, table.name, table.schema):
                    raise
        self._check_columns(connection)
        _check_unique(connection, there)

    def check(self, connection: Connection) -> None:
        """Raise ``ConfigurationError`` unless both tables are there."""
        missing = [
            table.name
            for table in (self.schema.sessions, self.schema.retired)
            if not connection.dialect.has_table(connection, table.name, table.schema)
        ]
        if not missing:
            self._check_columns(connection)
            _check_unique(connection, (self.schema.sessions, self.schema.retired))
            return
        raise ConfigurationError(
            [
                Finding(
                    "SW026",
                    "create_table",
                    f"table {missing[0]!r} is not in the database.",
                    "run `sessionware init-db` (extra `cli`), set create_table=True, or create it "
                    "with your migrations (docs/schema.md has the Alembic recipe).",
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


def _check_unique(connection: Connection, tables: Iterable[Table]) -> None:
    """Raise ``ConfigurationError`` if one was made by hand without what keeps sessions apart."""
    for table in tables:
        if any(columns == ["sid_hash"] for columns in _unique(connection, table)):
            continue
        # Of a view, as tools that migrate without a pause put before a table, it can't be told.
        if table.name not in connection.dialect.get_view_names(connection, table.schema):
            raise ConfigurationError(
                [
                    Finding(
                        "SW028",
                        "table_name",
                        f"table {table.name!r} has no unique index on sid_hash alone: two sessions "
                        "could have one ID, and two requests one lock.",
                        f"CREATE UNIQUE INDEX {table.name}_sid_hash_key ON {table.fullname} "
                        "(sid_hash).",
                    )
                ]
            )


def _unique(connection: Connection, table: Table) -> Iterator[list[Any]]:
    """What is kept unique in a table; asked for one kind of key after the other."""
    dialect, place = connection.dialect, (connection, table.name, table.schema)
    if dialect.name == "sqlite":
        yield from _unique_in_sqlite(connection, table)
        return
    yield dialect.get_pk_constraint(*place)["constrained_columns"]
    for constraint in dialect.get_unique_constraints(*place):
        yield [*constraint["column_names"]]
    for index in dialect.get_indexes(*place):
        if index["unique"] and not any("where" in key for key in index.get("dialect_options", {})):
            yield index["column_names"]


def _unique_in_sqlite(connection: Connection, table: Table) -> Iterator[list[Any]]:
    """By two PRAGMAs, where SQLAlchemy would read the text of the whole schema."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    pragma = f"PRAGMA {quote(table.schema)}." if table.schema else "PRAGMA "
    indexes = connection.exec_driver_sql(f"{pragma}index_list({quote(table.name)})").all()
    for _, name, unique, _, partial in indexes:
        if unique and not partial:
            columns = connection.exec_driver_sql(f"{pragma}index_info({quote(name)})").all()
            yield [column for _, _, column in columns]


def _parts(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _MOST_PARAMETERS):
        yield items[start : start + _MOST_PARAMETERS]
