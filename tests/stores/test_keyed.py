"""CachedStore as a key-value store, from threads and from coroutines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from sessionware import CachedStore, MemoryStore, SessionTooLarge, StoreUnavailable, clock
from sessionware.errors import DuplicateKey
from sessionware.stores.keyed import DEFAULT_TTL
from sessionware.stores.protocol import Row
from sessionware.stores.sql import SQLStore
from sessionware.stores.sql_async import AsyncSQLStore
from sessionware.testing import caller
from sessionware.testing.calls import together
from tests.byhand import Clock

# The store that it caches, and the event loop in which the coroutines run; without one, the plain
# methods are called.
KINDS: dict[str, tuple[Callable[[Path], Any], str | None]] = {
    "memory": (lambda _: MemoryStore(), None),
    "memory, awaited": (lambda _: MemoryStore(), "asyncio"),
    "sqlite": (lambda path: SQLStore(f"sqlite:///{path}"), None),
    "sqlite, awaited": (lambda path: SQLStore(f"sqlite:///{path}"), "asyncio"),
    "sqlite, awaited on trio": (lambda path: SQLStore(f"sqlite:///{path}"), "trio"),
    "aiosqlite": (lambda path: AsyncSQLStore(f"sqlite+aiosqlite:///{path}"), "asyncio"),
}
VALUE = {"name": "Ada", "cart": [1, {"price": 9.5}], "none": None, "": True}


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The store's clock, which stands still."""
    stands = Clock()
    monkeypatch.setattr(clock, "now", stands)
    return stands


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.db"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.fixture
def make(kind: Any, path: Path) -> Iterator[Callable[..., CachedStore]]:
    """Makes stores of this kind; those in a file share it, as processes do."""
    open_inner, backend = kind
    with ExitStack() as stack:
        portal = None
        if backend is not None:
            portal = stack.enter_context(start_blocking_portal(backend))

        def make_one(**options: Any) -> CachedStore:
            made = caller(CachedStore(open_inner(path), **options), portal)
            stack.callback(lambda: made.close())
            return made

        yield make_one


@pytest.fixture
def store(now: Clock, make: Callable[..., CachedStore]) -> CachedStore:
    return make()


def assert_absent(store: CachedStore, key: str) -> None:
    """There is nothing under the key, whichever way one asks, and nothing comes of trying."""
    assert (store.get(key), store.exists(key), store.ttl(key)) == (None, False, None)
    tried = (
        store.save(key, {"x": 1}),
        store.expire(key, 60),
        store.expire(key, 0),
        store.delete(key),
    )
    assert tried == (False,) * 4
    assert store.get(key) is None


def test_what_was_put_can_be_got(store: CachedStore) -> None:
    assert store.put("key", VALUE, ttl=60) is None

    assert store.get("key") == VALUE
    assert store.exists("key") is True
    assert store.ttl("key") == 60.0


def test_what_was_not_put_is_absent(store: CachedStore) -> None:
    store.put("key", VALUE)

    assert_absent(store, "other key")
    assert store.size() == 1


def test_put_replaces_the_value_and_its_lifetime(store: CachedStore, now: Clock) -> None:
    store.put("key", VALUE, ttl=60)
    now.tick(30)

    store.put("key", {"new": 1}, ttl=600)

    assert store.get("key") == {"new": 1}
    assert store.ttl("key") == 600.0
    assert store.size() == 1


def test_without_a_ttl_a_value_lives_for_14_days(store: CachedStore) -> None:
    store.put("key", VALUE)

    assert DEFAULT_TTL == 14 * 24 * 3600
    assert store.ttl("key") == DEFAULT_TTL
    assert store.ttl(store.create(VALUE)) == DEFAULT_TTL


def test_create_makes_a_key_that_nobody_can_guess(store: CachedStore) -> None:
    keys = [store.create({"n": n}, ttl=60) for n in range(10)]

    assert [store.get(key) for key in keys] == [{"n": n} for n in range(10)]
    assert [store.ttl(key) for key in keys] == [60.0] * 10
    assert len(set(keys)) == 10
    # 256 bits in base64.
    assert {len(key) for key in keys} == {43}


def test_create_comes_to_an_end_where_the_database_takes_no_row() -> None:
    class Refusing(MemoryStore):
        def insert(self, row: Row) -> int:
            raise DuplicateKey("a constraint of somebody else's")

    with pytest.raises(StoreUnavailable, match="constraint"):
        CachedStore(Refusing()).create(VALUE)


def test_save_replaces_the_value_and_leaves_its_lifetime(store: CachedStore, now: Clock) -> None:
    store.put("key", VALUE, ttl=60)
    now.tick(20)

    assert store.save("key", {"new": 1}) is True

    assert store.get("key") == {"new": 1}
    assert store.ttl("key") == 40.0


