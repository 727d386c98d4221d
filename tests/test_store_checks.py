"""What is wrong with a store that is made by hand is said when it is made, as of a setting."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from sessionware import CachedStore, ConfigurationError, MemoryStore
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore

TIMES: list[Any] = [0, -1, None, "2", True, float("nan")]

IN_SQL: list[tuple[str, Any]] = [
    *(("timeout", value) for value in TIMES),
    *(("connections", value) for value in (0, -1, "8", 1.5, None, True)),
    *(("table_name", value) for value in ("", "a b", 'a";--', None)),
    *(("create_table", value) for value in ("False", 1, None)),
]
CACHED: list[tuple[str, Any]] = [
    *(("store_timeout", value) for value in TIMES),
    *(("cache_ttl", value) for value in (-1, None, "30", float("nan"))),
    *(("cache_max_bytes", value) for value in (-1, None, "1", 1.5)),
    *(("coherence", value) for value in ("validated", "", None, 1)),
]


def refused(make: Any, *given: Any, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make(*given, **options)
    (finding,) = caught.value.findings
    assert finding.fix
    return finding.setting


@pytest.mark.parametrize(("name", "value"), IN_SQL)
def test_a_store_in_sql_refuses_a_wrong_option_by_its_name(name: str, value: Any) -> None:
    assert refused(SQLStore, "sqlite:///a.db", **{name: value}) == name
    assert refused(AsyncSQLStore, "sqlite+aiosqlite:///a.db", **{name: value}) == name


@pytest.mark.parametrize(("name", "value"), CACHED)
def test_a_cached_store_refuses_a_wrong_option_by_its_name(name: str, value: Any) -> None:
    assert refused(CachedStore, MemoryStore(), **{name: value}) == name


@pytest.mark.parametrize("store", ["sqlite:///a.db", None, MemoryStore, object()])
def test_a_cached_store_needs_a_store(store: Any) -> None:
    assert refused(CachedStore, store) == "store"


def test_times_may_be_timedeltas() -> None:
    assert SQLStore("sqlite:///a.db", timeout=timedelta(seconds=3)).timeout == 3.0
    store = CachedStore(
        MemoryStore(), cache_ttl=timedelta(minutes=1), store_timeout=timedelta(seconds=3)
    )
    assert (store.cache.ttl, store.timeout) == (60.0, 3.0)
