"""The checks behind ``build_settings``: each takes a raw value, reports, and returns a clean one.

A check that refuses a value returns a harmless stand-in, so that the later checks still run and one
error lists everything. No message echoes a secret, a URL or a long text. No I/O, no warnings.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeGuard, TypeVar, cast

from .errors import Finding

# RFC 6265bis 5.5: browsers cap a cookie's lifetime at 400 days.
LONGEST = 34_560_000

T = TypeVar("T")

_GENERATE = 'generate one: python -c "import secrets;print(secrets.token_urlsafe(48))"'
_PLACEHOLDER = re.compile(
    "(?:a|an|app|dev|django|example|flask|jwt|my|not|our|session|so|some|super|test|the|top|very)*"
    "(?:secrets?|key|secretkey|password)|dev|development|test|testing|example|default|foobar"
    "|unsafe|insecure|none|null|todo"
    # The keys that the documentation of Flask and of FastAPI shows.
    "|192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf"
    "|09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7"
)
_PLACEHOLDER_PARTS = re.compile(
    "^djangoinsecure|changeme|changethis|replaceme|replacethis|keyboardcat|yoursecret|insertsecret"
)


@dataclass(frozen=True, slots=True)
class Note:
    """A finding that is logged at ``level``; ``strict`` says whether strict mode refuses it."""

    finding: Finding
    level: int
    strict: bool


@dataclass(slots=True)
class Report:
    """Everything that the checks found so far."""

    refused: list[Finding] = field(default_factory=list[Finding])
    notes: list[Note] = field(default_factory=list[Note])

    def refuse(self, code: str, setting: str, message: str, fix: str) -> None:
        self.refused.append(Finding(code, setting, message, fix))

    def warn(self, code: str, setting: str, message: str, fix: str) -> None:
        self.notes.append(Note(Finding(code, setting, message, fix), logging.WARNING, True))

    def inform(self, code: str, setting: str, message: str, fix: str, *, strict: bool) -> None:
        self.notes.append(Note(Finding(code, setting, message, fix), logging.INFO, strict))


def kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def show(value: object) -> str:
    """A value as a message may quote it: on one line, and only what can't be a secret or a URL."""
    if type(value) is str and (len(value) > 20 or "://" in value or "@" in value):
        return f"a text of {len(value)} characters"
    if value is not None and type(value) not in (bool, int, float, str, timedelta):
        return kind(value)
    try:
        text = repr(value)
    except ValueError:  # more digits than Python writes out
        return "a huge number"
    return text if len(text) <= 60 else "a huge number"


def plain(text: str) -> str:
    """The text alone: of an Enum's member, which may be a str, f-strings show the name."""
    return str.__str__(text)


def member(owner: object, name: str) -> object:
    """An attribute of an object that nobody vouches for; None if reading it fails in any way."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None


def flag(report: Report, setting: str, value: object, *, otherwise: bool = False) -> bool:
    """Only real bools: the text ``"False"`` from an environment variable is true."""
    if isinstance(value, bool):
        return value
    fix = f"pass {setting}=True or {setting}=False."
    report.refuse("SW042", setting, f"{show(value)} is not a bool.", fix)
    return otherwise


def is_whole(value: object, low: int, high: float = math.inf) -> TypeGuard[int]:
    """Whether it is a whole number within these bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def size(report: Report, code: str, setting: str, value: object, low: int, high: int) -> int:
    """Bytes, from ``low`` to ``high``."""
    if is_whole(value, low, high):
        return int(value)
    message = f"{show(value)} is not a whole number of bytes from {low} to {high}."
    report.refuse(code, setting, message, f"pass an int from {low} to {high}.")
    return low


def seconds(
    report: Report, code: str, setting: str, value: object, *, zero: bool, fallback: T
) -> float | T:
    """Seconds or a timedelta, at most 400 days; zero only where it turns something off.

    Times are kept in milliseconds, so that what is shorter would be none at all.
    """
    span = value.total_seconds() if isinstance(value, timedelta) else value
    # Compared before it is converted: float() of a long int overflows. NaN fails any comparison.
    if isinstance(span, int | float) and not isinstance(span, bool) and 0 <= span <= LONGEST:
        number = float(span)
        if number >= 0.001 or (zero and not number):
            return number
    least = "0 or more" if zero else "more than 0"
    limits = f"{least} (0.001 or longer) and at most {LONGEST} seconds (400 days)"
    message = f"{show(value)} is not a time of {limits}."
    report.refuse(code, setting, message, f"pass seconds or a timedelta, {limits}.")
    return fallback


def max_age(report: Report, value: object) -> int | None:
    """Whole seconds. 0 and less are allowed, as in Starlette: the cookie expires at once."""
    span = value.total_seconds() if isinstance(value, timedelta) else value
    if span is None:
        return None
    fix = "pass an int of seconds, a timedelta, or None for a cookie of the browser session."
    if isinstance(span, bool) or not isinstance(span, int | float) or span != span:
        message = f"{show(value)} is not a number of seconds."
    elif not -LONGEST <= span <= LONGEST:
        message = f"{show(value)} is over {LONGEST} seconds, where browsers cut (RFC 6265bis 5.5)."
        fix = f"pass at most {LONGEST} seconds (400 days)."
    elif span != int(span):
        message = f"{show(value)} is not a whole number of seconds, as Max-Age must be."
    else:
        return int(span)
    report.refuse("SW015", "max_age", message, fix)
    return None


