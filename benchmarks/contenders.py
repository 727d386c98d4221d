"""Who takes part: the list, and how each is set up."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Literal

from .site import Place, Site

Base = Literal["starlette", "litestar", "wsgi", "flask", "django"]


@dataclass(frozen=True)
class Contender:
    name: str
    base: Base
    """The framework under it: what it adds is added to the bare app of that."""
    stores: str
    """Where the data is when the response leaves."""
    options: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    quick: bool = False
    served: bool = False
    """Also measured behind uvicorn."""
    frozen: bool = False
    """Behind uvicorn only, with what its start has made kept from the garbage collector."""
    skips: tuple[str, ...] = ()
    floor: str = ""
    """The floor on the same driver and store, which this one is measured against."""

    @property
    def is_asgi(self) -> bool:
        return self.base in ("starlette", "litestar")

    @property
    def ours(self) -> bool:
        return self.name.startswith("sessionware")

    @property
    def in_sql(self) -> bool:
        return self.stores in (NORMAL, FULL, PG)

    def build(self, place: Place) -> Site:
        module = importlib.import_module(f"benchmarks.peers.{self.base}_peers")
        site: Site = module.build(place, **self.options)
        return site


COOKIE_ONLY = ("read20", "write20")
"""A browser keeps no cookie of 20 KB."""
NORMAL = "SQLite, NORMAL"
FULL = "SQLite, FULL"
PG = "PostgreSQL"
_SQL = {"kind": "sessionware"}
_FLOOR = {"kind": "floor"}
_POSTGRES = ("postgres",)
_REDIS = ("redis",)

CONTENDERS: tuple[Contender, ...] = (
    Contender("floor-sqlite", "starlette", NORMAL, _FLOOR, quick=True, served=True),
    Contender(
        "floor-sqlite-full", "starlette", FULL, {**_FLOOR, "synchronous": "full"}, served=True
    ),
    Contender("floor-sqlite-inline", "starlette", NORMAL, {**_FLOOR, "inline": True}),
    Contender("floor-aiosqlite", "starlette", NORMAL, {**_FLOOR, "driver": "aiosqlite"}),
    Contender(
        "floor-psycopg", "starlette", PG, {**_FLOOR, "driver": "psycopg"}, _POSTGRES,
        quick=True, served=True,
    ),
    Contender(
        "floor-asyncpg", "starlette", PG, {**_FLOOR, "driver": "asyncpg"}, _POSTGRES, served=True
    ),
    Contender(
        "sessionware-sqlite", "starlette", NORMAL, _SQL, quick=True, served=True,
        floor="floor-sqlite",
    ),
    Contender(
        "sessionware-sqlite-full", "starlette", FULL, {**_SQL, "query": "?synchronous=full"},
        served=True, floor="floor-sqlite-full",
    ),
    Contender(
        "sessionware-sqlite-validate", "starlette", NORMAL, {**_SQL, "coherence": "validate"},
        floor="floor-sqlite",
    ),
    Contender(
        "sessionware-sqlite-bounded", "starlette", NORMAL, {**_SQL, "coherence": "bounded"},
        floor="floor-sqlite",
    ),
    Contender(
        "sessionware-aiosqlite", "starlette", NORMAL, {**_SQL, "driver": "aiosqlite"},
        floor="floor-aiosqlite",
    ),
    Contender(
        "sessionware-psycopg", "starlette", PG, {**_SQL, "driver": "psycopg"}, _POSTGRES,
        quick=True, served=True, floor="floor-psycopg",
    ),
    Contender(
        "sessionware-psycopg-validate", "starlette", PG,
        {**_SQL, "driver": "psycopg", "coherence": "validate"}, _POSTGRES, floor="floor-psycopg",
    ),
    Contender(
        "sessionware-asyncpg", "starlette", PG, {**_SQL, "driver": "asyncpg"}, _POSTGRES,
        served=True, floor="floor-asyncpg",
    ),
    Contender(
        "sessionware-sqlite-frozen", "starlette", NORMAL, _SQL, served=True, frozen=True,
        floor="floor-sqlite",
    ),
    Contender(
        "sessionware-psycopg-frozen", "starlette", PG, {**_SQL, "driver": "psycopg"}, _POSTGRES,
        served=True, frozen=True, floor="floor-psycopg",
    ),
    Contender(
        "starlette-cookie", "starlette", "the cookie", {"kind": "cookie"}, quick=True,
        served=True, skips=COOKIE_ONLY,
    ),
    Contender(
        "starsessions-memory", "starlette", "memory", {"kind": "starsessions"}, served=True,
    ),
    Contender(
        "starsessions-redis", "starlette", "Redis", {"kind": "starsessions", "redis": True}, _REDIS,
        quick=True, served=True,
    ),
    Contender("litestar-memory", "litestar", "memory", {"redis": False}, served=True),
    Contender("litestar-redis", "litestar", "Redis", {"redis": True}, _REDIS),
    Contender("floor-wsgi-sqlite", "wsgi", NORMAL, _FLOOR, quick=True),
    Contender("floor-wsgi-psycopg", "wsgi", PG, {**_FLOOR, "driver": "psycopg"}, _POSTGRES),
    Contender(
        "sessionware-wsgi-sqlite", "wsgi", NORMAL, _SQL, quick=True, floor="floor-wsgi-sqlite"
    ),
    Contender(
        "sessionware-wsgi-psycopg", "wsgi", PG, {**_SQL, "driver": "psycopg"}, _POSTGRES,
        floor="floor-wsgi-psycopg",
    ),
    Contender("beaker-file", "wsgi", "files", {"kind": "beaker", "sqlite": False}),
    Contender("beaker-sqlite", "wsgi", NORMAL, {"kind": "beaker", "sqlite": True}),
    Contender("sessionware-flask-sqlite", "flask", NORMAL, _SQL, quick=True),
    Contender(
        "sessionware-flask-psycopg", "flask", PG, {**_SQL, "driver": "psycopg"}, _POSTGRES
    ),
    Contender(
        "flask-cookie", "flask", "the cookie", {"kind": "cookie"}, quick=True, skips=COOKIE_ONLY
    ),
    Contender("flask-session-redis", "flask", "Redis", {"kind": "redis"}, _REDIS),
    Contender("flask-session-sqlite", "flask", NORMAL, {"kind": "sqlalchemy"}),
    Contender("flask-session-filesystem", "flask", "files", {"kind": "filesystem"}),
    Contender("sessionware-django-sqlite", "django", NORMAL, {"engine": "sessionware.django"}),
    Contender(
        "sessionware-django-psycopg", "django", PG,
        {"engine": "sessionware.django", "postgres": True}, _POSTGRES,
    ),
    Contender(
        "django-cached_db-sqlite", "django", NORMAL,
        {"engine": "django.contrib.sessions.backends.cached_db"}, quick=True,
    ),
    Contender(
        "django-db-sqlite", "django", NORMAL, {"engine": "django.contrib.sessions.backends.db"}
    ),
    Contender(
        "django-cached_db-psycopg", "django", PG,
        {"engine": "django.contrib.sessions.backends.cached_db", "postgres": True}, _POSTGRES,
        # 64 threads are 64 connections here, more than the server has left for it.
        skips=("writes64", "stampede"),
    ),
)  # fmt: skip


def named(name: str) -> Contender:
    return next(each for each in CONTENDERS if each.name == name)
