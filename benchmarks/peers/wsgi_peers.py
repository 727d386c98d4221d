"""On nothing but WSGI: the floor, sessionware's middleware and Beaker's."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Engine, event

from ..site import ANSWER, LARGE, LIFETIME, PAYLOAD, SECRET, Place, Site, libpq, postgres
from .ours import manager_for, site_of

_BODY = ANSWER.encode()


def _show(session: Any) -> bytes:
    data = dict(getattr(session, "data", session))
    kept = {key: value for key, value in data.items() if not key.startswith("_")}
    return json.dumps(kept).encode()


def _write(session: Any) -> None:
    session["n"] = session.get("n", 0) + 1


PAGES: dict[str, Callable[[Any], Any]] = {
    "/read": lambda session: session.get("user") and None,
    "/write": _write,
    "/login": lambda session: session.update({"user_id": "alice"}),
    "/logout": lambda session: session.clear(),
    "/seed": lambda session: session.update(PAYLOAD),
    "/seed20": lambda session: session.update(LARGE),
    "/show": _show,
}


def application(key: str | None, pages: dict[str, Callable[[Any], Any]]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        body = _BODY
        if path != "/plain" and key is not None:
            body = pages[path](environ[key]) or _BODY
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]

    return app


def build(place: Place, kind: str, **options: Any) -> Site:
    bare = application(None, PAGES)
    if kind == "beaker":
        return Site(_beaker(place, **options), bare)
    if kind == "floor":
        return _floor(place, bare, **options)
    from sessionware.wsgi import SessionMiddleware

    manager = manager_for(place, **options)
    app = SessionMiddleware(application("sessionware.session", PAGES), manager=manager)
    return site_of(manager, app, bare)


def _floor(place: Place, bare: Any, driver: str = "sqlite") -> Site:
    from .floor_threads import Psycopg, Sqlite
    from .floor_wsgi import KEY, Pool, WsgiFloor

    def connect() -> Any:
        if driver == "sqlite":
            return Sqlite(place.file, "normal")
        return Psycopg(libpq(postgres()), place.table)

    pool = Pool(connect, 8)
    # SQLite has one writer at a time: better to queue here than to poll its lock.
    writers = Pool(connect, 1) if driver == "sqlite" else pool
    made = WsgiFloor(application(KEY, PAGES), pool, writers)
    return Site(made, bare, chill=made.cache.clear)


def _beaker(place: Place, sqlite: bool) -> Any:
    """https://beaker.readthedocs.io: a signed cookie, JSON, `save()` by the handler."""
    from beaker.middleware import SessionMiddleware

    def saving(page: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def saved(session: Any) -> None:
            page(session)
            session.save()

        return saved

    options = {
        "session.type": "file",
        "session.data_dir": str(place.folder / place.table),
        "session.lock_dir": str(place.folder / f"{place.table}-locks"),
        "session.key": "session",
        "session.secret": SECRET,
        "session.timeout": LIFETIME,
        "session.data_serializer": "json",
        "session.httponly": True,
        "session.samesite": "Lax",
    }
    if sqlite:
        event.listen(Engine, "connect", _as_wal)
        options |= {"session.type": "ext:database", "session.url": place.sqlite}
    changing = {f"/{name}" for name in ("write", "login", "seed", "seed20")}
    pages = {path: saving(page) if path in changing else page for path, page in PAGES.items()}
    pages["/logout"] = lambda session: session.delete()
    return SessionMiddleware(application("beaker.session", pages), options)


def _as_wal(connection: Any, _: Any) -> None:
    """The same settings of SQLite for everybody."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
