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
    Raises ``ConfigurationError`` where they do not fit.
    """
    url: Any = getattr(store, "url", None)
    on_postgres = hasattr(url, "get_backend_name") and url.get_backend_name() == "postgresql"
    stamps = getattr(store, "stamps", None)
    if wanted == "auto":
        wanted = "notify" if on_postgres else "validate" if stamps is None else "stamps"
    if listen_url is not None and wanted != "notify":
        message = "nobody would listen there: the caches of this store use no NOTIFY."
        fix = 'leave it out, or use coherence="notify" with a store in PostgreSQL.'
        raise ConfigurationError([Finding("SW017", "listen_url", message, fix)])
    if not isinstance(wanted, str):
        bind = getattr(wanted, "bind", None)
        bound: Channel = wanted
        if bind is not None:
            bound = bind(getattr(store, "table_name", "sessions"))
        return bound
    if wanted == "stamps" and stamps is not None:
        return StampChannel(stamps)
    if wanted == "notify" and on_postgres:
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
