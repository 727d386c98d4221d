"""Calls that share a commit: each has its own answer, and one that fails harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from sessionware.batches import ALONE
from sessionware.errors import DuplicateKey, StoreUnavailable
from sessionware.flows import Call
from sessionware.stores.arrays import as_bytes, as_text_or_list, place_of, teach_psycopg
from sessionware.stores.protocol import RETIRED, Row
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from sessionware.testing.calls import caller
from sessionware.testing.support import (
    HOUR,
    MINUTE,
    NOW,
    following,
    make_row,
    new_hash,
    put,
    resaved,
)
from tests import services
from tests.databases import drivers, url_of

GROUPING = ("sqlite", "psycopg", "asyncpg")


class Site:
    """A store with a table of its own, for threads or in an event loop of another thread."""

    def __init__(self, database: Any, table_name: str, portal: BlockingPortal, **more: Any) -> None:
        url = make_url(database) if isinstance(database, str) else database.url
        self.is_async = url.get_dialect().is_async
        kind: Any = AsyncSQLStore if self.is_async else SQLStore
        self._portal = portal
        self.made = kind(database, table_name=table_name, **more)
        self.store: Any = caller(self.made, portal if self.is_async else None)
        self.store.prepare()

    def group(self, *calls: Call) -> list[Any]:
        assert all(map(self.made.takes, calls))
        found: list[Any] = (
            self._portal.call(self.made.agroup, calls) if self.is_async else self.made.group(calls)
        )
        return found


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(params=["url", "engine"])
def database(driver: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Straight to the driver, and through SQLAlchemy with an engine of the application's."""
    url = url_of(driver, request)
    if request.param == "url":
        yield url
        return
    is_async = make_url(url).get_dialect().is_async
    engine: Any = create_async_engine(url) if is_async else create_engine(url)
    yield engine
    if not is_async:
        engine.dispose()


@pytest.fixture
def site(database: Any, table_name: str, portal: BlockingPortal) -> Iterator[Site]:
    made = Site(database, table_name, portal)
    yield made
    made.store.close()
    if made.is_async and not isinstance(database, str):
        portal.call(database.dispose)


def replacing(row: Row, **changes: Any) -> Call:
    return Call("replace", (row, following(row, **changes), NOW))


def touched(row: Row) -> Row:
    return row._replace(
        last_seen=row.last_seen + MINUTE,
        expires_at=row.expires_at + MINUTE,
        purge_after=row.purge_after + HOUR,
    )


@drivers(*GROUPING)
def test_a_group_does_what_its_calls_would_do_one_by_one(site: Site) -> None:
    kept, stale, seen, ended = (put(site.store) for _ in range(4))
    new = make_row(user_id=None, authenticated_at=None, ip=None, user_agent=None, data=b"\x00\xff")
    calls = [
        Call("insert", (new,)),
        Call("insert", (make_row(),)),
        replacing(kept),
        replacing(stale._replace(version=7)),
        Call("replace", (ended, following(ended), ended.expires_at)),
        Call("touch", (seen, touched(seen), NOW)),
        Call("touch", (stale, touched(stale)._replace(last_seen=NOW), NOW)),
    ]

    answers = site.group(*calls)

    assert answers[2:] == [True, False, False, True, False]
    assert site.store.load(new.sid_hash, NOW) == new._replace(id=answers[0])
    assert site.store.reload(kept.id) == following(kept, sid_hash=kept.sid_hash)
    assert site.store.reload(stale.id) == stale
    assert site.store.reload(seen.id) == touched(seen)
    assert site.store.reload(ended.id) == ended


@drivers(*GROUPING)
def test_saves_of_content_alone_leave_all_else_as_it_was_beside_others(site: Site) -> None:
    plain, bare, stale, shortened, changed = (
        put(site.store, **changes)
        for changes in ({}, {"user_id": None, "ip": None}, {}, {}, {"user_id": None})
    )
    saves = {
        plain: resaved(plain),
        bare: resaved(bare),
        shortened: resaved(shortened, expires_at=NOW + 5),
        changed: resaved(changed, user_id="bob", authenticated_at=NOW + 7),
    }

    answers = site.group(
        *(Call("replace", (old, new, NOW)) for old, new in saves.items()),
        Call("replace", (stale._replace(version=7), resaved(stale, version=8), NOW)),
    )

    assert answers == [True, True, True, True, False]
    assert {old: site.store.reload(old.id) for old in saves} == saves
    assert site.store.reload(stale.id) == stale