def test_expire_gives_the_value_another_lifetime(store: CachedStore, now: Clock) -> None:
    store.put("key", VALUE, ttl=60)

    for ttl in (600, 0.5, 30.25):
        assert store.expire("key", ttl) is True
        assert store.ttl("key") == ttl

    assert store.get("key") == VALUE
    now.tick(30.25)
    assert_absent(store, "key")


@pytest.mark.parametrize("ttl", [0, -1, -0.5])
def test_expire_at_once_deletes(store: CachedStore, ttl: float) -> None:
    store.put("key", VALUE)

    assert store.expire("key", ttl) is True

    assert_absent(store, "key")
    assert store.size() == 0


def test_a_value_lives_up_to_its_last_millisecond(store: CachedStore, now: Clock) -> None:
    store.put("key", VALUE, ttl=60)

    now.tick(59.999)
    assert store.get("key") == VALUE
    assert store.ttl("key") == 0.001
    assert store.size() == 1

    now.tick(0.001)
    assert_absent(store, "key")
    assert store.size() == 0


def test_delete_says_whether_there_was_a_value(store: CachedStore) -> None:
    store.put("key", VALUE)
    store.put("other key", VALUE)

    assert store.delete("key") is True

    assert_absent(store, "key")
    assert store.get("other key") == VALUE
    assert store.delete("key") is False


END: dict[str, Callable[[CachedStore, Clock], Any]] = {
    "delete": lambda store, now: store.delete("key"),
    "expire": lambda store, now: store.expire("key", 0),
    "its time": lambda store, now: now.tick(60),
    "clear": lambda store, now: store.clear(),
}


@pytest.mark.parametrize("end", END.values(), ids=END)
def test_a_key_can_be_used_again_after_its_end(
    store: CachedStore, now: Clock, end: Callable[[CachedStore, Clock], Any]
) -> None:
    for turn in range(3):
        store.put("key", {"turn": turn}, ttl=60)
        assert store.get("key") == {"turn": turn}
        end(store, now)
        assert_absent(store, "key")

    store.put("key", {"turn": "last"}, ttl=60)

    assert store.get("key") == {"turn": "last"}
    assert store.ttl("key") == 60.0
    assert store.size() == 1


def test_clear_deletes_everything_and_says_how_many(store: CachedStore, now: Clock) -> None:
    assert store.clear() == 0
    for number in range(5):
        store.put(f"key {number}", VALUE, ttl=60)

    assert store.clear() == 5

    assert [store.get(f"key {number}") for number in range(5)] == [None] * 5
    assert store.size() == 0


def test_size_counts_what_has_not_expired(store: CachedStore, now: Clock) -> None:
    for ttl in (10, 20, 30):
        store.put(f"key {ttl}", VALUE, ttl=ttl)

    assert store.size() == 3
    now.tick(20)
    assert store.size() == 1


@pytest.mark.parametrize("inner", [MemoryStore, lambda: SQLStore("sqlite://")])
def test_len_is_the_size_and_an_empty_store_is_true(inner: Callable[[], Any]) -> None:
    store = CachedStore(inner())
    assert (len(store), bool(store)) == (0, True)

    store.put("key", VALUE)

    assert len(store) == store.size() == 1
    store.close()


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_lifetime_that_is_none_is_refused_and_nothing_changes(
    store: CachedStore, ttl: float
) -> None:
    store.put("key", VALUE, ttl=60)

    with pytest.raises(ValueError, match="ttl"):
        store.put("key", {"new": 1}, ttl=ttl)
    with pytest.raises(ValueError, match="ttl"):
        store.create({"new": 1}, ttl=ttl)
    if not ttl <= 0:
        with pytest.raises(ValueError, match="ttl"):
            store.expire("key", ttl)

    assert store.get("key") == VALUE
    assert store.ttl("key") == 60.0
    assert store.size() == 1


def test_a_value_that_is_too_large_is_refused_and_the_old_one_stays(store: CachedStore) -> None:
    store.put("key", VALUE)
    large = {"note": "", "text": "x" * 65_536}

    for write in (
        functools.partial(store.put, "key", large),
        functools.partial(store.save, "key", large),
        functools.partial(store.create, large),
    ):
        with pytest.raises(SessionTooLarge, match="largest keys: 'text' ") as caught:
            write()
        assert [name for name, _ in caught.value.largest] == ["text", "note"]

    assert store.get("key") == VALUE
    assert store.size() == 1


