"""sessionware's part that is the same on every framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import make_url

from sessionware import SessionManager
from sessionware.coherence import Validate

from ..site import SECRET, Place, Site, postgres

_MODES = {"StampChannel": "stamps", "Broadcast": "notify"}


def store_url(place: Place, driver: str = "sqlite", query: str = "") -> str:
    if driver == "sqlite":
        return place.sqlite + query
    if driver == "aiosqlite":
        return place.sqlite.replace("sqlite://", "sqlite+aiosqlite://") + query
    url = make_url(postgres()).set(drivername=f"postgresql+{driver}")
    return url.render_as_string(hide_password=False)


def manager_for(
    place: Place,
    driver: str = "sqlite",
    query: str = "",
    **settings: Any,
) -> SessionManager:
    """All at its defaults but the store, and what is compared."""
    return SessionManager(
        secret_key=SECRET,
        store=store_url(place, driver, query),
        table_name=place.table,
        **settings,
    )


def site_of(
    manager: SessionManager, app: Any, bare: Any, close: Callable[[], Any] | None = None
) -> Site:
    channel: Any = manager.store.channel

    def alive() -> bool:
        # Who asks at each hit has nothing to wait for.
        up = isinstance(channel, Validate) or getattr(channel, "alive", True)
        # A stamp file is trusted by nobody in its first moments.
        return bool(up) and (not hasattr(channel, "missing") or channel.mark(bytes(32)) is not None)

    kind = type(channel).__name__
    notes = {"coherence": _MODES.get(kind, kind.lower())}
    return Site(
        app,
        bare,
        chill=manager.store.cache.clear,
        alive=alive,
        close=close or manager.shutdown,
        notes=notes,
    )
