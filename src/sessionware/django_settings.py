"""From Django's settings to a manager's: secrets, lifetimes and, from DATABASES, the store."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped"
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from django.conf import global_settings, settings
from django.contrib.auth import SESSION_KEY
from django.core import checks
from django.core.signals import setting_changed
from django.db import connections
from django.utils.module_loading import import_string
from sqlalchemy import URL

from .adapting import refuse_async_store
from .checks import Report
from .config import conclude
from .cookie_checks import http_only
from .errors import ConfigurationError, Finding
from .manager import SessionManager
from .stores.memory import MemoryStore
from .tokens import Tokens

DJANGO_NAMES: Final[Mapping[str, str]] = {
    "secret_key": "SECRET_KEY",
    "secret_key_fallbacks": "SECRET_KEY_FALLBACKS",
    "session_cookie": "SESSION_COOKIE_NAME",
    "max_age": "SESSION_COOKIE_AGE",
    "path": "SESSION_COOKIE_PATH",
    "domain": "SESSION_COOKIE_DOMAIN",
    "same_site": "SESSION_COOKIE_SAMESITE",
    "https_only": "SESSION_COOKIE_SECURE",
    "rolling": "SESSION_SAVE_EVERY_REQUEST",
}
"""Our settings that have the value of one of Django's."""

_ASSIGNED: Final = re.compile(rf"\b(?:{'|'.join(DJANGO_NAMES)})(?==)")

DEPENDS_ON: Final = frozenset(
    {
        *DJANGO_NAMES.values(),
        "DATABASES",
        "SESSIONWARE",
        "SESSION_COOKIE_HTTPONLY",
        "SESSION_SERIALIZER",
    }
)

# What Django's middleware, and not an engine, has in its hands; and which setting says it there.
_NOT_OURS: Final[Mapping[str, str]] = {
    "session_cookie": "set SESSION_COOKIE_NAME.",
    "path": "set SESSION_COOKIE_PATH.",
    "domain": "set SESSION_COOKIE_DOMAIN.",
    "same_site": "set SESSION_COOKIE_SAMESITE.",
    "https_only": "set SESSION_COOKIE_SECURE.",
    "partitioned": "leave it out: Django's session cookie can't be partitioned.",
    "exclude": "leave it out: a session that a view does not use costs no query.",
}

# Options of a connection that a URL can carry to libpq, PyMySQL and mysqlclient; the others are
# for Django's own transactions and cursors.
_NOT_LIBPQ: Final = frozenset(
    {
        "assume_role",
        "client_encoding",
        "context",
        "cursor_factory",
        "isolation_level",
        "pool",
        "prepare_threshold",
        "server_side_binding",
    }
)
_MYSQL_OPTIONS: Final = frozenset(
    {"charset", "read_default_file", "read_default_group", "ssl_mode", "unix_socket"}
)

_memory = MemoryStore()


def build_manager() -> SessionManager:
    """A manager by Django's settings as they are now; ``SESSIONWARE`` wins. No I/O.

    Raises ``ConfigurationError`` with everything that is wrong, in the names of Django's settings.
    """
    own = getattr(settings, "SESSIONWARE", {})
    if not isinstance(own, Mapping) or not all(isinstance(name, str) for name in own):
        message = "it must be a dict of settings by name."
        fix = 'SESSIONWARE = {"idle_timeout": 1800}, for example.'
        raise ConfigurationError([Finding("SW042", "SESSIONWARE", message, fix)])
    message = "Django's own middleware would not obey it."
    foreign = [
        Finding("SW035", f'SESSIONWARE["{name}"]', message, fix)
        for name, fix in _NOT_OURS.items()
        if name in own
    ]
    if foreign:
        raise ConfigurationError(foreign)
    options: dict[str, Any] = {**_from_django(), **own}
    if "store" not in own:
        options["store"] = default_store()
    found: list[Finding] = []
    report = Report()
    http_only(report, settings.SESSION_COOKIE_HTTPONLY, settings.SESSION_COOKIE_NAME)
    try:
        conclude(report, strict=own.get("strict") is True)
    except ConfigurationError as error:
        found += error.findings
    try:
        manager = SessionManager(**options)
        refuse_async_store(manager)
    except ConfigurationError as error:
        found += [_in_djangos_names(each, own) for each in error.findings]
        raise ConfigurationError(found) from None
    if found:
        raise ConfigurationError(found)
    return manager


def _from_django() -> dict[str, Any]:
    options = {name: getattr(settings, django_name) for name, django_name in DJANGO_NAMES.items()}
    # These leave the attribute out, in Django's way.
    options["domain"] = options["domain"] or None
    for name in ("path", "same_site"):
        if not options[name]:
            del options[name]
    # Other keys are the application's own: before the second factor, "user_id" is no login.
    options["user_key"] = SESSION_KEY
    if settings.SESSION_SERIALIZER != global_settings.SESSION_SERIALIZER:
        options["serializer"] = _serializer(settings.SESSION_SERIALIZER)
    return options


def _serializer(name: Any) -> Any:
    try:
        return import_string(name)()
    except Exception as error:
        message = f"there is no class that can be made by this name ({type(error).__name__})."
        fix = "leave it out: sessionware has a serializer of its own."
        raise ConfigurationError([Finding("SW037", "SESSION_SERIALIZER", message, fix)]) from None


