"""The floor's stores on drivers that block: in a thread of their own, or in the caller's."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

_BATCH = 256


class Threaded:
    """A thread with the connection: takes all that waits, commits once, wakes the loop once."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._reads: SimpleQueue[Any] = SimpleQueue()
        for queue in (self._queue, self._reads):
            # Here, one after the other: in a thread it could fail, and nobody would hear of it.
            arguments = (connect(), queue)
            threading.Thread(target=self._work, args=arguments, daemon=True).start()

    def load(self, key: bytes) -> asyncio.Future[bytes | None]:
        return self._ask(self._reads, ("load", (key,)))

    def save(self, key: bytes, raw: bytes) -> asyncio.Future[None]:
        return self._ask(self._queue, ("save", (key, raw)))

    def remove(self, key: bytes) -> asyncio.Future[None]:
        return self._ask(self._queue, ("remove", (key,)))

    def _ask(self, queue: SimpleQueue[Any], order: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        queue.put((loop, future, order))
        return future

    def _work(self, database: Any, queue: SimpleQueue[Any]) -> None:
        while True:
            orders = [queue.get()]
            try:
                while len(orders) < _BATCH:
                    orders.append(queue.get_nowait())
            except Empty:
                pass
            try:
                answers = database.run([order for _, _, order in orders])
            except Exception as error:
                answers = [error] * len(orders)
            loop = orders[0][0]
            loop.call_soon_threadsafe(_answer, [order[1] for order in orders], answers)


def _answer(futures: list[asyncio.Future[Any]], answers: list[Any]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class Inline:
    """The same on the event loop's own thread: quickest alone, and everybody waits for the disk."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._database = connect()

    async def load(self, key: bytes) -> Any:
        return self._database.run([("load", (key,))])[0]

    async def save(self, key: bytes, raw: bytes) -> None:
        self._database.run([("save", (key, raw))])

    async def remove(self, key: bytes) -> None:
        self._database.run([("remove", (key,))])


class Sqlite:
    SQL: Final = {
        "load": "SELECT data FROM sessions WHERE id = ?",
        "save": "INSERT INTO sessions VALUES (?, ?) "
        "ON CONFLICT (id) DO UPDATE SET data = excluded.data",
        "remove": "DELETE FROM sessions WHERE id = ?",
    }

    def __init__(self, file: Path, synchronous: str) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {synchronous}")
        execute("PRAGMA busy_timeout = 5000")
        execute("CREATE TABLE IF NOT EXISTS sessions (id BLOB PRIMARY KEY, data BLOB NOT NULL)")

    def run(self, orders: list[Any]) -> list[Any]:
        execute = self._connection.execute
        if len(orders) == 1:
            verb, values = orders[0]
            row = execute(self.SQL[verb], values).fetchone()
            return [row and row[0]]
        execute("BEGIN IMMEDIATE" if orders[0][0] != "load" else "BEGIN")
        rows = [execute(self.SQL[verb], values).fetchone() for verb, values in orders]
        execute("COMMIT")
        return [row and row[0] for row in rows]


class Psycopg:
    def __init__(self, url: str, table: str) -> None:
        import psycopg

        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("SELECT pg_advisory_lock(7316)")
        self._connection.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (id bytea PRIMARY KEY, data bytea NOT NULL)"
            " WITH (fillfactor = 75)".encode()
        )
        self._connection.execute("SELECT pg_advisory_unlock(7316)")
        self._cursor = self._connection.cursor()
        save = f"INSERT INTO {table} VALUES (%s, %s) "
        save += "ON CONFLICT (id) DO UPDATE SET data = excluded.data"
        self._sql = {
            "load": f"SELECT data FROM {table} WHERE id = %s".encode(),
            "save": save.encode(),
            "remove": f"DELETE FROM {table} WHERE id = %s".encode(),
        }

    def run(self, orders: list[Any]) -> list[Any]:
        execute = self._cursor.execute
        verb, values = orders[0]
        if verb == "load":
            rows = [
                execute(self._sql[verb], each, prepare=True).fetchone() for verb, each in orders
            ]
            return [row and bytes(row[0]) for row in rows]
        if len(orders) == 1:
            execute(self._sql[verb], values, prepare=True)
        elif all(verb == "save" for verb, _ in orders):
            with self._connection.transaction():
                self._cursor.executemany(self._sql["save"], [each for _, each in orders])
        else:
            with self._connection.transaction():
                for verb, each in orders:
                    execute(self._sql[verb], each, prepare=True)
        return [None] * len(orders)


def on_sqlite(file: Path, synchronous: str, *, inline: bool) -> Threaded | Inline:
    kind = Inline if inline else Threaded
    return kind(lambda: Sqlite(file, synchronous))


def on_postgres(url: str, table: str) -> Threaded:
    return Threaded(lambda: Psycopg(url, table))
