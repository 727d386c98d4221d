"""The tables as the databases have them, and how they come to be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, inspect, text

from sessionware import ConfigurationError, SessionManager
from sessionware.stores.sql import SQLStore
from sessionware.testing.calls import together
from sessionware.testing.support import NOW, put
from tests.databases import drivers

from .conftest import prepare_and_put

TYPES = {
    "sqlite": {
        "id": "INTEGER",
        "sid_hash": "BLOB",
        "version": "INTEGER",
        "epoch": "INTEGER",
        "user_id": "VARCHAR(255)",
        "data": "BLOB",
        "times": "BIGINT",
        "ip": "VARCHAR(45)",
        "user_agent": "VARCHAR(255)",
    },
    "postgresql": {
        "id": "BIGINT",
        "sid_hash": "BYTEA",
        "version": "INTEGER",
        "epoch": "INTEGER",
        "user_id": "VARCHAR(255)",
        "data": "BYTEA",
        "times": "BIGINT",
        "ip": "VARCHAR(45)",
        "user_agent": "VARCHAR(255)",
    },
    "mysql": {
        "id": "BIGINT",
        "sid_hash": "BINARY(32)",
        "version": "INTEGER",
        "epoch": "INTEGER",
        "user_id": "VARCHAR(255) COLLATE utf8mb4_bin",
        "data": "MEDIUMBLOB",
        "times": "BIGINT",
        "ip": "VARCHAR(45)",
        "user_agent": "VARCHAR(255)",
    },
}
TIMES = ("created_at", "authenticated_at", "last_seen", "expires_at", "purge_after")
NULLABLE = {"user_id", "authenticated_at", "ip", "user_agent"}
each_server = drivers("sqlite", "psycopg", "pymysql")


@each_server
def test_each_column_has_its_type(
    open_store: Callable[..., SQLStore], url: str, engine: Engine, table_name: str
) -> None:
    open_store(url, table_name=table_name).prepare()

    columns = {column["name"]: column for column in inspect(engine).get_columns(table_name)}

    expected = dict(TYPES[engine.dialect.name])
    expected |= dict.fromkeys(TIMES, expected.pop("times"))
    assert {name: _shown(column["type"]) for name, column in columns.items()} == expected
    assert {name for name, column in columns.items() if column["nullable"]} == NULLABLE
    retired = inspect(engine).get_columns(f"{table_name}_retired")
    assert {column["name"]: _shown(column["type"]) for column in retired} == {
        "sid_hash": expected["sid_hash"],
        "until": expected["created_at"],
    }
    assert not [column["name"] for column in retired if column["nullable"]]


def _shown(column_type: Any) -> str:
    collation = getattr(column_type, "collation", None)
    shown = str(column_type)
    # The database's own collation is nobody's choice.
    return shown.partition(" COLLATE")[0] if collation != "utf8mb4_bin" else shown


@each_server
def test_only_what_a_touch_leaves_alone_is_indexed(
    open_store: Callable[..., SQLStore], url: str, engine: Engine, table_name: str
) -> None:
    open_store(url, table_name=table_name).prepare()
    there = inspect(engine)

    indexed = {
        (*index["column_names"], bool(index["unique"])) for index in there.get_indexes(table_name)
    }
    unique = {
        (*constraint["column_names"], True)
        for constraint in there.get_unique_constraints(table_name)
    }

    assert indexed | unique == {("sid_hash", True), ("user_id", False), ("purge_after", False)}
    assert there.get_pk_constraint(table_name)["constrained_columns"] == ["id"]
    retired_key = there.get_pk_constraint(f"{table_name}_retired")
    assert retired_key["constrained_columns"] == ["sid_hash"]


@drivers("sqlite", "psycopg")
def test_what_looks_for_a_user_finds_it_by_the_index_that_leaves_out_visitors(
    open_store: Callable[..., SQLStore], engine: Engine, table_name: str
) -> None:
    store = open_store(engine, table_name=table_name)
    store.prepare()
    put(store, user_id="alice")
    asked: list[tuple[str, Any]] = []

    def note(_1: Any, _2: Any, statement: str, parameters: Any, *_3: Any) -> None:
        if statement.startswith("SELECT") and "user_id =" in statement:
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    store.user_rows("alice", NOW)
    store.remove_user("alice")
    event.remove(engine, "before_cursor_execute", note)

    assert len(asked) >= 2
    sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        if not sqlite:
            connection.exec_driver_sql("SET enable_seqscan = off")
        for statement, parameters in asked:
            explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
            plan = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
            assert f"{table_name}_user_id_idx" in str(plan)
        (options,) = (
            each.get("dialect_options", {})
            for each in inspect(connection).get_indexes(table_name)
            if each["column_names"] == ["user_id"]
        )
    (where,) = (value for name, value in options.items() if name.endswith("where"))
    assert "user_id IS NOT NULL" in str(where)


@drivers("psycopg")
def test_postgresql_leaves_room_in_each_page(
    open_store: Callable[..., SQLStore], url: str, engine: Engine, table_name: str
) -> None:
    open_store(url, table_name=table_name).prepare()

    with engine.connect() as connection:
        query = text("SELECT reloptions FROM pg_class WHERE relname = :name")
        assert connection.execute(query, {"name": table_name}).scalar() == ["fillfactor=75"]


@drivers("pymysql")
def test_mysql_uses_innodb_with_long_keys(
    open_store: Callable[..., SQLStore], url: str, engine: Engine, table_name: str
) -> None:
    open_store(url, table_name=table_name).prepare()

    with engine.connect() as connection:
        query = text(
            "SELECT engine, row_format, table_collation FROM information_schema.tables "
            "WHERE table_schema = database() AND table_name LIKE :name"
        )
        found = connection.execute(query, {"name": f"{table_name}%"}).all()

    assert [(row[0], row[1]) for row in found] == [("InnoDB", "Dynamic")] * 2
    assert all(row[2].startswith("utf8mb4_") for row in found)


@each_server
def test_the_tables_are_no_part_of_another_metadata_and_leave_other_tables_alone(
    open_store: Callable[..., SQLStore], url: str, engine: Engine, table_name: str
) -> None:
    before = set(inspect(engine).get_table_names())

    open_store(url, table_name=table_name).prepare()

    new = set(inspect(engine).get_table_names()) - before
    # Tests that run at the same time make tables of other names.
    assert {name for name in new if name.startswith(table_name)} == {
        table_name,
        f"{table_name}_retired",
    }


@each_server
def test_four_that_start_at_once_all_find_their_tables(
    open_store: Callable[..., SQLStore], url: str, engine: Engine, table_name: str
) -> None:
    for turn in range(3):
        name = f"{table_name}_{turn}"
        stores = [open_store(url, table_name=name, connections=1) for _ in range(4)]

        outcomes = together(*(functools.partial(prepare_and_put, store) for store in stores))

        assert outcomes == [True] * 4
        assert stores[0].count(NOW) == 4
        assert len(inspect(engine).get_indexes(name)) >= 2


@each_server
@pytest.mark.parametrize("missing", ["", "_retired"])
def test_without_create_table_a_missing_table_is_named_with_the_fix(
    open_store: Callable[..., SQLStore], url: str, engine: Engine, table_name: str, missing: str
) -> None:
    if missing:
        open_store(url, table_name=table_name).prepare()
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE {table_name}{missing}")
    store = open_store(url, table_name=table_name, create_table=False)

    with pytest.raises(ConfigurationError, match="SW026") as caught:
        store.prepare()

    (finding,) = caught.value.findings
    assert finding.setting == "create_table"
    assert f"'{table_name}{missing}'" in finding.message
    assert "create_table=True" in finding.fix
    assert (table_name in inspect(engine).get_table_names()) is bool(missing)


def test_a_manager_says_it_too(sqlite_url: str) -> None:
    manager = SessionManager(secret_key="x" * 40, store=sqlite_url, create_table=False)

    with pytest.raises(ConfigurationError, match="SW026"):
        manager.revoke_all()

    manager.shutdown()


@each_server
def test_without_create_table_the_migrations_tables_are_used(
    open_store: Callable[..., SQLStore], url: str, table_name: str
) -> None:
    open_store(url, table_name=table_name).prepare()
    store = open_store(url, table_name=table_name, create_table=False)

    store.prepare()

    assert store.reload(put(store).id) is not None


@each_server
@pytest.mark.parametrize("create_table", [True, False])
@pytest.mark.parametrize("which", ["", "_retired"])
def test_a_table_without_its_unique_hash_is_refused_with_the_statement_that_mends_it(
    open_store: Callable[..., SQLStore],
    url: str,
    engine: Engine,
    table_name: str,
    which: str,
    create_table: bool,
) -> None:
    open_store(url, table_name=table_name).prepare()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE {table_name}_bare AS SELECT * FROM {table_name}{which}"
        )
        connection.exec_driver_sql(f"DROP TABLE {table_name}{which}")
        connection.exec_driver_sql(f"ALTER TABLE {table_name}_bare RENAME TO {table_name}{which}")
    store = open_store(url, table_name=table_name, create_table=create_table)

    with pytest.raises(ConfigurationError, match="SW028") as caught:
        store.prepare()

    (finding,) = caught.value.findings
    with engine.begin() as connection:
        connection.exec_driver_sql(finding.fix.rstrip("."))
    open_store(url, table_name=table_name, create_table=create_table).prepare()


@drivers("psycopg", "pymysql")
@pytest.mark.parametrize("create_table", [True, False])
def test_a_view_may_stand_before_a_table(
    open_store: Callable[..., SQLStore],
    url: str,
    engine: Engine,
    table_name: str,
    create_table: bool,
    request: pytest.FixtureRequest,
) -> None:
    open_store(url, table_name=table_name).prepare()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table_name} RENAME TO {table_name}_2")
        connection.exec_driver_sql(f"CREATE VIEW {table_name} AS SELECT * FROM {table_name}_2")
    request.addfinalizer(functools.partial(_drop_view, engine, table_name))
    store = open_store(url, table_name=table_name, create_table=create_table)
    store.prepare()
    row = put(store)
    assert store.load(row.sid_hash, NOW) == row


def _drop_view(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP VIEW {name}")


@pytest.fixture
def schema_name(driver: str, table_name: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A schema to put a table into."""
    if driver != "psycopg":
        yield {"sqlite": "main", "pymysql": "test"}[driver]
        return
    engine: Engine = request.getfixturevalue("engine")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {table_name}_schema")
    yield f"{table_name}_schema"
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        connection.exec_driver_sql(f"DROP SCHEMA {table_name}_schema CASCADE")


@each_server
def test_a_table_can_be_in_a_schema(
    open_store: Callable[..., SQLStore],
    url: str,
    engine: Engine,
    table_name: str,
    schema_name: str,
) -> None:
    store = open_store(url, table_name=f"{schema_name}.{table_name}")
    for _ in range(2):
        store.prepare()
    again = open_store(url, table_name=f"{schema_name}.{table_name}", create_table=False)
    again.prepare()

    row = put(store)

    assert again.load(row.sid_hash, NOW) == row
    there = inspect(engine)
    names = {table_name, f"{table_name}_retired"}
    assert names <= set(there.get_table_names(schema_name))
    assert len(there.get_indexes(table_name, schema_name)) >= 2
    if schema_name.startswith("sw_"):
        assert not names & set(there.get_table_names())
    store.close()