def _in_djangos_names(finding: Finding, own: Mapping[str, Any]) -> Finding:
    django_name = DJANGO_NAMES.get(finding.setting)
    setting = f"{django_name} ({finding.setting})"
    if finding.setting in own or django_name is None:
        setting = f'SESSIONWARE["{finding.setting}"]'
    fix = _ASSIGNED.sub(
        lambda found: found[0] if found[0] in own else DJANGO_NAMES[found[0]], finding.fix
    )
    return replace(finding, setting=setting, fix=fix)


def default_store() -> URL | MemoryStore:
    """The store where ``SESSIONWARE`` names none: beside the application's default database.

    Under a test runner sessions are kept in memory: it could not drop its test database while we
    are connected to it.
    """
    mail = sys.modules.get("django.core.mail")
    if hasattr(mail, "outbox"):
        return _memory
    connection = connections["default"]
    return derived_store(connection.vendor, connection.settings_dict)


def derived_store(vendor: str, database: Mapping[str, Any]) -> URL | MemoryStore:
    """The store that goes with a database of Django's; ``vendor`` is the connection's.

    Raises ``ConfigurationError`` for a kind of database that sessionware does not know.
    """
    match vendor:
        case "postgresql":
            return _postgresql(database)
        case "mysql":
            return _mysql(database)
        case "sqlite":
            return _sqlite(database)
    message = 'no store can be derived from DATABASES["default"], which has another kind of engine.'
    fix = 'name a database: SESSIONWARE = {"store": "postgresql+psycopg://user@host/name"}.'
    raise ConfigurationError([Finding("SW021", 'SESSIONWARE["store"]', message, fix)])


def _postgresql(database: Mapping[str, Any]) -> URL:
    options = database.get("OPTIONS") or {}
    query = {
        name: str(value)
        for name, value in options.items()
        if name not in _NOT_LIBPQ and value is not None
    }
    # Lists of hosts and folders of sockets have no place in a URL's authority.
    query |= {name.lower(): str(database[name]) for name in ("HOST", "PORT") if database.get(name)}
    role = options.get("assume_role")
    if role:
        escaped = str(role).replace("\\", "\\\\").replace(" ", "\\ ")
        query["options"] = f"{query.get('options', '')} -c role={escaped}".strip()
    name = "postgres" if database.get("NAME") is None else database["NAME"]
    driver = _first_installed({"psycopg": "psycopg", "psycopg2": "psycopg2"})
    return URL.create(
        f"postgresql+{driver}", **_credentials(database), database=name or None, query=query
    )


def _mysql(database: Mapping[str, Any]) -> URL:
    options = database.get("OPTIONS") or {}
    query = {"charset": "utf8mb4"}
    query |= {name: str(options[name]) for name in _MYSQL_OPTIONS & options.keys()}
    ssl = options.get("ssl")
    if isinstance(ssl, Mapping):
        query |= {f"ssl_{name}": str(value) for name, value in ssl.items() if value is not None}
    host = database.get("HOST") or None
    if host is not None and host.startswith("/"):
        query["unix_socket"], host = host, None
    return URL.create(
        "mysql+" + _first_installed({"pymysql": "pymysql", "MySQLdb": "mysqldb"}),
        **_credentials(database),
        host=host,
        port=int(database["PORT"]) if database.get("PORT") else None,
        database=database.get("NAME") or None,
        query=query,
    )


def _sqlite(database: Mapping[str, Any]) -> URL | MemoryStore:
    """A file of our own: SQLite has one writer a file, and Django's holds it for a transaction."""
    name = str(database.get("NAME") or ":memory:")
    if ":memory:" in name or "mode=memory" in name:
        return _memory
    path = Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)
    return URL.create("sqlite", database=str(path.with_name(f"{path.stem}.sessions{path.suffix}")))


def _credentials(database: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "username": database.get("USER") or None,
        "password": database.get("PASSWORD") or None,
    }


def _first_installed(drivers: Mapping[str, str]) -> str:
    """Of drivers by module name, the first that is there; if none is, the first is asked for."""
    names: Sequence[str] = [name for module, name in drivers.items() if find_spec(module)]
    return names[0] if names else next(iter(drivers.values()))


class Engine(NamedTuple):
    """What a process has one of, until the settings change."""

    manager: SessionManager
    tokens: Tokens


_lock = threading.Lock()
_made: Engine | None = None


def manager() -> SessionManager:
    """The manager behind the sessions of this process: ``manager().revoke_user(user.pk)``.

    It is made of Django's settings at the first use; raises ``ConfigurationError`` with everything
    that is wrong with them.
    """
    return engine().manager


def engine() -> Engine:
    global _made
    made = _made
    if made is None:
        with _lock:
            made = _made
            if made is None:
                new = build_manager()
                chosen = new.settings
                keys = chosen.secret_key, chosen.secret_key_fallbacks, chosen.session_cookie
                made = _made = Engine(new, Tokens(*keys))
    return made


def _forget_manager(*, setting: str, **_: Any) -> None:
    """Tests override settings: what follows from them is made anew at the next use."""
    global _made
    if setting not in DEPENDS_ON:
        return
    with _lock:
        made, _made = _made, None
    if made is not None:
        made.manager.shutdown()


setting_changed.connect(_forget_manager, dispatch_uid="sessionware.django")


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """For ``manage.py check``, where ``"sessionware.django"`` is among the INSTALLED_APPS."""
    try:
        build_manager()
    except ConfigurationError as error:
        return [
            checks.Error(
                f"{found.setting}: {found.message}", found.fix, id=f"sessionware.{found.code}"
            )
            for found in error.findings
        ]
    return []


checks.register(check_settings)