def test_rich_values_come_back_equal_and_of_the_same_type(store: CachedStore) -> None:
    value = {"at": datetime(2026, 1, 2, tzinfo=UTC), "raw": b"\x00\xff", "pair": (1, "2"), 3: "int"}

    store.put("key", value)

    found = store.get("key")
    assert found == value
    assert found is not None
    assert [type(each) for each in found.values()] == [datetime, bytes, tuple, str]


def test_nobody_shares_a_value(store: CachedStore) -> None:
    """Neither with who put it, nor with who got it before, nor with the cache."""
    given: dict[str, Any] = {"cart": [1], "nested": {"deep": {"list": []}}}
    store.put("key", given)
    given["cart"].append("by the giver")

    for _ in range(3):
        found = store.get("key")
        assert found is not None
        assert found == {"cart": [1], "nested": {"deep": {"list": []}}}
        found["cart"].append("by a getter")
        found["nested"]["deep"]["list"].append("by a getter")
        found["new"] = 1

    saved: dict[str, list[Any]] = {"cart": [2]}
    assert store.save("key", saved)
    saved["cart"].append("by the saver")
    assert store.get("key") == {"cart": [2]}


def test_each_key_is_another(store: CachedStore) -> None:
    keys = [
        "key",
        "Key",
        "key ",
        " key",
        "",
        "\0",
        "kéy",
        "ke\u0301y",
        "k" * 10_000,
        "😀",
        "%",
        "'",
    ]
    for key in keys:
        store.put(key, {"key": key})

    assert [store.get(key) for key in keys] == [{"key": key} for key in keys]
    assert store.size() == len(keys)


def test_of_parallel_puts_one_is_the_last_and_none_fails(store: CachedStore) -> None:
    values = [{"n": n} for n in range(8)]
    for _ in range(3):
        outcomes = together(*(functools.partial(store.put, "key", value) for value in values))

        assert outcomes == [None] * 8
        assert store.get("key") in values
        assert store.size() == 1
        store.delete("key")


def test_parallel_creates_all_get_keys_of_their_own(store: CachedStore) -> None:
    keys = together(*(functools.partial(store.create, {"n": n}) for n in range(8)))

    assert [store.get(key) for key in keys] == [{"n": n} for n in range(8)]


def test_of_parallel_saves_none_is_refused_while_the_value_is_there(store: CachedStore) -> None:
    store.put("key", VALUE)

    assert (
        together(*(functools.partial(store.save, "key", {"n": n}) for n in range(8))) == [True] * 8
    )

    assert store.get("key") in [{"n": n} for n in range(8)]


def test_a_deleted_value_does_not_come_back_through_parallel_saves(store: CachedStore) -> None:
    for _ in range(3):
        store.put("key", VALUE)
        save = functools.partial(store.save, "key", {"late": 1})

        outcomes = together(save, save, functools.partial(store.delete, "key"), save, save)

        assert outcomes[2] is True
        assert_absent(store, "key")


in_a_file = pytest.mark.parametrize(
    "kind",
    [value for name, value in KINDS.items() if "sqlite" in name],
    ids=[name for name in KINDS if "sqlite" in name],
)


@in_a_file
@pytest.mark.parametrize(
    "modes", [("validate", "validate"), ("stamps", "stamps"), ("stamps", "bounded")]
)
def test_two_processes_see_each_others_changes_at_once(
    make: Callable[..., CachedStore], modes: tuple[str, str]
) -> None:
    """Though each has the value in its own cache. Whoever writes moves the stamps, in any mode."""
    one, other = (make(coherence=mode) for mode in modes)
    one.put("key", {"by": "one"})
    assert other.get("key") == {"by": "one"}

    other.put("key", {"by": "other"})
    assert one.get("key") == {"by": "other"}
    assert one.delete("key") is True
    if modes[1] != "bounded":
        assert (other.get("key"), other.exists("key")) == (None, False)
    other.put("key", {"by": "other again"})
    assert one.get("key") == {"by": "other again"}
    assert other.clear() == 1
    assert one.get("key") is None


@in_a_file
@pytest.mark.parametrize(("cache_ttl", "found"), [(30.0, VALUE), (0, None)])
def test_bounded_serves_what_it_has_while_its_cache_is_on(
    make: Callable[..., CachedStore], cache_ttl: float, found: dict[str, Any] | None
) -> None:
    store = make(coherence="bounded", cache_ttl=cache_ttl)
    store.put("key", VALUE)

    assert make().delete("key") is True

    assert store.get("key") == found


def test_keys_are_not_stored_in_the_clear(path: Path) -> None:
    store = CachedStore(SQLStore(f"sqlite:///{path}"))
    store.put("a key to look for", {"text": "a value to look for"})
    created = store.create({"n": 1})
    store.close()

    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"a value to look for" in stored
    assert b"a key to look for" not in stored
    assert created.encode() not in stored