def texts(
    report: Report, setting: str, value: object, valid: Callable[[str], object], fix: str
) -> tuple[str, ...]:
    """A list or tuple of texts; one bare text would be taken for its characters."""
    if not isinstance(value, list | tuple):
        report.refuse("SW042", setting, f"{show(value)} is not a list or tuple.", fix)
        return ()
    found = [item for item in cast(Sequence[object], value) if isinstance(item, str)]
    if len(found) < len(cast(Sequence[object], value)) or not all(map(valid, found)):
        report.refuse("SW042", setting, "an item of it is not a valid text.", fix)
    return tuple(map(plain, found))


def _key_material(value: object) -> str | bytes | None:
    """The text or bytes of a key, unwrapped from a type named ``Secret``; None for any other."""
    named_secret = any(base.__name__ == "Secret" for base in type(value).__mro__)
    if named_secret and not _hides_its_text(value):
        try:
            value = str(value)
        except Exception:
            return None
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
        return plain(value)
    return value if isinstance(value, bytes) else None


def _hides_its_text(value: object) -> bool:
    """As pydantic's types do: their str() is asterisks, which would be one key for every site."""
    return callable(member(value, "get_secret_value"))


def _blank(value: object) -> bool:
    material = _key_material(value)
    return value is None or (material is not None and not material.strip())


def as_bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


def secret(report: Report, setting: str, value: object) -> str | bytes | None:
    """One signing secret: M01, M02, M03 and, for a collection in its place, M05."""
    key = _key_material(value)
    if key is not None and not _blank(key):
        _check_strength(report, setting, key)
        return key
    collection = isinstance(value, list | tuple | set | frozenset | dict)
    if _blank(value) or (collection and all(map(_blank, cast(Collection[object], value)))):
        report.refuse("SW001", setting, "the secret is empty: anyone can sign.", _GENERATE)
    elif collection:
        fix = "pass the newest as secret_key and the older ones as secret_key_fallbacks=[...]."
        report.refuse("SW005", setting, f"it must be one secret, not {kind(value)}.", fix)
    elif _hides_its_text(value):
        fix = "pass value.get_secret_value()."
        report.refuse("SW001", setting, f"the str() of {kind(value)} is not the secret.", fix)
    else:
        message = f"it must be UTF-8 text or bytes, not {kind(value)}."
        report.refuse("SW001", setting, message, _GENERATE)
    return None


def _check_strength(report: Report, setting: str, key: str | bytes) -> None:
    text = key if isinstance(key, str) else key.decode("latin-1")
    plain = "".join(filter(str.isalnum, text.casefold()))
    if _PLACEHOLDER.fullmatch(plain) or _PLACEHOLDER_PARTS.search(plain):
        report.warn("SW003", setting, "it is a placeholder that everybody knows.", _GENERATE)
    elif len(as_bytes(key)) < 32 or len(set(key)) < 10:
        message = "it has under 32 bytes or under 10 different characters."
        report.warn("SW002", setting, message, _GENERATE)


def _older_keys(report: Report, code: str, setting: str, value: object) -> Sequence[object]:
    """M05: a bare text would become a key for each of its characters (pallets/flask#6089)."""
    if isinstance(value, list | tuple):
        return cast(Sequence[object], value)
    if value is not None:
        fix = f"pass a list, newest first: {setting}=[previous_key]."
        report.refuse(code, setting, f"it must be a list or tuple, not {kind(value)}.", fix)
    return ()


def fallback_secrets(
    report: Report, value: object, current: str | bytes | None
) -> tuple[str | bytes, ...]:
    """Older secrets that still verify: M05 and M06."""
    setting = "secret_key_fallbacks"
    found = [secret(report, setting, each) for each in _older_keys(report, "SW005", setting, value)]
    keys = tuple(key for key in found if key is not None)
    everything = [as_bytes(key) for key in (current, *keys) if key is not None]
    if len(set(everything)) < len(everything):
        report.refuse("SW006", setting, "the same secret is there twice.", "name each secret once.")
    if len(keys) > 10:
        message = f"{len(keys)} fallbacks: a forged cookie is verified against every one of them."
        report.warn("SW006", setting, message, "keep 10; those older than max_age can go.")
    return keys


def encryption_keys(
    report: Report, value: object, fallbacks: object, signing: Collection[bytes]
) -> tuple[bytes, ...]:
    """The keys that open stored data, the first of which also seals it: M34."""
    setting = "encryption_key"
    older_setting = "encryption_key_fallbacks"
    older = _older_keys(report, "SW034", older_setting, fallbacks)
    if value is None:
        if older:
            message = "there are older keys, but none to encrypt with."
            report.refuse("SW034", older_setting, message, "set encryption_key to the newest key.")
        return ()
    if importlib.util.find_spec("cryptography") is None:
        fix = 'pip install "sessionware[encryption]"'
        report.refuse("SW034", setting, "the cryptography package is not installed.", fix)
        return ()
    keys: list[bytes] = []
    for name, each in ((setting, value), *((older_setting, each) for each in older)):
        key = _encryption_key(report, name, each, signing)
        if key is not None and key in keys:
            report.refuse("SW034", name, "the same key is there twice.", "name each key once.")
        elif key is not None:
            keys.append(key)
    return tuple(keys)


def _encryption_key(
    report: Report, setting: str, value: object, signing: Collection[bytes]
) -> bytes | None:
    from .encryption import parse_key

    fix = 'use a key of its own: python -c "import secrets;print(secrets.token_hex(32))"'
    material = _key_material(value)
    try:
        key = None if material is None else parse_key(material)
    except ValueError:
        key = None
    if material is None or key is None:
        message = "it is not a key of the right length and encoding."
        report.refuse("SW034", setting, message, fix)
        return None
    if key in signing or as_bytes(material) in signing:
        report.refuse("SW034", setting, "it is a signing secret too.", fix)
    elif len(set(key)) < 10:
        report.warn("SW034", setting, "it has under 10 different bytes: it is no random one.", fix)
    return key
