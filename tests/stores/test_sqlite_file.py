"""SQLite: its file, its modes, its ids, its one writer."""

from __future__ import annotations

import functools
import multiprocessing
import os
import stat
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessionware import CachedStore, ConfigurationError, SessionManager, StoreUnavailable
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from sessionware.testing.calls import together
from sessionware.testing.support import NOW, SPENT, put
from tests.byhand import Visitor, storing

from .conftest import prepare_and_put, put_prepared


def pragma(store: SQLStore, name: str) -> Any:
    return store.execute(
        lambda _, connection: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
    )


def test_a_late_save_of_an_ended_session_stays_out_of_the_next_users(sqlite_url: str) -> None:
    """SQLite by itself gives the id of the last row again once that row is deleted."""
    manager = SessionManager(secret_key="x" * 40, store=sqlite_url, purge_interval=None)
    alice, bob = Visitor(manager), Visitor(manager)
    alice.visit(storing(secret="of alice"))
    late = alice.open()
    late["secret"] = "of alice, written late"
    alice.visit(lambda session: session.invalidate())
    bob.visit(storing(color="blue"))

    assert "Set-Cookie" not in dict(manager.close(late))

    assert bob.content() == {"color": "blue"}
    manager.shutdown()


def test_on_sqlite_the_id_is_the_rowid(
    open_store: Callable[..., SQLStore], sqlite_url: str, tmp_path: Path
) -> None:
    store = open_store(sqlite_url)
    store.prepare()
    row = put(store)

    def rowid(_: Any, connection: Any) -> Any:
        return connection.exec_driver_sql("SELECT rowid FROM sessions").scalar()

    assert store.execute(rowid) == row.id


def _start_up(url: str, barrier: Barrier, outcomes: Any) -> None:
    store = SQLStore(url, timeout=10)
    barrier.wait(60)
    try:
        outcomes.put(prepare_and_put(store))
    except BaseException as error:
        outcomes.put(repr(error))
    finally:
        store.close()


def test_four_processes_that_start_at_once_share_a_sqlite_file(
    open_store: Callable[..., SQLStore], sqlite_url: str
) -> None:
    context = multiprocessing.get_context("fork")
    barrier, outcomes = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=_start_up, args=(sqlite_url, barrier, outcomes)) for _ in range(4)
    ]
    for process in processes:
        process.start()

    assert [outcomes.get(timeout=60) for _ in processes] == [True] * 4
    for process in processes:
        process.join(60)
    assert open_store(sqlite_url).count(NOW) == 4


@pytest.fixture
def lax_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("address", ["{}", "file:{}?uri=true", "file:{}?mode=rwc&uri=true"])
@pytest.mark.parametrize("drivername", ["sqlite", "sqlite+aiosqlite"])
def test_the_sqlite_files_are_nobody_elses(
    lax_umask: None, tmp_path: Path, drivername: str, address: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o777)
    url = f"{drivername}:///{address.format(folder / 'sessions.db')}"
    manager = SessionManager(secret_key="x" * 40, store=url, purge_interval=None)

    async def modes() -> dict[str, int]:
        await manager.store.aput("key", {"a": 1})
        found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
        await manager.ashutdown()
        return found

    names = ("sessions.db", "sessions.db-wal", "sessions.db-shm", "sessions.db-stamps")
    assert anyio.run(modes) == dict.fromkeys(names, 0o600)


