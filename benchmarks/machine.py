"""On what it was measured: versions, the machine, how busy it was."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sysconfig
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .site import libpq, postgres, redis

PACKAGES = (
    "sessionware", "SQLAlchemy", "msgspec", "cachetools", "itsdangerous", "psycopg", "asyncpg",
    "aiosqlite", "starlette", "starsessions", "litestar", "Django", "Flask", "Flask-Session",
    "Flask-SQLAlchemy", "cachelib", "Beaker", "redis", "hiredis", "uvicorn", "uvloop", "httptools",
    "anyio",
)  # fmt: skip


def describe() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _run("git", "rev-parse", "--short", "HEAD"),
        "changed": bool(_run("git", "status", "--porcelain", "--", ":/src")),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "optimized": "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
        "sqlite": sqlite3.sqlite_version,
        "postgres": _postgres(),
        "redis": _redis(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None


def _run(*command: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        folder = Path(__file__).parent
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10
        ).stdout.strip()
    return ""


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _postgres() -> str | None:
    import psycopg

    with (
        suppress(psycopg.Error),
        psycopg.connect(libpq(postgres()), connect_timeout=3) as connection,
    ):
        rows = [connection.execute(f"SHOW {each}".encode()).fetchone() for each in _SHOWN]
        shown, commit, fsync = (row[0] if row else "" for row in rows)
        return f"{shown.split()[0]} (synchronous_commit {commit}, fsync {fsync})"
    return None


_SHOWN = ("server_version", "synchronous_commit", "fsync")


def _redis() -> str | None:
    import redis as driver

    with suppress(driver.RedisError):
        client = driver.Redis.from_url(redis(), socket_timeout=3)
        info: Any = client.info()
        aof = "AOF" if info.get("aof_enabled") else "no AOF"
        client.close()
        return f"{info['redis_version']} ({aof})"
    return None


def sweep() -> None:
    """Drop every table and key that a benchmark has made."""
    from .site import PREFIX

    with suppress(ImportError):
        import psycopg

        with (
            suppress(psycopg.Error),
            psycopg.connect(libpq(postgres()), connect_timeout=3, autocommit=True) as connection,
        ):
            found = connection.execute(
                "SELECT tablename FROM pg_tables WHERE starts_with(tablename, %s)", (PREFIX,)
            ).fetchall()
            for (name,) in found:
                connection.execute(f'DROP TABLE IF EXISTS "{name}"'.encode())
    with suppress(ImportError):
        import redis as driver

        with suppress(driver.RedisError):
            client = driver.Redis.from_url(redis(), socket_timeout=3)
            for key in client.scan_iter(f"{PREFIX}*"):
                client.delete(key)
            client.close()