@drivers(*GROUPING)
def test_a_lone_save_of_content_alone_leaves_all_else_as_it_was_too(site: Site) -> None:
    row = put(site.store)
    for data in (b"one", b"two"):
        new = resaved(row, data=data)
        assert site.store.replace(row, new, NOW)
        assert site.store.reload(row.id) == new
        row = new


@drivers(*GROUPING)
def test_a_session_that_expires_while_others_come_to_share_its_commit_is_not_saved(
    site: Site,
) -> None:
    """It is tried by itself afterwards, by its own time."""
    ending, other = put(site.store, expires_at=NOW + 5), put(site.store)

    answers = site.group(
        Call("replace", (ending, resaved(ending), NOW)),
        Call("replace", (other, resaved(other), NOW + 6)),
    )

    assert answers == [False, True]
    assert site.store.reload(ending.id) == ending


@pytest.mark.parametrize("save", [resaved, following])
@drivers(*GROUPING)
def test_a_touch_that_came_between_is_not_undone_by_a_save_in_a_group(
    site: Site, save: Callable[..., Row]
) -> None:
    one, other = put(site.store), put(site.store)
    later = touched(touched(one))
    assert site.store.touch(one, later, NOW)
    saved = save(one, purge_after=one.purge_after)

    answers = site.group(Call("replace", (one, saved, NOW)), replacing(other))

    assert answers == [True, True]
    times = {name: getattr(later, name) for name in ("last_seen", "expires_at", "purge_after")}
    assert site.store.reload(one.id) == saved._replace(**times)


@drivers("sqlite")
def test_rotations_and_removals_share_a_commit_on_sqlite(site: Site) -> None:
    rotated, removed, clashing, other = (put(site.store) for _ in range(4))
    new = following(rotated, sid_hash=new_hash())
    clash = following(clashing, sid_hash=other.sid_hash)
    until = NOW + MINUTE

    answers = site.group(
        Call("rotate", (rotated, new, NOW, until)),
        Call("rotate", (clashing, clash, NOW, until)),
        Call("remove", (removed, None, removed.epoch)),
        Call("remove", (other, 5, None), 2),
    )

    assert answers[0] is True
    assert isinstance(answers[1], DuplicateKey)
    assert answers[2:] == [True, False]
    assert site.store.reload(rotated.id) == new
    assert site.store.load(rotated.sid_hash, NOW) is RETIRED
    assert site.store.reload(clashing.id) == clashing
    assert site.store.load(removed.sid_hash, NOW) is None


@drivers(*GROUPING)
def test_a_key_that_is_taken_is_the_affair_of_who_wanted_it(site: Site) -> None:
    there, new = put(site.store), make_row()

    answers = site.group(
        Call("insert", (make_row(sid_hash=there.sid_hash),)), Call("insert", (new,))
    )

    assert isinstance(answers[0], DuplicateKey)
    assert site.store.load(new.sid_hash, NOW) == new._replace(id=answers[1])
    assert site.store.reload(there.id) == there


@drivers(*GROUPING)
def test_a_row_that_the_database_refuses_lets_each_be_tried_by_itself_and_changes_nothing(
    site: Site,
) -> None:
    one, other = put(site.store), put(site.store)

    answers = site.group(replacing(one), replacing(other, version=2**70))

    assert answers == [ALONE, ALONE]
    assert site.store.reload(one.id) == one
    assert site.store.reload(other.id) == other


@drivers("psycopg", "asyncpg")
def test_two_saves_of_one_session_never_go_into_one_statement(site: Site) -> None:
    row, other = put(site.store), put(site.store)

    answers = site.group(replacing(row), replacing(row, data=b"too late"), replacing(other))

    assert answers == [True, ALONE, True]
    assert site.store.reload(row.id).data == b"other data"


@drivers("sqlite")
@pytest.mark.parametrize("count", [2, 3, 16, 17, 40, 256])
def test_however_many_saves_share_a_commit_each_is_told_of_its_own(site: Site, count: int) -> None:
    rows = [put(site.store) for _ in range(count)]
    overtaken = set(range(0, count, 7))
    calls = [
        replacing(row._replace(version=9) if number in overtaken else row)
        for number, row in enumerate(rows)
    ]

    answers = site.group(*calls)

    assert answers == [number not in overtaken for number in range(count)]
    for number, row in enumerate(rows):
        kept = row if number in overtaken else following(row, sid_hash=row.sid_hash)
        assert site.store.reload(row.id) == kept