def test_a_folder_in_which_anybody_can_replace_the_file_is_warned_of_from_the_first_time_on(
    open_store: Callable[..., SQLStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    for _ in range(2):
        open_store(f"sqlite:///{folder / 'sessions.db'}").prepare()
        assert "SW023 store: the SQLite file's folder is writable by everybody" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_no_file_is_made_where_the_url_says_that_it_has_to_be_there(
    open_store: Callable[..., SQLStore], tmp_path: Path, mode: str
) -> None:
    store = open_store(f"sqlite:///file:{tmp_path / 'sessions.db'}?mode={mode}&uri=true")
    with pytest.raises(StoreUnavailable):
        store.prepare()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_keeps_its_mode(
    open_store: Callable[..., SQLStore], sqlite_url: str, tmp_path: Path
) -> None:
    """Whoever made it may want a group to read it."""
    file = tmp_path / "sessions.db"
    file.touch()
    file.chmod(0o640)

    open_store(sqlite_url).prepare()

    assert stat.S_IMODE(file.stat().st_mode) == 0o640


SYNCHRONOUS = {"": 1, "?synchronous=off": 0, "?synchronous=normal": 1, "?synchronous=full": 2}
SYNCHRONOUS |= {"?synchronous=extra": 3, "?synchronous=FULL": 2}


@pytest.mark.parametrize(("option", "level"), SYNCHRONOUS.items())
def test_sqlite_runs_in_wal_and_syncs_as_the_url_says(
    open_store: Callable[..., SQLStore], sqlite_url: str, tmp_path: Path, option: str, level: int
) -> None:
    store = open_store(sqlite_url + option)
    row = put_prepared(store)

    assert pragma(store, "journal_mode") == "wal"
    assert pragma(store, "synchronous") == level
    assert pragma(store, "busy_timeout") == 1800
    assert store.load(row.sid_hash, NOW) == row
    assert {file.name for file in tmp_path.iterdir()} == {
        "sessions.db",
        "sessions.db-wal",
        "sessions.db-shm",
    }


@pytest.mark.parametrize("wrong", ["fast", "3", "2; DROP TABLE sessions"])
def test_an_unknown_synchronous_level_is_refused(
    open_store: Callable[..., SQLStore], sqlite_url: str, wrong: str
) -> None:
    with pytest.raises(ConfigurationError, match="synchronous"):
        open_store(f"{sqlite_url}?synchronous={wrong}").prepare()


IN_MEMORY = ["", "/:memory:", "/file::memory:?uri=true", "/file::memory:?cache=shared&uri=true"]
IN_MEMORY += ["/file:a?mode=memory&uri=true", "/file:b?mode=memory&cache=shared&uri=true"]


@pytest.mark.parametrize("address", IN_MEMORY)
def test_a_database_in_memory_is_one_for_all_threads_until_it_is_closed(
    open_store: Callable[..., SQLStore], tmp_path: Path, address: str
) -> None:
    store = open_store(f"sqlite://{address}")
    store.prepare()

    assert together(*[functools.partial(prepare_and_put, store)] * 8) == [True] * 8

    assert store.count(NOW) == 8
    assert list(tmp_path.iterdir()) == []
    store.close()
    store.prepare()
    assert store.count(NOW) == 0


@pytest.mark.parametrize("address", IN_MEMORY)
@pytest.mark.parametrize("drivername", ["sqlite", "sqlite+aiosqlite"])
def test_a_closed_database_in_memory_can_be_used_again(drivername: str, address: str) -> None:
    """Through its one thread, or its one connection, which are new ones then."""
    store = CachedStore(open_any(f"{drivername}://{address}"))

    async def use() -> None:
        for _ in range(5):
            await store.aput("key", {"a": 1})
            assert await store.asize() == 1
            await store.aclose()

    anyio.run(use)


def open_any(url: str) -> Any:
    return AsyncSQLStore(url) if "+" in url else SQLStore(url)


@pytest.mark.parametrize("drivername", ["sqlite", "sqlite+aiosqlite"])
def test_a_relative_path_means_the_file_of_the_first_use_in_another_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drivername: str
) -> None:
    """The engine may be another one by then: each event loop, for one, has its own."""
    store = CachedStore(open_any(f"{drivername}:///sessions.db"))

    async def stored(**value: int) -> Any:
        if value:
            await store.aput("key", value)
        found = await store.aget("key")
        await store.aclose()
        return found

    assert anyio.run(functools.partial(stored, a=1)) == {"a": 1}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert anyio.run(stored) == {"a": 1}
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("folder", ["missing/folder", "a file", "/proc"])
@pytest.mark.parametrize("drivername", ["sqlite", "sqlite+aiosqlite"])
def test_a_folder_that_cannot_be_written_to_is_a_store_that_is_unavailable(
    tmp_path: Path, folder: str, drivername: str
) -> None:
    (tmp_path / "a file").touch()
    url = f"{drivername}:///{tmp_path / folder / 'sessions.db'}"
    store = SessionManager(secret_key="x" * 40, store=url, purge_interval=None).store

    async def ask() -> Any:
        with pytest.raises(StoreUnavailable) as caught:
            await store.aput("key", {"a": 1})
        return caught.value

    error = anyio.run(ask)
    assert str(tmp_path) not in str(error)
    assert not (tmp_path / "missing").exists()


def test_a_database_that_cannot_be_written_to_is_unavailable_for_writes_only(
    open_store: Callable[..., SQLStore], sqlite_url: str, tmp_path: Path
) -> None:
    writer = open_store(sqlite_url)
    row = put_prepared(writer)
    reader = open_store(f"sqlite:///file:{tmp_path / 'sessions.db'}?mode=ro&uri=true")
    reader.prepare()

    with pytest.raises(StoreUnavailable):
        put(reader)

    assert reader.load(row.sid_hash, NOW) == row


def test_purging_and_removing_work_beyond_the_most_parameters_of_a_statement(
    open_store: Callable[..., SQLStore],
) -> None:
    store = open_store("sqlite://")
    store.prepare()
    spent = [put(store, **SPENT) for _ in range(1100)]
    kept = put(store, user_id="bob")

    assert store.purge(NOW, 1000) == 1000
    assert store.purge(NOW, 1000) == 100
    assert store.load(kept.sid_hash, NOW) == kept

    rows = [put(store) for _ in range(len(spent))]
    assert sorted(store.remove_user("alice")) == sorted(row.sid_hash for row in rows)
    assert store.count(0) == 1
