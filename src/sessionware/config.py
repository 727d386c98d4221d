"""Every setting, checked once and all at once; each message says the fix.

``Options`` types the keyword-only settings for the adapters, ``build_settings`` turns keywords into
one frozen ``Settings``. The code of a finding, SW0nn, is the number of its rule in the requirements
(M01 to M41); SW042 is a value of a wrong type or range that has no rule of its own.
"""

from __future__ import annotations

import difflib
import logging
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import iscoroutinefunction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from . import checks, cookie_checks
from .checks import Report, kind, member, show
from .cookie_checks import SameSite
from .errors import ConfigurationError
from .events import SessionEvent
from .store_checks import (
    checked_coherence,
    checked_listen_url,
    checked_store,
    checked_table_name,
)

if TYPE_CHECKING:
    from sqlalchemy import URL

    from .coherence.slots import Channel

_logger = logging.getLogger("sessionware")
_logged: set[tuple[str, str]] = set()
_logged_lock = threading.Lock()

# What MEDIUMBLOB, the column on MySQL, holds.
_LARGEST_SESSION = 16 * 1024 * 1024
_RUNS_CODE = re.compile(
    "_?pickle|cPickle|pickle5|dill|cloudpickle|marshal|shelve|jsonpickle|joblib"
)

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "secret_key": None,
        "session_cookie": "session",
        "max_age": 14 * 24 * 3600,
        "path": "/",
        "same_site": "lax",
        "https_only": False,
        "domain": None,
        "partitioned": False,
        "secret_key_fallbacks": (),
        "store": "sqlite:///sessions.db",
        "rolling": False,
        "idle_timeout": None,
        "absolute_timeout": None,
        "user_key": ("user_id", "_user_id", "_auth_user_id"),
        "cache_ttl": 30.0,
        "cache_max_bytes": 64 * 1024 * 1024,
        "coherence": "auto",
        "listen_url": None,
        "serializer": None,
        "encryption_key": None,
        "encryption_key_fallbacks": (),
        "max_session_bytes": 65536,
        "store_timeout": 2.0,
        "exclude": (),
        "table_name": "sessions",
        "create_table": True,
        "purge_interval": 600,
        "record_client": False,
        "max_sessions_per_user": None,
        "session_limit_action": "end_oldest",
        "on_event": None,
        "strict": False,
    }
)