@drivers("sqlite")
def test_of_two_saves_of_one_session_the_second_is_told_that_it_was_overtaken(site: Site) -> None:
    row = put(site.store)
    assert site.group(replacing(row), replacing(row, data=b"too late")) == [True, False]
    assert site.store.reload(row.id).data == b"other data"


@drivers("psycopg", "asyncpg")
def test_a_row_that_somebody_else_has_locked_holds_up_nobody_for_long(
    site: Site, table_name: str, postgres_url: str
) -> None:
    locked, free = put(site.store), put(site.store)
    engine = create_engine(postgres_url)
    try:
        with engine.begin() as other:
            other.execute(
                text(f'SELECT 1 FROM "{table_name}" WHERE id = :id FOR UPDATE'), {"id": locked.id}
            )
            answers = site.group(replacing(locked), replacing(free))
            assert answers == [ALONE, ALONE]
            assert site.store.replace(free, following(free), NOW)
    finally:
        engine.dispose()
    assert site.store.replace(locked, following(locked), NOW)


def test_while_the_database_is_not_free_all_of_a_group_are_told_so(
    sqlite_url: str, table_name: str, portal: BlockingPortal
) -> None:
    site = Site(sqlite_url, table_name, portal, timeout=0.2)
    one, other = put(site.store), put(site.store)
    engine = create_engine(sqlite_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        answers = site.group(replacing(one), replacing(other))
        connection.exec_driver_sql("ROLLBACK")
    engine.dispose()
    assert all(isinstance(each, StoreUnavailable) for each in answers)
    assert site.group(replacing(one), replacing(other)) == [True, True]
    site.store.close()


@drivers("sqlite", "psycopg")
def test_whoever_listens_to_the_engine_still_sees_every_statement(
    driver: str,
    table_name: str,
    portal: BlockingPortal,
    statements: Any,
    request: pytest.FixtureRequest,
) -> None:
    site = Site(url_of(driver, request), table_name, portal)
    rows = [put(site.store) for _ in range(3)]
    statements.clear()

    site.group(*map(replacing, rows))
    site.store.load(rows[0].sid_hash, NOW)

    verbs = [each.split()[0] for each in statements if each.split()[0] in ("UPDATE", "SELECT")]
    assert verbs == ["UPDATE", "SELECT"]
    site.store.close()


@pytest.fixture
def statements() -> Iterator[list[str]]:
    from sqlalchemy import Engine, event

    seen: list[str] = []

    def note(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        seen.append(text)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Connection]:
    engine = create_engine(services.with_driver(services.require(services.POSTGRES), PSYCOPG))
    with engine.connect() as connection:
        teach_psycopg(connection.connection.driver_connection)
        yield connection
    engine.dispose()


@pytest.fixture(scope="module")
def fetch() -> Iterator[Callable[[str, Any], list[Any]]]:
    """What a statement with one parameter gives, by asyncpg: the first column."""
    url = make_url(services.require(services.POSTGRES)).set(drivername="postgresql")
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url.render_as_string(hide_password=False)))
        yield lambda text, value: [row[0] for row in runner.run(connection.fetch(text, value))]
        runner.run(connection.close())


PSYCOPG = "postgresql+psycopg"
NUMBERS = st.none() | st.integers(-(2**31), 2**31 - 1)
TEXTS = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "integer": NUMBERS,
    "bigint": st.none() | st.integers(-(2**63), 2**63 - 1),
    "bytea": st.none() | st.binary(),
    "text": TEXTS,
}


@pytest.mark.postgres
@pytest.mark.parametrize("kind", COLUMNS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_an_array_arrives_as_its_values(postgres: Connection, kind: str, data: Any) -> None:
    values = data.draw(st.lists(COLUMNS[kind], min_size=1))
    cast = f"SELECT * FROM unnest(%s::{kind}[])"
    found = postgres.exec_driver_sql(cast, (as_bytes(kind, values),)).scalars().all()
    assert found == values


@pytest.mark.postgres
@pytest.mark.parametrize("kind", COLUMNS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_an_array_arrives_as_its_values_by_asyncpg_too(
    fetch: Callable[[str, Any], list[Any]], kind: str, data: Any
) -> None:
    values = data.draw(st.lists(COLUMNS[kind], min_size=1))
    cast = f"SELECT * FROM unnest({place_of(kind, 1)})"
    assert fetch(cast, as_text_or_list(kind, values)) == values
