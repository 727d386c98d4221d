"""The types beside JSON's own that a session keeps, and how each is written: one table."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from .errors import CorruptRecord

_markup: type[Any] = str
with suppress(ImportError):  # Jinja2 brings it, and with it Flask.
    from markupsafe import Markup

    _markup = Markup

to_json: Final = msgspec.json.Encoder().encode

# Beyond 64 bit, what a JSON number survives depends on sys.set_int_max_str_digits.
INT_MIN: Final = -(2**63)
INT_END: Final = 2**64
INT_TOO_LONG: Final = 10**4300

SURROGATE: Final = "text with a lone surrogate cannot be stored as UTF-8"


class Refused(ValueError):
    """Raised by a tag's ``pack``: the reason why a value cannot be stored, without the value."""


class Tag(NamedTuple):
    """How values of exactly one type are stored: as ``{name: pack(value)}``.

    ``pack`` makes plain JSON of the value or raises ``Refused``; ``unpack`` makes the value again
    and may raise anything at damaged input. With ``nested``, both get a list of the value's members
    instead, which the codec has packed or unpacked already.
    """

    name: str
    kind: type[Any]
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    nested: bool = False


def checked_text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused(SURROGATE) from None
    return value


def _pack_text(value: str) -> str:
    return checked_text(str.__str__(value))


def _string(value: Any) -> str:
    if type(value) is not str:
        raise CorruptRecord("a tag holds a value of the wrong type")
    return value


def _pack_int(value: int) -> str:
    if not -INT_TOO_LONG < value < INT_TOO_LONG:
        raise Refused("an int of more than 4300 digits cannot be stored")
    return hex(value)


def _unpack_int(packed: Any) -> int:
    value = int(packed, 16)
    if not -INT_TOO_LONG < value < INT_TOO_LONG:
        raise CorruptRecord("a stored int is longer than Python writes out")
    return value


def _pack_decimal(value: Decimal) -> str:
    if value.is_nan():
        raise Refused("NaN is not equal to itself, so it cannot come back equal; store None")
    return str(value)


def _unpack_decimal(packed: Any) -> Decimal:
    value = Decimal(_string(packed))
    if value.is_nan():
        raise CorruptRecord("a stored Decimal is NaN")
    return value


def _unpack_bytes(packed: Any) -> bytes:
    return base64.b64decode(_string(packed), validate=True)


def _unpack_timedelta(packed: Any) -> timedelta:
    days, seconds, microseconds = packed
    return timedelta(days, seconds, microseconds)


def _pack_moment(value: datetime | time) -> str | list[Any]:
    zone = value.tzinfo
    if zone is None:
        return [value.isoformat(), value.fold] if value.fold else value.isoformat()
    naive = value.replace(tzinfo=None).isoformat()
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        # fromisoformat of Python 3.11 loses the microseconds of an offset.
        unnamed = name == timezone(offset).tzname(None)
        if unnamed and not value.fold and not offset.microseconds:
            return value.isoformat()
        return [naive, value.fold, offset // timedelta(microseconds=1), checked_text(name)]
    if type(zone) is not ZoneInfo:
        raise Refused(
            f"its time zone is a {type_name(type(zone))}; only zoneinfo and timezone are stored"
        )
    if not _reloads(zone, value):
        raise Refused("its time zone is not the one that ZoneInfo(key) loads")
    return [naive, value.fold, zone.key]


def _reloads(zone: ZoneInfo, value: datetime | time) -> bool:
    """Whether the key alone leads back to this zone, which isn't so for one read from a file."""
    try:
        again = ZoneInfo(zone.key)
    except (TypeError, ValueError, OSError, LookupError):
        return False
    return value.replace(tzinfo=again).utcoffset() == value.utcoffset()


def _unpack_moment(kind: type[Any]) -> Callable[[Any], Any]:
    def unpack(packed: Any) -> Any:
        if type(packed) is str:
            return kind.fromisoformat(packed)
        naive, fold, *zone = packed
        value = kind.fromisoformat(naive).replace(fold=fold)
        if not zone:
            return value
        if len(zone) == 1:
            return value.replace(tzinfo=ZoneInfo(zone[0]))
        offset, name = zone
        return value.replace(tzinfo=timezone(timedelta(microseconds=offset), name))

    return unpack


def _sorted(members: list[Any]) -> list[Any]:
    return sorted(members, key=to_json)


def _distinct(kind: type[Any]) -> Callable[[list[Any]], Any]:
    def unpack(members: list[Any]) -> Any:
        value = kind(members)
        if len(value) != len(members):
            raise CorruptRecord("a stored set or dict repeats a member")
        return value

    return unpack


TAGS: tuple[Tag, ...] = (
    Tag("~tuple", tuple, list, tuple, nested=True),
    Tag("~set", set, _sorted, _distinct(set), nested=True),
    Tag("~frozenset", frozenset, _sorted, _distinct(frozenset), nested=True),
    # Any dict that JSON cannot hold as it is, as [key, value] pairs; this is also the escape for a
    # dict that looks like a tag.
    Tag("~dict", dict, list, _distinct(dict), nested=True),
    Tag("~int", int, _pack_int, _unpack_int),
    Tag("~bytes", bytes, lambda value: base64.b64encode(value).decode(), _unpack_bytes),
    Tag("~datetime", datetime, _pack_moment, _unpack_moment(datetime)),
    Tag("~date", date, date.isoformat, date.fromisoformat),
    Tag("~time", time, _pack_moment, _unpack_moment(time)),
    Tag(
        "~timedelta",
        timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        _unpack_timedelta,
    ),
    Tag("~decimal", Decimal, _pack_decimal, _unpack_decimal),
    Tag("~uuid", UUID, str, UUID),
    # Without markupsafe there is none to pack, and what another application stored is text.
    Tag("~markup", _markup, _pack_text, lambda packed: _markup(_string(packed))),
)
BY_KIND: Final = {tag.kind: tag for tag in TAGS if tag.kind is not str}
BY_NAME: Final = {tag.name: tag for tag in TAGS}
STORABLE: Final = frozenset({*BY_KIND, str, float, list})


def type_name(kind: type[Any]) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def why_not(kind: type[Any]) -> str:
    name = type_name(kind)
    if issubclass(kind, Enum):
        return f"{name} is an Enum and would not come back as one; store its .value"
    for base in kind.__mro__[1:]:
        if base in STORABLE:
            plain = type_name(base)
            return f"{name} would come back as a plain {plain}; convert it to {plain} first"
    if kind in (bytearray, memoryview):
        return f"{name} cannot be stored; convert it with bytes(...)"
    return f"{name} cannot be stored; store plain values instead, for example its fields or its key"
