"""Stores: where sessions live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, make_url

from .cached import CachedStore
from .memory import MemoryStore
from .protocol import RETIRED, AsyncStore, Row, Stamp, Store

if TYPE_CHECKING:
    from ..config import Settings


def open_store(settings: Settings) -> Any:
    """The store that the settings name. No I/O: engines are made at the first use."""
    given = settings.store
    if not isinstance(given, str | URL | Engine) and not _is_async_engine(given):
        return given
    from .engines import is_async_url
    from .sql import AsyncSQLStore, SQLStore

    options = {
        "table_name": settings.table_name,
        "create_table": settings.create_table,
        "timeout": settings.store_timeout,
    }
    if isinstance(given, Engine):
        return SQLStore(given, **options)
    if isinstance(given, str | URL):
        url = make_url(given)
        return AsyncSQLStore(url, **options) if is_async_url(url) else SQLStore(url, **options)
    return AsyncSQLStore(given, **options)


def _is_async_engine(value: object) -> bool:
    from sqlalchemy.ext.asyncio import AsyncEngine

    return isinstance(value, AsyncEngine)


__all__ = [
    "RETIRED",
    "AsyncStore",
    "CachedStore",
    "MemoryStore",
    "Row",
    "Stamp",
    "Store",
    "open_store",
]
