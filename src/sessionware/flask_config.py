"""Flask's configuration of the session cookie as settings of ours, read anew for each request."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flask.sessions import SessionInterface

from .checks import LONGEST, Report
from .config import build_settings
from .cookie_checks import http_only
from .cookies import CookieReader
from .errors import ConfigurationError, Finding
from .tokens import Tokens

if TYPE_CHECKING:
    from flask import Flask

CONFIG_KEYS: Final[Mapping[str, str]] = {
    "secret_key": "SECRET_KEY",
    "secret_key_fallbacks": "SECRET_KEY_FALLBACKS",
    "session_cookie": "SESSION_COOKIE_NAME",
    "domain": "SESSION_COOKIE_DOMAIN",
    "path": "SESSION_COOKIE_PATH",
    "https_only": "SESSION_COOKIE_SECURE",
    "same_site": "SESSION_COOKIE_SAMESITE",
    "partitioned": "SESSION_COOKIE_PARTITIONED",
    "max_age": "PERMANENT_SESSION_LIFETIME",
    "rolling": "SESSION_REFRESH_EACH_REQUEST",
}
"""Our settings that Flask has a configuration key for."""

_MOST_STATES: Final = 32
# Names such as `path` are words of any text, unless something is assigned to them.
_NAMES: Final = re.compile(rf"\b(?:{'|'.join(CONFIG_KEYS)})(?==)|\b[a-z]+(?:_[a-z]+)+\b")


class Keys(NamedTuple):
    """What signs and reads the cookie under one state of an application's configuration."""

    tokens: Tokens
    reader: CookieReader


class ConfiguredCookie(SessionInterface):
    """The part of Flask's session interface that says how the cookie is made.

    ``given`` are the settings that were given as keywords: they win over the configuration.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given

    def get_cookie_name(self, app: Flask) -> str:
        name: str = self.given.get("session_cookie", super().get_cookie_name(app))
        return name

    def get_cookie_domain(self, app: Flask) -> str | None:
        domain: str | None = self.given.get("domain", super().get_cookie_domain(app))
        return domain

    def get_cookie_path(self, app: Flask) -> str:
        path: str = self.given.get("path", super().get_cookie_path(app))
        return path

    def get_cookie_secure(self, app: Flask) -> bool:
        secure: bool = self.given.get("https_only", super().get_cookie_secure(app))
        return secure

    def get_cookie_samesite(self, app: Flask) -> str | None:
        samesite: str | None = self.given.get("same_site", super().get_cookie_samesite(app))
        return samesite

    def get_cookie_partitioned(self, app: Flask) -> bool:
        partitioned: bool = self.given.get("partitioned", super().get_cookie_partitioned(app))
        return partitioned

    def configured(self, app: Flask) -> dict[str, Any]:
        """The application's present configuration of the cookie as settings of ours."""
        older = self.given.get("secret_key_fallbacks", app.config.get("SECRET_KEY_FALLBACKS"))
        secure = self.get_cookie_secure(app)
        partitioned = flag_of(self.get_cookie_partitioned(app))
        settings = {
            "secret_key": self.given.get("secret_key", app.secret_key),
            "secret_key_fallbacks": tuple(older) if isinstance(older, list) else older or (),
            "session_cookie": self.get_cookie_name(app),
            "domain": self.get_cookie_domain(app) or None,
            "path": self.get_cookie_path(app),
            # Werkzeug makes a partitioned cookie Secure.
            "https_only": secure if isinstance(secure, str) else bool(secure or partitioned),
            "partitioned": partitioned,
        }
        samesite = self.get_cookie_samesite(app)
        # None is Flask's way to leave the attribute out.
        return settings if samesite is None else {**settings, "same_site": samesite}

    def keys(self, app: Flask, known: dict[Hashable, Keys]) -> Keys | None:
        """The keys for the application's present configuration, or None where it has no secret.

        Each new state of it is checked and then ``known``; raises ``ConfigurationError``.
        """
        configured = self.configured(app)
        if not configured["secret_key"]:
            return None
        scripts_kept_out = self.get_cookie_httponly(app)
        state = (scripts_kept_out, *configured.values())
        with suppress(TypeError):  # What can't be hashed is refused below.
            found = known.get(state)
            if found is not None:
                return found
        report = Report()
        http_only(report, scripts_kept_out, configured["session_cookie"])
        try:
            settings = build_settings(report, **configured, strict=self.given.get("strict", False))
        except ConfigurationError as error:
            raise in_flasks_words(error, self.given) from None
        name = settings.session_cookie
        tokens = Tokens(settings.secret_key, settings.secret_key_fallbacks, name)
        if len(known) >= _MOST_STATES:
            known.clear()
        found = known[state] = Keys(tokens, CookieReader(name))
        return found


def flag_of(value: Any) -> Any:
    """A flag may be any number, but no text: "False" from an environment variable is true."""
    return value if isinstance(value, str) else bool(value)


def lifetime_of(value: Any) -> Any:
    """Whole seconds, no more than browsers keep a cookie for; what is no time stays as it is."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and abs(seconds) < inf:
        return min(int(seconds), LONGEST)
    return value


def in_flasks_words(error: ConfigurationError, given: Mapping[str, Any]) -> ConfigurationError:
    """The same findings, by the names of the configuration keys where these are to be mended."""

    def key(name: str) -> str:
        return name if name in given else CONFIG_KEYS.get(name, name)

    def reworded(finding: Finding) -> Finding:
        fix = _NAMES.sub(lambda found: key(found[0]), finding.fix)
        return replace(finding, setting=key(finding.setting), fix=fix)

    return ConfigurationError([reworded(finding) for finding in error.findings])
