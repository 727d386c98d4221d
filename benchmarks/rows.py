"""Tables full of sessions: one row as the middleware stores it, and any number of the same kind."""

from __future__ import annotations

import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from hashlib import sha256
from itertools import islice
from typing import Any, Final

import psycopg

from sessionware import SessionManager
from sessionware.clock import now
from sessionware.rows import owner_of
from sessionware.stores import Row
from sessionware.tokens import hash_id

from .calling import COOKIE
from .peers.ours import manager_for
from .site import PAYLOAD, Place, libpq, postgres

COLUMNS: Final = Row._fields[1:]
"""All but the id, which the database gives."""
_CHUNK: Final = 20_000

Tick = Callable[[str], None]


def _sid_of(number: int) -> str:
    seed = sha256(b"benchmark %d" % number).digest()
    return urlsafe_b64encode(seed).rstrip(b"=").decode()


def hash_of(number: int) -> bytes:
    """The key of the row with this number."""
    return hash_id(_sid_of(number))


def cookie_of(manager: SessionManager, number: int) -> str:
    """What a browser sends for the row with this number."""
    return f"{COOKIE}={manager.tokens.sign(_sid_of(number))}"


def user_of(number: int) -> str:
    return f"user-{number:09}"


def one_row(place: Place, driver: str, content: Mapping[str, Any] = PAYLOAD) -> Row:
    """A session whose user is logged in, as it comes out of the table, which is left empty."""
    manager = manager_for(place, driver)
    try:
        session = manager.open(None)
        session.update(content)
        session["user_id"] = user_of(0)
        manager.close(session)
        (row,) = manager.store.user_rows(user_of(0), now())
        manager.store.remove(row)
        return row
    finally:
        manager.shutdown()


def copies(
    row: Row, count: int, *, hashed: Callable[[int], bytes] = hash_of, age: int = 0
) -> Iterator[Row]:
    """Rows of other sessions, each of another user, as old as ``age`` milliseconds.

    The user is in the column, in the content and, hashed, in the record's header.
    """
    name, owner = user_of(0).encode(), owner_of(user_of(0))
    for number in range(count):
        user = user_of(number)
        shift = -age - number % 1_000_000
        yield row._replace(
            sid_hash=hashed(number),
            user_id=user,
            data=row.data.replace(owner, owner_of(user)).replace(name, user.encode()),
            created_at=row.created_at + shift,
            authenticated_at=row.authenticated_at and row.authenticated_at + shift,
            last_seen=row.last_seen + shift,
            expires_at=row.expires_at + shift,
            purge_after=row.purge_after + shift,
        )


def fill(place: Place, driver: str, rows: Iterator[Row], tick: Tick | None = None) -> None:
    """Put rows into the table, as quickly as the database takes them."""
    into = _into_sqlite if driver.endswith("sqlite") else _into_postgres
    into(place, (row[1:] for row in rows), tick or (lambda _: None))


def _into_sqlite(place: Place, rows: Iterator[tuple[Any, ...]], tick: Tick) -> None:
    with closing(sqlite3.connect(place.file, isolation_level=None)) as connection:
        execute = connection.execute
        execute("PRAGMA synchronous = OFF")
        # The index of hashes is filled in no order at all.
        execute("PRAGMA cache_size = -2000000")
        marks = ", ".join("?" * len(COLUMNS))
        statement = f"INSERT INTO {place.table} ({', '.join(COLUMNS)}) VALUES ({marks})"
        execute("BEGIN IMMEDIATE")
        while chunk := list(islice(rows, _CHUNK)):
            connection.executemany(statement, chunk)
            tick("fill SQLite")
        execute("COMMIT")
        execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _into_postgres(place: Place, rows: Iterator[tuple[Any, ...]], tick: Tick) -> None:
    copying = f"COPY {place.table} ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
    types = ["bytea", "int4", "int4", "varchar", "bytea", *["int8"] * 5, "varchar", "varchar"]
    with psycopg.connect(libpq(postgres())) as connection, connection.cursor() as cursor:
        while chunk := list(islice(rows, _CHUNK)):
            with cursor.copy(copying.encode()) as copy:
                copy.set_types(types)
                for row in chunk:
                    copy.write_row(row)
            tick("fill PostgreSQL")


def settle(place: Place, driver: str) -> int:
    """Let the database tidy up; the bytes that table and indexes take."""
    if driver.endswith("sqlite"):
        with closing(sqlite3.connect(place.file, isolation_level=None)) as connection:
            connection.execute("ANALYZE")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return place.file.stat().st_size
    with psycopg.connect(libpq(postgres()), autocommit=True) as plain:
        plain.execute(f"VACUUM (ANALYZE) {place.table}".encode())
        plain.execute("CHECKPOINT")
        row = plain.execute("SELECT pg_total_relation_size(%s)", (place.table,)).fetchone()
        assert row is not None
        return int(row[0])


def drop(place: Place, driver: str) -> None:
    """Take the tables away, with the files of SQLite."""
    if driver.endswith("sqlite"):
        for file in place.folder.glob(f"{place.file.name}*"):
            file.unlink()
        return
    with psycopg.connect(libpq(postgres()), autocommit=True) as connection:
        for name in (place.table, f"{place.table}_retired"):
            connection.execute(f"DROP TABLE IF EXISTS {name}".encode())


def check(manager: SessionManager, *numbers: int) -> None:
    """The rows are sessions as the middleware knows them: a write finds nothing to set right."""
    for number in numbers:
        session = manager.open(cookie_of(manager, number))
        whole = {**PAYLOAD, "user_id": user_of(number)}
        session.setdefault("seen", []).append(1)
        headers = dict(manager.close(session))
        session = manager.open(cookie_of(manager, number))
        session["seen"].pop()
        if session != whole or "set-cookie" in {name.lower() for name in headers}:
            raise ValueError("the rows of the table are no sessions")
        manager.close(session)
