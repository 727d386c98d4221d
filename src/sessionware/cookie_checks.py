"""The checks of what goes into the cookie: each as those in ``checks`` are."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, cast

from .checks import Report, plain, show
from .tokens import TOKEN_LENGTH

SameSite = Literal["lax", "strict", "none"]

# RFC 6265bis 5.6: what browsers take of a cookie, name and value together, and of an attribute.
_LONGEST_PAIR = 4096
_LONGEST_NAME = _LONGEST_PAIR - TOKEN_LENGTH
_LONGEST_ATTRIBUTE = 1024

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(r"/[!-+\--:<-~]*")
_NOT_IN_DOMAIN = re.compile(r"[^!-~]|[;,]")
_ENDS_IN_A_NUMBER = re.compile(r"(?:^|\.)(?:\d+|0x[0-9a-f]*)$")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PREFIXES = {p.lower(): p for p in ("__Host-Http-", "__Host-", "__Secure-", "__Http-")}
_PREFIX = re.compile("|".join(_PREFIXES), re.IGNORECASE)
_MISSPELT_PREFIX = re.compile(r"(?:host|secure|http)__|__(?:host|secure|http)_", re.IGNORECASE)
_PUBLIC_SUFFIX = re.compile(
    r"(?:ac|co|gov|org)\.uk|(?:com|net|org)\.au|co\.(?:in|jp|kr|nz|za)|com\.(?:br|cn|mx|sg|tr)"
    r"|git(?:hub|lab)\.io|ngrok(?:\.io|-free\.app)|(?:netlify|up\.railway|vercel|web)\.app"
    r"|(?:fly|pages|workers)\.dev|readthedocs\.io|azurewebsites\.net|cloudfront\.net"
    r"|(?:appspot|firebaseapp|herokuapp|onrender|pythonanywhere)\.com"
)


def cookie_name(report: Report, value: object, *, secure: bool, path: str, domain: object) -> str:
    """A token (RFC 6265 4.1.1, M10) that keeps its prefix's promise (RFC 6265bis 4.1.3, M09)."""
    setting = "session_cookie"
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        message = "a cookie's name is ASCII letters, digits and !#$%&'*+-.^_`|~ only."
        report.refuse("SW010", setting, message, 'pass a name such as "session".')
        return "session"
    value = plain(value)
    if len(value) > _LONGEST_NAME:
        message = f"{len(value)} characters: browsers drop a cookie of over {_LONGEST_PAIR} bytes."
        report.refuse("SW010", setting, message, 'pass a short name such as "session".')
    found = _PREFIX.match(value)
    if found is None:
        if _MISSPELT_PREFIX.match(value):
            fix = 'write "__Host-" (two underscores, one hyphen), or choose another name.'
            report.refuse("SW009", setting, "browsers don't know this cookie prefix.", fix)
        return value
    prefix = _PREFIXES[found[0].lower()]
    if found[0] != prefix:
        message = "the cookie prefix is in the wrong case."
        report.refuse("SW009", setting, message, f'write it as "{prefix}".')
    missing = [] if secure else ["https_only=True"]
    if prefix.startswith("__Host-"):
        missing += [] if path == "/" else ['path="/"']
        missing += [] if domain is None else ["domain=None"]
    if missing:
        needed = ", ".join(missing)
        message = f"browsers drop a cookie whose name begins with {prefix} without {needed}."
        report.refuse("SW009", setting, message, f"set {needed}, or drop the prefix.")
    return value


def cookie_path(report: Report, value: object) -> str:
    """M10."""
    if isinstance(value, str) and _PATH.fullmatch(value) and len(value) <= _LONGEST_ATTRIBUTE:
        return plain(value)
    message = (
        "it must begin with / and hold visible ASCII only, without ; and comma, and at most "
        f"{_LONGEST_ATTRIBUTE} characters, or browsers ignore it."
    )
    report.refuse("SW010", "path", message, 'pass path="/".')
    return "/"


def cookie_domain(report: Report, value: object) -> str | None:
    """None, or a registrable name (M10, M11). A leading dot is allowed, as in Starlette."""
    if value is None:
        return None
    fix = 'pass a plain name such as domain="example.com", or domain=None for this host only.'
    if not isinstance(value, str) or _NOT_IN_DOMAIN.search(value):
        message = "it must be visible ASCII text, without ; and comma (write IDNA as xn--)."
        report.refuse("SW010", "domain", message, fix)
        return None
    value = plain(value)
    name = value.removeprefix(".").lower()
    labels = name.split(".")
    message = ""
    if _is_address(name):
        message = "browsers drop a cookie whose domain is an IP address."
    elif len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        message = "it is not a host name: no scheme, port, path or wildcard."
    elif (len(labels) == 1 and name != "localhost") or _PUBLIC_SUFFIX.fullmatch(name):
        message = "it is a public suffix: browsers drop a cookie for everybody under it."
    if message:
        report.refuse("SW011", "domain", message, fix)
    elif name != "localhost":
        message = "every sub-domain can read this cookie, and set its own in its place."
        fix = "leave domain=None unless several hosts share the sessions."
        report.warn("SW011", "domain", message, fix)
    return value


def _is_address(name: str) -> bool:
    if _ENDS_IN_A_NUMBER.search(name):
        # Browsers read it as an IPv4 address however it is written: 127.1, 10.0.0.0x1.
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def http_only(report: Report, value: object, name: object) -> None:
    """M12 and, for what it says of the name, M09: the key in Flask's and Django's configuration."""
    setting = "SESSION_COOKIE_HTTPONLY"
    fix = f"set {setting}=True."
    if isinstance(value, str):
        # "False" from an environment variable is true.
        report.refuse("SW042", setting, f"{show(value)} is not a bool.", fix)
    elif not value and str(name).lower().startswith(("__host-http-", "__http-")):
        message = "browsers drop a cookie of this name that has no HttpOnly."
        report.refuse("SW009", setting, message, fix)
    elif not value:
        message = "scripts can read the cookie: one that gets into a page takes the session along."
        report.warn("SW012", setting, message, fix)


def same_site(report: Report, value: object, *, secure: bool) -> SameSite:
    """M08 and M13; any case, as browsers take it."""
    choice = value.lower() if isinstance(value, str) else ""
    if choice == "none" and not secure:
        message = "browsers drop a SameSite=None cookie that has no Secure."
        report.refuse("SW008", "same_site", message, 'set https_only=True, or same_site="lax".')
    if choice in ("lax", "strict", "none"):
        return cast(SameSite, choice)
    message = f"{show(value)} is not a SameSite value."
    report.refuse("SW013", "same_site", message, 'pass "lax", "strict" or "none".')
    return "lax"
