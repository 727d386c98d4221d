"""The two tables, in their own ``MetaData``: they are never part of the application's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects.mysql import BINARY, MEDIUMBLOB, VARCHAR
from sqlalchemy.types import TypeEngine

# SQLite gives only INTEGER PRIMARY KEY the rowid, which keeps this an ordinary rowid table.
_Id = BigInteger().with_variant(Integer(), "sqlite")
_Hash: TypeEngine[bytes] = LargeBinary(32).with_variant(BINARY(32), "mysql", "mariadb")
# MySQL's BLOB ends at 64 KiB.
_Data: TypeEngine[bytes] = LargeBinary().with_variant(MEDIUMBLOB(), "mysql", "mariadb")
# MySQL's default collation takes Alice for alice.
_User = String(255).with_variant(VARCHAR(255, collation="utf8mb4_bin"), "mysql", "mariadb")
_MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_row_format": "DYNAMIC",
    "mysql_charset": "utf8mb4",
}
_MARIADB: dict[str, Any] = {key.replace("mysql", "mariadb"): value for key, value in _MYSQL.items()}


class Schema:
    """``sessions`` and its ``sessions_retired``, under the configured name (``schema.name``
    allowed).

    ``expires_at`` and ``last_seen`` have no index, so that a touch stays a HOT update on
    PostgreSQL; ``purge_after`` has one and seldom moves.
    """

    def __init__(self, table_name: str = "sessions") -> None:
        schema, _, name = table_name.rpartition(".")
        self.metadata = MetaData(schema=schema or None)
        self.sessions = Table(
            name,
            self.metadata,
            Column("id", _Id, Identity(), primary_key=True),
            Column("sid_hash", _Hash, nullable=False),
            Column("version", Integer, nullable=False),
            Column("epoch", Integer, nullable=False),
            Column("user_id", _User),
            Column("data", _Data, nullable=False),
            Column("created_at", BigInteger, nullable=False),
            Column("authenticated_at", BigInteger),
            Column("last_seen", BigInteger, nullable=False),
            Column("expires_at", BigInteger, nullable=False),
            Column("purge_after", BigInteger, nullable=False),
            Column("ip", String(45)),
            Column("user_agent", String(255)),
            UniqueConstraint("sid_hash", name=f"{name}_sid_hash_key"),
            postgresql_with={"fillfactor": 75},
            # A late writer of a deleted row must not find a newer row under its id.
            sqlite_autoincrement=True,
            **_MYSQL,
            **_MARIADB,
        )
        user_id = self.sessions.c.user_id
        # Most sessions are nobody's: theirs need no entry, where the database can leave it out.
        known = user_id.is_not(None)
        Index(f"{name}_user_id_idx", user_id, sqlite_where=known, postgresql_where=known)
        Index(f"{name}_purge_after_idx", self.sessions.c.purge_after)
        self.retired = Table(
            f"{name}_retired",
            self.metadata,
            Column("sid_hash", _Hash, primary_key=True),
            Column("until", BigInteger, nullable=False),
            **_MYSQL,
            **_MARIADB,
        )
