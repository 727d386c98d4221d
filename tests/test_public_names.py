"""`import sessionware`: what it offers, and what it leaves alone."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sessionware

PUBLIC = {
    "CachedStore",
    "ConfigurationError",
    "CorruptRecord",
    "LockTimeout",
    "MemoryStore",
    "ReauthenticationRequired",
    "ResponseAlreadyStarted",
    "SerializationError",
    "Session",
    "SessionError",
    "SessionEvent",
    "SessionGone",
    "SessionInfo",
    "SessionLimitReached",
    "SessionManager",
    "SessionMiddleware",
    "SessionTooLarge",
    "StoreUnavailable",
    "manager_of",
    "session_of",
}

# What an application may not have, or does not use; of SQLAlchemy only the default store needs any.
UNUSED = {
    "aiomysql", "aiosqlite", "asyncmy", "asyncpg", "cryptography", "django", "fastapi", "flask",
    "greenlet", "jinja2", "multipart", "psycopg", "psycopg2", "pymysql", "pytest", "redis",
    "pyramid", "quart", "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "starlette", "trio", "uvicorn",
}  # fmt: skip


def in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(sessionware.__path__[0]).parent.resolve())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_these_names_are_public_and_no_others() -> None:
    assert set(sessionware.__all__) == PUBLIC
    assert sorted(sessionware.__all__) == sessionware.__all__
    modules = {module.name for module in pkgutil.iter_modules(sessionware.__path__)}
    others = {name for name in vars(sessionware) if not name.startswith("_")}
    assert others - modules == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_is_documented(name: str) -> None:
    assert getattr(sessionware, name).__doc__


def test_each_error_is_a_session_error() -> None:
    errors = [
        value
        for value in vars(importlib.import_module("sessionware.errors")).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(errors) >= 10
    assert all(issubclass(error, sessionware.SessionError) for error in errors)


IMPORTS = {
    "the package": "import sessionware",
    "a middleware with a store in memory": (
        "from sessionware import MemoryStore, SessionMiddleware\n"
        "SessionMiddleware(None, 'k' * 40, store=MemoryStore())"
    ),
}


@pytest.mark.parametrize("code", IMPORTS.values(), ids=IMPORTS)
def test_importing_it_imports_no_framework_driver_or_cryptography(code: str) -> None:
    loaded = in_a_new_process(f"import sys\n{code}\nprint(*sys.modules)").split()
    assert "sessionware" in loaded
    assert UNUSED.intersection(loaded) == set()


def test_the_middleware_needs_no_starlette() -> None:
    """It is pure ASGI."""
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "from sessionware import MemoryStore, SessionMiddleware\n"
        "SessionMiddleware(None, 'k' * 40, store=MemoryStore())"
    )
    in_a_new_process(code)


def test_every_module_can_be_imported_where_its_framework_is_installed() -> None:
    names = [
        module.name
        for module in pkgutil.walk_packages(sessionware.__path__, "sessionware.")
        if not module.name.endswith("__main__")
    ]
    code = (
        "import contextlib, importlib, warnings\n"
        # WebOb, which is Pyramid's, still imports `cgi`.
        "with contextlib.suppress(ImportError), warnings.catch_warnings():\n"
        "    warnings.simplefilter('ignore')\n"
        "    import pyramid.httpexceptions\n"
        "frameworks = ('flask', 'django', 'redis', 'quart', 'pyramid')\n"
        f"for name in {names}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name.partition('.')[0] in frameworks, error\n"
    )
    in_a_new_process(code)


def test_importing_it_starts_no_thread_and_opens_no_file() -> None:
    code = (
        "import sys, threading\n"
        "opened = []\n"
        "sys.addaudithook(lambda name, args: name in ('sqlite3.connect', 'socket.__new__')"
        " and opened.append(name))\n"
        "from sessionware import SessionMiddleware\n"
        "SessionMiddleware(None, 'k' * 40)\n"
        "print(threading.active_count(), opened)"
    )
    assert in_a_new_process(code).strip() == "1 []"
