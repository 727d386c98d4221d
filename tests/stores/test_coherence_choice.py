"""Which way of coherence a store gets, and which it can't have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from sessionware import CachedStore, ConfigurationError, MemoryStore, SessionManager
from sessionware.coherence import Bounded, Channel, StampChannel, Validate
from sessionware.coherence.broadcast import Broadcast
from sessionware.stores.sql import SQLStore
from tests.apps import SECRET

BEST: dict[str, type] = {
    "sqlite:///sessions.db": StampChannel,
    "sqlite+aiosqlite:///sessions.db": StampChannel,
    "sqlite://": Validate,
    "sqlite:///:memory:": Validate,
    "sqlite:///file:sessions.db?uri=true": StampChannel,
    "sqlite:///file:x?mode=memory&uri=true": Validate,
    "postgresql+psycopg://h/d": Broadcast,
    "postgresql+asyncpg://h/d": Broadcast,
    "mysql+pymysql://h/d": Validate,
    "mariadb+asyncmy://h/d": Validate,
}


def channel_of(**settings: Any) -> Channel:
    return SessionManager(secret_key=SECRET, purge_interval=None, **settings).store.channel


@pytest.mark.parametrize(("url", "kind"), BEST.items())
def test_auto_is_the_best_that_the_database_has(url: str, kind: type, tmp_path: Path) -> None:
    assert type(channel_of(store=url)) is kind
    # Nothing is opened or made before the first use.
    assert list(tmp_path.iterdir()) == []


def test_an_engine_and_a_store_by_hand_get_what_their_url_would() -> None:
    engine = create_engine("sqlite:///own.db", hide_parameters=True)
    assert type(channel_of(store=engine)) is StampChannel
    assert type(channel_of(store=SQLStore("sqlite:///own.db"))) is StampChannel
    assert type(channel_of(store=MemoryStore())) is Validate


def test_a_cached_store_by_hand_validates_and_keeps_what_it_was_given() -> None:
    store = SQLStore("sqlite:///own.db")
    assert type(CachedStore(store).channel) is Validate
    bounded = CachedStore(store, coherence="bounded")
    assert type(bounded.channel) is Bounded
    assert channel_of(store=bounded) is bounded.channel


@pytest.mark.parametrize(
    ("coherence", "url"),
    [
        *(("stamps", url) for url, kind in BEST.items() if kind is not StampChannel),
        *(("notify", url) for url, kind in BEST.items() if kind is not Broadcast),
    ],
)
def test_a_way_that_the_database_does_not_have_is_refused_with_the_fix(
    coherence: str, url: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        channel_of(store=url, coherence=coherence)
    (finding,) = refused.value.findings
    assert (finding.code, finding.setting) == ("SW017", "coherence")
    assert '"auto"' in finding.fix


@pytest.mark.parametrize(
    ("coherence", "url"),
    [
        *(("auto", url) for url, kind in BEST.items() if kind is not Broadcast),
        *((mode, "postgresql+psycopg://h/d") for mode in ("validate", "bounded", Validate())),
    ],
)
def test_a_url_to_listen_at_is_refused_where_nobody_would(
    coherence: str | Channel, url: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        channel_of(store=url, coherence=coherence, listen_url="postgresql+psycopg://h/d")
    (finding,) = refused.value.findings
    assert (finding.code, finding.setting) == ("SW017", "listen_url")
    assert '"notify"' in finding.fix
