"""Stores: where sessions live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .cached import CachedStore
from .memory import MemoryStore
from .protocol import RETIRED, AsyncStore, Row, Stamp, Store

if TYPE_CHECKING:
    from ..config import Settings


def open_store(settings: Settings) -> Any:
    """The store that the settings name. No I/O: engines are made at the first use.

    SQLAlchemy is imported only for a database, its asyncio part only for an async one.
    """
    given = settings.store
    origins = [base.__module__ for base in type(given).__mro__]
    if not isinstance(given, str) and not any(each.startswith("sqlalchemy.") for each in origins):
        return given
    from sqlalchemy import make_url

    options: dict[str, Any] = {
        "table_name": settings.table_name,
        "create_table": settings.create_table,
        "timeout": settings.store_timeout,
    }
    database = make_url(given) if isinstance(given, str) else given
    url = getattr(database, "url", database)
    if not _is_async(database, url):
        from .sql import SQLStore

        return SQLStore(database, **options)
    from .sql_async import AsyncSQLStore

    return AsyncSQLStore(database, **options)


def _is_async(database: Any, url: Any) -> bool:
    """psycopg's URLs name one dialect for both worlds: an engine says itself which it is."""
    if database is url:
        return bool(url.get_dialect().is_async)
    return hasattr(database, "sync_engine")


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
