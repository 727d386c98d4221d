"""On Flask: sessionware, Flask's own cookie, Flask-Session."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import warnings
from typing import Any

from flask import Flask, session
from sqlalchemy import Engine, event

from ..site import ANSWER, LARGE, PAGES, PAYLOAD, SECRET, Place, Site, redis
from .ours import manager_for, site_of
from .wsgi_peers import _as_wal


def plain() -> str:
    return ANSWER


def read() -> str:
    session.get("user")
    return ANSWER


def write() -> str:
    session["n"] = session.get("n", 0) + 1
    return ANSWER


def login() -> str:
    session.clear()
    session["user_id"] = "alice"
    return ANSWER


def logout() -> str:
    session.clear()
    return ANSWER


def seed() -> str:
    session.update(PAYLOAD)
    return ANSWER


def seed20() -> str:
    session.update(LARGE)
    return ANSWER


def show() -> str:
    return json.dumps({key: value for key, value in dict(session).items() if key[0] != "_"})


def application(*, with_sessions: bool) -> Flask:
    app = Flask(__name__)
    for view in (plain, read, write, login, logout, seed, seed20, show):
        app.add_url_rule(f"/{view.__name__}", view.__name__, view if with_sessions else plain)
    if with_sessions:
        app.secret_key = SECRET
    return app


def build(place: Place, kind: str, **options: Any) -> Site:
    app = application(with_sessions=True)
    bare = application(with_sessions=False)
    assert len(PAGES) == 8
    if kind == "sessionware":
        from sessionware.flask import FlaskSessions

        manager = manager_for(place, **options)
        FlaskSessions(app, manager=manager)
        return site_of(manager, app, bare)
    if kind != "cookie":
        with warnings.catch_warnings():
            # Flask-Session's own ways to configure it are deprecated by itself.
            warnings.simplefilter("ignore")
            _flask_session(app, place, kind)
    return Site(app, bare)


def _flask_session(app: Flask, place: Place, kind: str) -> None:
    """https://flask-session.readthedocs.io: its defaults; JSON-like msgpack by msgspec."""
    from flask_session import Session

    if kind == "redis":
        from redis import Redis

        app.config["SESSION_TYPE"] = "redis"
        app.config["SESSION_REDIS"] = Redis.from_url(redis())
        app.config["SESSION_KEY_PREFIX"] = f"{place.table}:"
    elif kind == "sqlalchemy":
        from flask_sqlalchemy import SQLAlchemy

        event.listen(Engine, "connect", _as_wal)
        app.config["SQLALCHEMY_DATABASE_URI"] = place.sqlite
        app.config["SESSION_TYPE"] = "sqlalchemy"
        app.config["SESSION_SQLALCHEMY"] = SQLAlchemy(app)
    else:
        from cachelib.file import FileSystemCache

        app.config["SESSION_TYPE"] = "cachelib"
        # Its default threshold would throw away all but 500 sessions.
        app.config["SESSION_CACHELIB"] = FileSystemCache(
            str(place.folder / place.table), threshold=100_000
        )
    Session(app)