class Options(TypedDict, total=False):
    """The keyword-only settings, for ``**options: Unpack[Options]``; docs/settings.md has each.

    Times are seconds or a ``timedelta``, sizes are bytes.
    """

    secret_key_fallbacks: list[Any] | tuple[Any, ...]
    store: Any
    rolling: bool
    idle_timeout: float | timedelta | None
    absolute_timeout: float | timedelta | None
    user_key: str | list[str] | tuple[str, ...] | None
    cache_ttl: float | timedelta
    cache_max_bytes: int
    coherence: Literal["auto", "stamps", "validate", "notify", "bounded"] | Channel
    listen_url: str | URL | None
    serializer: Any
    encryption_key: str | bytes | None
    encryption_key_fallbacks: list[str | bytes] | tuple[str | bytes, ...] | None
    max_session_bytes: int
    store_timeout: float | timedelta
    exclude: list[str] | tuple[str, ...]
    table_name: str
    create_table: bool
    purge_interval: float | timedelta | None
    record_client: bool
    max_sessions_per_user: int | None
    session_limit_action: Literal["end_oldest", "refuse"]
    on_event: Callable[[SessionEvent], object] | None
    strict: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked and normalized settings. Times are seconds, sizes bytes; None means there is none.

    Secrets, keys and the store, whose URL may hold a password, are no part of the repr.
    """

    secret_key: str | bytes = field(repr=False)
    session_cookie: str
    max_age: int | None
    path: str
    same_site: SameSite
    https_only: bool
    domain: str | None
    partitioned: bool
    secret_key_fallbacks: tuple[str | bytes, ...] = field(repr=False)
    store: Any = field(repr=False)
    rolling: bool
    idle_timeout: float | None
    absolute_timeout: float | None
    user_key: tuple[str, ...]
    cache_ttl: float
    cache_max_bytes: int
    coherence: str | Channel
    listen_url: str | URL | None = field(repr=False)
    serializer: Any
    encryption_keys: tuple[bytes, ...] = field(repr=False)
    max_session_bytes: int
    store_timeout: float
    exclude: tuple[str, ...]
    table_name: str
    create_table: bool
    purge_interval: float | None
    record_client: bool
    max_sessions_per_user: int | None
    session_limit_action: Literal["end_oldest", "refuse"]
    on_event: Callable[[SessionEvent], object] | None
    strict: bool


def build_settings(report: Report | None = None, /, **keywords: Any) -> Settings:
    """Check every keyword and return the settings, or raise with all that is wrong with them, and
    with what a ``report`` has already.

    What is only risky is logged to the ``sessionware`` logger, once per process for each code and
    setting, and with ``strict=True`` refused as well. Two risks are in the defaults, so they are
    logged at INFO instead of WARNING: ``https_only=False`` (SW007), which strict refuses, and
    ``absolute_timeout=None`` (SW016), which strict accepts. When settings are refused, nothing is
    logged. No I/O: a URL's driver is imported, but no engine is made.

    Raises:
        ConfigurationError: with one finding for each mistake.
    """
    report = report or Report()
    _check_names(report, keywords)
    given = {**DEFAULTS, **keywords}
    strict = checks.flag(report, "strict", given["strict"])
    # A refused https_only counts as True: what depends on it isn't worth a second finding.
    secure = checks.flag(report, "https_only", given["https_only"], otherwise=True)
    path = cookie_checks.cookie_path(report, given["path"])
    key = checks.secret(report, "secret_key", given["secret_key"])
    fallbacks = checks.fallback_secrets(report, given["secret_key_fallbacks"], key)
    settings = Settings(
        secret_key=key or "",
        session_cookie=cookie_checks.cookie_name(
            report, given["session_cookie"], secure=secure, path=path, domain=given["domain"]
        ),
        max_age=checks.max_age(report, given["max_age"]),
        path=path,
        same_site=cookie_checks.same_site(report, given["same_site"], secure=secure),
        https_only=secure,
        domain=cookie_checks.cookie_domain(report, given["domain"]),
        partitioned=checks.flag(report, "partitioned", given["partitioned"]),
        secret_key_fallbacks=fallbacks,
        store=checked_store(report, given["store"]),
        rolling=checks.flag(report, "rolling", given["rolling"]),
        idle_timeout=_timeout(report, "idle_timeout", given["idle_timeout"]),
        absolute_timeout=_timeout(report, "absolute_timeout", given["absolute_timeout"]),
        user_key=_user_key(report, given["user_key"]),
        cache_ttl=checks.seconds(
            report, "SW015", "cache_ttl", given["cache_ttl"], zero=True, fallback=0.0
        ),
        cache_max_bytes=checks.size(
            report, "SW018", "cache_max_bytes", given["cache_max_bytes"], 0, 2**63 - 1
        ),
        coherence=checked_coherence(report, given["coherence"]),
        listen_url=checked_listen_url(report, given["listen_url"]),
        serializer=_serializer(report, given["serializer"]),
        encryption_keys=checks.encryption_keys(
            report,
            given["encryption_key"],
            given["encryption_key_fallbacks"],
            [checks.as_bytes(each) for each in (key, *fallbacks) if each is not None],
        ),
        max_session_bytes=checks.size(
            report, "SW042", "max_session_bytes", given["max_session_bytes"], 1, _LARGEST_SESSION
        ),
        store_timeout=checks.seconds(
            report, "SW042", "store_timeout", given["store_timeout"], zero=False, fallback=0.0
        ),
        exclude=_exclude(report, given["exclude"]),
        table_name=checked_table_name(report, given["table_name"]),
        create_table=checks.flag(report, "create_table", given["create_table"]),
        purge_interval=_purge_interval(report, given["purge_interval"]),
        record_client=checks.flag(report, "record_client", given["record_client"]),
        max_sessions_per_user=_session_limit(report, given["max_sessions_per_user"]),
        session_limit_action=_limit_action(report, given["session_limit_action"]),
        on_event=_on_event(report, given["on_event"]),
        strict=strict,
    )
    _check_combinations(report, settings)
    conclude(report, strict=strict)
    return settings


def conclude(report: Report, *, strict: bool) -> None:
    """Raise ``ConfigurationError`` if anything is refused, or log what is only risky."""
    refused = [*report.refused, *(note.finding for note in report.notes if strict and note.strict)]
    if refused:
        raise ConfigurationError(refused)
    for note in report.notes:
        identity = (note.finding.code, note.finding.setting)
        with _logged_lock:
            if identity in _logged:
                continue
            _logged.add(identity)
        _logger.log(note.level, "%s", note.finding)


def _check_names(report: Report, keywords: Mapping[str, object]) -> None:
    for name in keywords:
        if name not in DEFAULTS:
            nearest = difflib.get_close_matches(name[:40].lower(), DEFAULTS, n=1)
            report.refuse(
                "SW038",
                show(name) if not name.isidentifier() else name[:40],
                "there is no such setting.",
                f"did you mean {nearest[0]}?" if nearest else f"use one of {', '.join(DEFAULTS)}.",
            )


def _check_combinations(report: Report, settings: Settings) -> None:
    idle, absolute, ttl = settings.idle_timeout, settings.absolute_timeout, settings.cache_ttl
    if not settings.https_only:
        message = "the cookie also goes over plain http, where anyone on the way can read it."
        fix = "set https_only=True wherever the site is served over https."
        report.inform("SW007", "https_only", message, fix, strict=True)
    if settings.partitioned and not settings.https_only:
        message = "browsers drop a Partitioned cookie that has no Secure."
        report.refuse("SW014", "partitioned", message, "set https_only=True, or partitioned=False.")
    if absolute is None:
        message = "a session in use never ends (OWASP ASVS 5.0 7.3.2)."
        fix = "set absolute_timeout, for example timedelta(days=30)."
        report.inform("SW016", "absolute_timeout", message, fix, strict=False)
    elif idle is not None and absolute < idle:
        message = f"{absolute:g} seconds is less than idle_timeout, {idle:g} seconds."
        report.refuse("SW015", "absolute_timeout", message, "make absolute_timeout the longer one.")
    if idle is not None and ttl > idle:
        message = f"{ttl:g} seconds is more than idle_timeout, {idle:g} seconds."
        report.warn("SW015", "cache_ttl", message, "make cache_ttl shorter than idle_timeout.")
    if settings.max_sessions_per_user is not None and not settings.user_key:
        message = "without a user_key no session is anybody's, and nobody ever reaches the limit."
        fix = "set user_key to the key that names the user, or max_sessions_per_user=None."
        report.refuse("SW042", "max_sessions_per_user", message, fix)
    if settings.session_limit_action != "end_oldest" and settings.max_sessions_per_user is None:
        message = "there is no max_sessions_per_user, so that no login is ever refused."
        fix = "set max_sessions_per_user, or leave session_limit_action out."
        report.warn("SW042", "session_limit_action", message, fix)
    if settings.purge_interval is None:
        message = "expired rows stay in the table until something else deletes them."
        fix = "leave it at its default, unless a job of yours calls manager.purge()."
        report.inform("SW041", "purge_interval", message, fix, strict=False)
    if settings.coherence == "bounded" and ttl > 0 and settings.cache_max_bytes > 0:
        message = f"a logout may take up to {ttl:g} seconds on other workers."
        report.warn("SW017", "coherence", message, 'use "validate", or a shorter cache_ttl.')


def _timeout(report: Report, setting: str, value: object) -> float | None:
    if value is None:
        return None
    return checks.seconds(report, "SW015", setting, value, zero=False, fallback=None)


def _purge_interval(report: Report, value: object) -> float | None:
    span = 0 if value is None else value
    found = checks.seconds(report, "SW042", "purge_interval", span, zero=True, fallback=0.0)
    return found or None


def _exclude(report: Report, value: object) -> tuple[str, ...]:
    fix = 'pass path prefixes, each beginning with /: exclude=["/static"].'
    found = checks.texts(report, "exclude", value, lambda prefix: prefix.startswith("/"), fix)
    if any("*" in prefix for prefix in found):
        message = "a * stands for itself here, so that such a prefix fits no usual path."
        fix = 'pass the folder: "/static" is that path and all below it.'
        report.warn("SW042", "exclude", message, fix)
    return found


def _user_key(report: Report, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    keys = (value,) if isinstance(value, str) else value
    fix = 'pass a key such as "user_id", a tuple of them, or None.'
    return checks.texts(report, "user_key", keys, bool, fix)


def _session_limit(report: Report, value: object) -> int | None:
    if value is None or checks.is_whole(value, 1):
        return value
    fix = "pass an int of 1 or more, or None for no limit."
    report.refuse("SW042", "max_sessions_per_user", f"{show(value)} is no such number.", fix)
    return None


def _limit_action(report: Report, value: object) -> Literal["end_oldest", "refuse"]:
    # Any other object may have an idea of its own of what it is equal to.
    name = value if isinstance(value, str) else ""
    if name == "refuse":
        return "refuse"
    if name != "end_oldest":
        fix = 'pass "end_oldest" or "refuse".'
        message = f"{show(value)} is no such action."
        report.refuse("SW042", "session_limit_action", message, fix)
    return "end_oldest"


def _on_event(report: Report, value: object) -> Callable[[SessionEvent], object] | None:
    fix = "pass a function or None."
    if value is not None and not callable(value):
        report.refuse("SW042", "on_event", f"{kind(value)} is not callable.", fix)
        return None
    if iscoroutinefunction(value) or iscoroutinefunction(member(value, "__call__")):
        message = "nobody would await what a coroutine function makes: no event would be seen."
        fix = "pass a plain function, which may put the event into a queue that a task reads."
        report.refuse("SW042", "on_event", message, fix)
        return None
    return value


def _serializer(report: Report, value: object) -> Any:
    """M37. What unpickles a row runs the code of whoever can write to the table."""
    if value is None:
        return None
    calls = [member(value, name) for name in ("dumps", "loads")]
    targets = [member(call, "func") or call for call in calls]  # what a functools.partial calls
    modules = [member(each, "__module__") for each in (*type(value).__mro__, *targets, value)]
    modules.append(member(value, "__name__"))
    roots = {name.split(".")[0] for name in modules if isinstance(name, str)}
    if any(map(_RUNS_CODE.fullmatch, roots)):
        message = "what it loads may run any code that a row holds."
        report.refuse("SW037", "serializer", message, "use the default, serializer=None.")
    elif isinstance(value, type) or not all(map(callable, calls)):
        message = f"{kind(value)} is no object with dumps(dict) -> bytes and loads(bytes) -> dict."
        fix = "pass an instance that has both, or None for the default."
        report.refuse("SW037", "serializer", message, fix)
    elif not type(value).__module__.startswith("sessionware."):
        message = "it is a custom serializer, whose loads() must never run code from the data."
        fix = "use the default, serializer=None, unless you need another format."
        report.warn("SW037", "serializer", message, fix)
        _try_serializer(report, value)
    return value


def _try_serializer(report: Report, serializer: Any) -> None:
    """What gives text, as `json` does, would fail at each save. What it raises may be about {}."""
    fix = "pass an object whose dumps(dict) gives bytes, and whose loads(bytes) gives the dict."
    with suppress(Exception):
        made = serializer.dumps({})
        if type(made) is not bytes:
            message = f"its dumps() gave {kind(made)}, not bytes."
            report.refuse("SW037", "serializer", message, fix)
        elif not isinstance(read := serializer.loads(made), dict):
            message = f"its loads() gave {kind(read)}, not a dict."
            report.refuse("SW037", "serializer", message, fix)
