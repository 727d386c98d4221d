"""What all applications under test have in common: their pages, their data, where they store it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SECRET: Final = "a secret for benchmarks only, long enough: 0123456789"
LIFETIME: Final = 14 * 24 * 60 * 60
POSTGRES: Final = "postgresql+psycopg://postgres@127.0.0.1:5432/test"
REDIS: Final = "redis://127.0.0.1:6379/0"
PREFIX: Final = "sessionware_bench_"
"""Every table and key that a benchmark makes begins so, and is dropped afterwards."""

PAYLOAD: Final[dict[str, Any]] = {
    "user": "alice@shop.example",
    "n": 0,
    "csrf": "kq3vYx0c7R1mT9bW5hJ2nL8dF4gS6pZa",
    "locale": "en-GB",
    "cart": [{"sku": f"SKU-{i:05}", "count": i + 1, "price": 1999 + i} for i in range(6)],
    "flags": {"beta": True, "consent": ["necessary", "statistics"], "theme": "dark"},
    "seen": list(range(1_000, 1_016)),
}
"""About 500 bytes of JSON: a small shop's session."""
LARGE: Final[dict[str, Any]] = {
    **PAYLOAD,
    "history": [
        {"path": f"/articles/{i:06}", "at": 1_700_000_000 + i, "words": "lorem ipsum dolor " * 2}
        for i in range(210)
    ],
}
"""About 20 KB of JSON."""

ANSWER: Final = "ok, a short text"
PAGES: Final = ("plain", "read", "write", "login", "logout", "seed", "seed20", "show")
"""``plain`` does not look at the session, ``read`` takes one value, ``write`` changes one,
``login`` stores a user, ``logout`` ends the session, ``seed`` and ``seed20`` fill it, ``show``
gives it all.
"""


@dataclass
class Site:
    """An application with sessions and the same one without, in the process that runs them."""

    app: Any
    bare: Any
    chill: Callable[[], object] = lambda: None
    """Empty the cache of this process, if there is one."""
    alive: Callable[[], bool] = lambda: True
    """Whether all is as in normal running: a channel of invalidation is up."""
    close: Callable[[], Any] = lambda: None
    """Let go of all; what it returns is awaited if it can be."""
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where one application keeps its data: its own file, its own table, its own keys."""

    folder: Path
    name: str

    @property
    def table(self) -> str:
        return PREFIX + self.name.replace("-", "_")

    @property
    def file(self) -> Path:
        return self.folder / f"{self.table}.db"

    @property
    def sqlite(self) -> str:
        return f"sqlite:///{self.file}"


def postgres() -> str:
    """The server, as tests name it too."""
    return os.environ.get("SESSIONWARE_TEST_POSTGRES") or POSTGRES


def redis() -> str:
    return os.environ.get("SESSIONWARE_TEST_REDIS") or REDIS


def libpq(url: str) -> str:
    """The URL as psycopg itself takes it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"
