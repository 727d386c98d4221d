"""Who else changed this: whether a cached row may be served without asking the database."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigurationError, Finding
from .bounded import Bounded
from .slots import Channel
from .stamps import StampChannel
from .validate import Validate


def channel_for(wanted: str | Channel, store: Any, listen_url: Any = None) -> Channel:
    """The channel that a setting names, for a store. No I/O.

    ``"auto"`` is ``"stamps"`` for a SQLite file, ``"notify"`` for PostgreSQL, else ``"validate"``.
    Raises ``ConfigurationError`` where the two do not fit.
    """
    if not isinstance(wanted, str):
        bind = getattr(wanted, "bind", None)
        bound: Channel = wanted
        if bind is not None:
            bound = bind(getattr(store, "table_name", "sessions"))
        return bound
    url = getattr(store, "url", None)
    url = url if hasattr(url, "get_backend_name") else None
    backend = "" if url is None else url.get_backend_name()
    stamps = getattr(store, "stamps", None)
    if wanted == "auto":
        wanted = "notify" if backend == "postgresql" else "validate" if stamps is None else "stamps"
    if wanted == "stamps" and stamps is not None:
        return StampChannel(stamps)
    if wanted == "notify" and url is not None and backend == "postgresql":
        from sqlalchemy import make_url

        from .notify import notify_channel

        listen = None if listen_url is None else make_url(listen_url)
        return notify_channel(url, listen, store.table_name)
    if wanted in ("stamps", "notify"):
        kind = "a SQLite file" if wanted == "stamps" else "PostgreSQL"
        message = f"{wanted!r} needs {kind}, and the store is another one."
        fix = 'use "auto": the best that the store has.'
        raise ConfigurationError([Finding("SW017", "coherence", message, fix)])
    return Bounded() if wanted == "bounded" else Validate()


__all__ = ["Bounded", "Channel", "StampChannel", "Validate", "channel_for"]
