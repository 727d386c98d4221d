"""What the adapters of all frameworks share: no framework in here."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from sqlalchemy import make_url

from .checks import kind
from .config import DEFAULTS
from .errors import ConfigurationError, Finding
from .events import logger
from .manager import SessionManager
from .runners import LoopRunner
from .session import NoSession, Session
from .states import SessionState, state_of

SESSION_KEY: Final = "sessionware.session"
MANAGER_KEY: Final = "sessionware.manager"

_SYNC_TWINS: Final = {
    "sqlite+aiosqlite": "sqlite",
    "postgresql+asyncpg": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "postgresql+psycopg_async": "postgresql+psycopg",
    "mysql+asyncmy": "mysql+pymysql",
    "mysql+aiomysql": "mysql+pymysql",
    "mariadb+asyncmy": "mariadb+pymysql",
    "mariadb+aiomysql": "mariadb+pymysql",
}

UNAVAILABLE: Final = b"Service Unavailable"
"""The body of a 503, in place of a response that depends on a session nobody could read."""


def chosen_manager(
    manager: SessionManager | None, own: Mapping[str, Any], options: Mapping[str, Any]
) -> SessionManager:
    """The manager given, or one made of a middleware's ``own`` arguments and its ``options``.

    Raises ``ConfigurationError`` if both were given, or what is no manager.
    """
    if manager is None:
        return SessionManager(**own, **options)
    if not isinstance(manager, SessionManager):
        message = f"{kind(manager)} is no SessionManager."
        fix = "make one with SessionManager(secret_key=..., ...), or give settings in its place."
        raise ConfigurationError([Finding("SW035", "manager", message, fix)])
    if options or any(given != DEFAULTS.get(name) for name, given in own.items()):
        raise ConfigurationError([_two_sources()])
    return manager


def refuse_async_store(manager: SessionManager) -> None:
    """Raise ``ConfigurationError`` if the store can be used under an event loop only (M20)."""
    if not isinstance(manager.store.runner, LoopRunner):
        return
    given = manager.settings.store
    url = make_url(given) if isinstance(given, str) else getattr(given, "url", None)
    fix = "use a store with plain methods."
    name = getattr(url, "drivername", None)
    if isinstance(name, str):
        fix = f"use its sync twin, {_SYNC_TWINS.get(name, name.partition('+')[0])}://."
    message = "an async driver needs an event loop, and WSGI has none."
    raise ConfigurationError([Finding("SW020", "store", message, fix)])


def is_excluded(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a path is one of the prefixes or below it; ``/static`` is not a prefix of
    ``/statics``.
    """
    return any(
        path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")
        for prefix in prefixes
    )


def client_of(address: object, user_agent: str | None) -> tuple[str | None, str | None]:
    """Address and user agent as the server saw them; headers of proxies are the server's
    business.
    """
    return (
        _printable(str(address))[:45] if address else None,
        None if user_agent is None else _printable(user_agent)[:255],
    )


def _printable(text: str) -> str:
    """Without what a database, or who looks at a device list, could choke on."""
    return "".join(character for character in text if character.isprintable())


def is_loaded_outside(outer: object, manager: SessionManager) -> bool:
    """Whether what an outer middleware left in the request is our session of the same manager.

    Raises ``ConfigurationError`` if another middleware owns the same cookie.
    """
    link = outer.tie if isinstance(outer, Session) else None
    if not isinstance(link, SessionState):
        return False
    if link.started if link.serving is None else not link.serving:
        # It is that of an earlier request in the same scope or environ: some callers keep one and
        # use it again.
        return False
    if link.manager is manager:
        return True
    if link.manager.settings.session_cookie == manager.settings.session_cookie:
        raise two_owners()
    return False


def session_outside(environ: Mapping[str, Any], manager: SessionManager) -> Session | None:
    """The session of the same manager that a middleware around this WSGI application has loaded:
    one of ours, or under a2wsgi the ASGI one.
    """
    scope = environ.get("asgi.scope")
    for outer in (environ.get(SESSION_KEY), scope.get("session") if scope else None):
        if is_loaded_outside(outer, manager):
            assert isinstance(outer, Session)
            return outer
    return None


def hand_over(inner: Session, outer: Session) -> None:
    """Do to the outer session what an inner framework did to its copy of it: one session, one
    commit, one cookie.
    """
    if not inner.accessed:
        return
    outer.mark_exposed()
    intents = inner.take_intents()
    asked = intents.asked
    if asked.ended:
        outer.invalidate()
    elif asked.cleared:
        outer.clear()
    for key in dict.keys(outer) - dict.keys(inner):
        del outer[key]
    for key, value in dict.items(inner):
        if key in intents.written or dict.get(outer, key) is not value:
            outer[key] = value
    if asked.rotation:
        outer.rotate(authenticated=asked.reauthenticated)
    if asked.expiry_set:
        outer.set_expiry(asked.expiry)
    # In the same order: by that too is told whether something was changed.
    outer.refill(dict(dict.items(inner)))


def take_replacement(session: Session, current: object) -> None:
    """An application may have put a mapping of its own where the request's session was."""
    if current is session or current is None or isinstance(current, NoSession):
        return
    if isinstance(current, Session) and current.link() is not None:
        # An inner middleware with a cookie of its own put its session there.
        return
    if isinstance(current, Enum):
        # What Litestar's `clear_session()` leaves there.
        session.clear()
        return
    if not isinstance(current, Mapping):
        logger.warning("the request's session was replaced by what is no mapping: left as it was")
        return
    session.clear()
    session.update(current)


def could_not_load(session: Session, status: int) -> bool:
    """Whether a framework made its catch-all 500 of a session that could not be read."""
    return status == 500 and session.accessed and state_of(session).failure is not None


def is_from(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether an exception, or one of its group, is of that kind."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kind) is not None
    return isinstance(error, kind)


def _two_sources() -> Finding:
    return Finding(
        "SW035",
        "manager",
        "the manager has its settings already; others given beside it would be ignored.",
        "give either a manager or settings.",
    )


def two_owners() -> ConfigurationError:
    """Two session middlewares around one application, with one cookie."""
    return ConfigurationError(
        [
            Finding(
                "SW035",
                "session_cookie",
                "two session middlewares would own request.session, or write the same cookie.",
                "remove one (Starlette's own, if it is there), share one manager, or give two of "
                "ours different cookie names.",
            )
        ]
    )
