"""On Django: sessionware's engine, `cached_db` and `db`, each with Django's own middleware."""

# mypy: disable-error-code="import-untyped"
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from sqlalchemy import make_url

from ..site import ANSWER, LARGE, PAGES, PAYLOAD, SECRET, Place, Site, postgres
from .ours import store_url

_BODY = ANSWER.encode()


def _plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(_BODY, content_type="text/plain")


def _changing(change: Callable[[Any], object]) -> Callable[[HttpRequest], HttpResponse]:
    def view(request: HttpRequest) -> HttpResponse:
        change(request.session)
        return HttpResponse(_BODY, content_type="text/plain")

    return view


def _write(session: Any) -> None:
    session["n"] = session.get("n", 0) + 1


def _login(session: Any) -> None:
    """What `django.contrib.auth.login` does with the session."""
    session.cycle_key()
    session["_auth_user_id"] = "1"


def _show(request: HttpRequest) -> HttpResponse:
    shown = json.dumps(dict(request.session.items()))
    return HttpResponse(shown.encode(), content_type="text/plain")


_VIEWS: dict[str, Callable[[HttpRequest], HttpResponse]] = {
    "plain": _plain,
    "read": _changing(lambda session: session.get("user")),
    "write": _changing(_write),
    "login": _changing(_login),
    "logout": _changing(lambda session: session.flush()),
    "seed": _changing(lambda session: session.update(PAYLOAD)),
    "seed20": _changing(lambda session: session.update(LARGE)),
    "show": _show,
}
urlpatterns = [path(name, _VIEWS[name]) for name in PAGES]
urlpatterns += [path(f"bare/{name}", _plain) for name in PAGES]


def build(place: Place, engine: str, postgres: bool = False) -> Site:
    ours = engine == "sessionware.django"
    settings.configure(
        SECRET_KEY=SECRET,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        DATABASES={"default": _on_postgres(place) if postgres else _on_sqlite(place)},
        CACHES={
            "default": {
                "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
                "OPTIONS": {"MAX_ENTRIES": 100_000},
            }
        },
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        SESSION_ENGINE=engine,
        SESSION_COOKIE_NAME="session",
        SESSIONWARE={
            "store": store_url(place, "psycopg" if postgres else "sqlite"),
            "table_name": place.table,
        },
        USE_TZ=True,
    )
    django.setup()
    app = get_wsgi_application()
    settings.MIDDLEWARE = []
    bare = _below("/bare", get_wsgi_application())
    if ours:
        from sessionware.django import manager

        from .ours import site_of

        return site_of(manager(), app, bare)
    _make_table(place)
    from django.core.cache import cache

    return Site(app, bare, chill=cache.clear)


def _below(prefix: str, app: Any) -> Any:
    def below(environ: dict[str, Any], start_response: Any) -> Any:
        environ["PATH_INFO"] = prefix + environ["PATH_INFO"]
        return app(environ, start_response)

    return below


def _make_table(place: Place) -> None:
    from django.contrib.sessions.models import Session
    from django.db import connection

    Session._meta.db_table = place.table
    with connection.schema_editor() as editor:
        editor.create_model(Session)


def _on_sqlite(place: Place) -> dict[str, Any]:
    """As https://docs.djangoproject.com/en/5.2/ref/databases/#sqlite-notes has it."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(place.file),
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    }


def _on_postgres(place: Place) -> dict[str, Any]:
    url = make_url(_postgres_url())
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.database,
        "USER": url.username,
        "PASSWORD": url.password or "",
        "HOST": url.host,
        "PORT": url.port,
        "CONN_MAX_AGE": None,
    }


_postgres_url = postgres
