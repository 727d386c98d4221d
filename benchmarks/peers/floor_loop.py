"""The floor's stores on drivers of asyncio: connections that are held, in the event loop itself."""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

_BATCH = 256
_READERS = 4

Order = tuple[bytes, bytes | None]
"""A key and what to keep under it; None removes it."""


class Database(Protocol):
    async def load(self, key: bytes) -> bytes | None: ...
    async def write(self, orders: Sequence[Order]) -> None: ...


class InLoop:
    """Who writes while nobody else does asks the driver at once; who comes meanwhile shares the
    next statement.
    """

    def __init__(self, connect: Callable[[], Awaitable[Database]]) -> None:
        self._connect = connect
        self._database: Database | None = None
        self._setup = asyncio.Lock()
        self._waiting: list[tuple[asyncio.Future[None], Order]] = []
        self._writing = False
        self._task: asyncio.Task[None] | None = None

    async def _ready(self) -> Database:
        async with self._setup:
            if self._database is None:
                self._database = await self._connect()
        return self._database

    async def load(self, key: bytes) -> bytes | None:
        return await (self._database or await self._ready()).load(key)

    async def save(self, key: bytes, raw: bytes) -> None:
        await self._write((key, raw))

    async def remove(self, key: bytes) -> None:
        await self._write((key, None))

    async def _write(self, order: Order) -> None:
        database = self._database or await self._ready()
        if self._writing:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((future, order))
            await future
            return
        self._writing = True
        try:
            await database.write([order])
        finally:
            if self._waiting:
                self._task = asyncio.create_task(self._drain(database))
            else:
                self._writing = False

    async def _drain(self, database: Database) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            problem: Exception | None = None
            try:
                await database.write([order for _, order in batch])
            except Exception as error:
                problem = error
            for future, _ in batch:
                if future.done():
                    continue
                if problem is None:
                    future.set_result(None)
                else:
                    future.set_exception(problem)
        self._writing = False


class Asyncpg:
    """Prepared statements; many rows are one statement over arrays."""

    def __init__(self, readers: asyncio.LifoQueue[Any], writer: Any, statements: list[Any]) -> None:
        self._readers = readers
        self._writer = writer
        self._save, self._save_many, self._remove = statements

    @classmethod
    async def connect(cls, url: str, table: str) -> Asyncpg:
        import asyncpg

        writer = await asyncpg.connect(url)
        await writer.execute("SELECT pg_advisory_lock(7316)")
        await writer.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (id bytea PRIMARY KEY, data bytea NOT NULL)"
            " WITH (fillfactor = 75)"
        )
        await writer.execute("SELECT pg_advisory_unlock(7316)")
        readers: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        for _ in range(_READERS):
            reader = await asyncpg.connect(url)
            readers.put_nowait(await reader.prepare(f"SELECT data FROM {table} WHERE id = $1"))
        change = "ON CONFLICT (id) DO UPDATE SET data = excluded.data"
        many = f"INSERT INTO {table} SELECT * FROM unnest($1::bytea[], $2::bytea[]) {change}"
        statements = [
            await writer.prepare(text)
            for text in (
                f"INSERT INTO {table} VALUES ($1, $2) {change}",
                many,
                f"DELETE FROM {table} WHERE id = $1",
            )
        ]
        return cls(readers, writer, statements)

    async def load(self, key: bytes) -> bytes | None:
        select = await self._readers.get()
        try:
            data: bytes | None = await select.fetchval(key)
            return data
        finally:
            self._readers.put_nowait(select)

    async def write(self, orders: Sequence[Order]) -> None:
        if len(orders) == 1:
            await self._one(*orders[0])
            return
        # No row twice in one statement: the last one counts.
        rows = dict(orders)
        if None not in rows.values():
            await self._save_many.fetch(list(rows), list(rows.values()))
            return
        async with self._writer.transaction():
            for order in rows.items():
                await self._one(*order)

    async def _one(self, key: bytes, raw: bytes | None) -> None:
        if raw is None:
            await self._remove.fetch(key)
        else:
            await self._save.fetch(key, raw)


class Aiosqlite:
    """One connection that reads and one that writes, each with the thread that aiosqlite gives it.

    ``execute_fetchall`` is its one call that goes to that thread and back only once.
    """

    _SAVE = "INSERT INTO sessions VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data"
    _REMOVE = "DELETE FROM sessions WHERE id = ?"

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, file: Path, synchronous: str) -> Aiosqlite:
        import aiosqlite

        connections = []
        for _ in range(2):
            connection = await aiosqlite.connect(file, isolation_level=None)
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute(f"PRAGMA synchronous = {synchronous}")
            await connection.execute("PRAGMA busy_timeout = 5000")
            connections.append(connection)
        await connections[1].execute(
            "CREATE TABLE IF NOT EXISTS sessions (id BLOB PRIMARY KEY, data BLOB NOT NULL)"
        )
        return cls(*connections)

    async def load(self, key: bytes) -> bytes | None:
        sql = "SELECT data FROM sessions WHERE id = ?"
        rows = list(await self._reader.execute_fetchall(sql, (key,)))
        return rows[0][0] if rows else None

    async def write(self, orders: Sequence[Order]) -> None:
        if len(orders) == 1:
            key, raw = orders[0]
            if raw is None:
                await self._writer.execute_fetchall(self._REMOVE, (key,))
            else:
                await self._writer.execute_fetchall(self._SAVE, (key, raw))
            return
        await self._writer.execute_fetchall("BEGIN IMMEDIATE")
        saved = [order for order in orders if order[1] is not None]
        await self._writer.executemany(self._SAVE, saved)
        for key, raw in orders:
            if raw is None:
                await self._writer.execute_fetchall(self._REMOVE, (key,))
        await self._writer.execute_fetchall("COMMIT")


def on_asyncpg(url: str, table: str) -> InLoop:
    return InLoop(lambda: Asyncpg.connect(url, table))


def on_aiosqlite(file: Path, synchronous: str) -> InLoop:
    return InLoop(lambda: Aiosqlite.connect(file, synchronous))
