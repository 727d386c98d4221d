"""Session data to bytes and back, faithfully: equal and of the same type, or refused with the path.

Plain JSON data is written exactly as ``msgspec`` writes it. Anything else is written as a *tag*, an
object with one key that starts with ``~``; a flag beside the payload says whether tags are in it,
so plain data is never interpreted.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from .errors import CorruptRecord, SerializationError

_to_json: Final = msgspec.json.Encoder().encode
_from_json: Final = msgspec.json.Decoder().decode

# Beyond 64 bit, what a JSON number survives depends on sys.set_int_max_str_digits.
_INT_MIN: Final = -(2**63)
_INT_END: Final = 2**64
_INT_TOO_LONG: Final = 10**4300

# Each level takes up to five Python frames, of the 1,000 that are shared with the application.
_DEEPEST: Final = 64

_SURROGATE: Final = "text with a lone surrogate cannot be stored as UTF-8"


class Codec(Protocol):
    """What turns the data of a session into bytes and back."""

    custom: ClassVar[bool]

    def encode(self, data: Mapping[Any, Any]) -> tuple[bytes, bool]: ...
    def decode(self, payload: bytes, rich: bool) -> dict[Any, Any]: ...
    def fingerprint(self, value: Any) -> bytes: ...


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


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused(_SURROGATE) from None
    return value


def _string(value: Any) -> str:
    if type(value) is not str:
        raise CorruptRecord("a tag holds a value of the wrong type")
    return value


def _pack_int(value: int) -> str:
    if not -_INT_TOO_LONG < value < _INT_TOO_LONG:
        raise Refused("an int of more than 4300 digits cannot be stored")
    return hex(value)


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
        return [naive, value.fold, offset // timedelta(microseconds=1), _text(name)]
    if type(zone) is not ZoneInfo:
        raise Refused(
            f"its time zone is a {_name(type(zone))}; only zoneinfo and timezone are stored"
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
    return sorted(members, key=_to_json)


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
    Tag("~int", int, _pack_int, lambda packed: int(packed, 16)),
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
)
_BY_KIND: Final = {tag.kind: tag for tag in TAGS}
_BY_NAME: Final = {tag.name: tag for tag in TAGS}
_STORABLE: Final = frozenset({*_BY_KIND, str, float, list})


def _name(kind: type[Any]) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _why_not(kind: type[Any]) -> str:
    name = _name(kind)
    if issubclass(kind, Enum):
        return f"{name} is an Enum and would not come back as one; store its .value"
    for base in kind.__mro__[1:]:
        if base in _STORABLE:
            plain = _name(base)
            return f"{name} would come back as a plain {plain}; convert it to {plain} first"
    if kind in (bytearray, memoryview):
        return f"{name} cannot be stored; convert it with bytes(...)"
    return f"{name} cannot be stored; store plain values instead, for example its fields or its key"


def _plain(values: Iterable[Any], room: int) -> bool:
    """Whether msgspec alone stores the values faithfully; ``room`` is how many levels may follow.

    This runs on every save, hence one loop and no calls. Lone surrogates are left to the encoder.
    """
    if not room:
        return False
    for value in values:
        kind = type(value)
        if kind is str:
            continue
        if kind is int:
            if not _INT_MIN <= value < _INT_END:
                return False
        elif kind is float:
            if value - value != 0.0:
                return False
        elif kind is dict:
            for key in value:
                if type(key) is not str:
                    return False
            if not _plain(value.values(), room - 1):
                return False
        elif kind is list:
            if not _plain(value, room - 1):
                return False
        elif kind is not bool and value is not None:
            return False
    return True


class _Packer:
    """Turns any storable value into plain JSON with tags, knowing the path to where it is."""

    __slots__ = ("_holders", "_levels", "_path")

    def __init__(self, levels: int) -> None:
        self._levels = levels
        self._path: list[Any] = []
        self._holders: set[int] = set()

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or (kind is int and _INT_MIN <= value < _INT_END):
            return value
        if kind is str:
            return self._checked(str, value)
        if kind is float:
            return value if isfinite(value) else self._refuse("NaN and infinity are not JSON")
        if kind is list:
            return self._inside(self._items, value)
        if kind is dict:
            return self._inside(self._dict, value)
        tag = _BY_KIND.get(kind)
        if tag is None:
            self._refuse(_why_not(kind))
        if not tag.nested:
            return {tag.name: self._checked(tag.pack, value)}
        members = self._inside(self._items if kind is tuple else self._members, value)
        return {tag.name: tag.pack(members)}

    def _refuse(self, reason: str) -> NoReturn:
        raise SerializationError(self._path, reason)

    def _checked(self, pack: Callable[[Any], Any], value: Any) -> Any:
        try:
            packed = pack(value)
            return _text(packed) if type(packed) is str else packed
        except Refused as refused:
            reason = str(refused)
        self._refuse(reason)

    def _inside(self, pack: Callable[[Any], Any], holder: Any) -> Any:
        if id(holder) in self._holders:
            self._refuse("it contains itself (a cycle)")
        if len(self._holders) >= self._levels:
            self._refuse("it is nested too deeply")
        self._holders.add(id(holder))
        packed = pack(holder)
        self._holders.remove(id(holder))
        return packed

    def _items(self, items: Iterable[Any]) -> list[Any]:
        return [self._at(index, item) for index, item in enumerate(items)]

    def _members(self, members: Iterable[Any]) -> list[Any]:
        return [self._without_path(member, "a member") for member in members]

    def _dict(self, value: dict[Any, Any]) -> dict[str, Any]:
        pairs = [[self._key(key), self._at(key, item)] for key, item in value.items()]
        like_a_tag = len(pairs) == 1 and str(pairs[0][0]).startswith("~")
        if like_a_tag or any(type(key) is not str for key in value):
            return {"~dict": pairs}
        return dict(pairs)

    def _key(self, key: Any) -> Any:
        if type(key) is not str:
            return self._without_path(key, "a key")
        if key.isascii():
            return key
        self._path.append(key)
        packed = self._checked(str, key)
        self._path.pop()
        return packed

    def _at(self, key: Any, item: Any) -> Any:
        if type(item) is str and item.isascii():
            return item
        self._path.append(key)
        packed = self.pack(item)
        self._path.pop()
        return packed

    def _without_path(self, value: Any, what: str) -> Any:
        """Pack what no key leads to: a refusal names the dict or set that holds it."""
        depth = len(self._path)
        try:
            return self.pack(value)
        except SerializationError as error:
            reason = error.reason
        del self._path[depth:]
        self._refuse(f"{what} of type {_name(type(value))}: {reason}")


def _unpack(packed: Any) -> Any:
    kind = type(packed)
    if kind is list:
        return [_unpack(item) for item in packed]
    if kind is not dict:
        return packed
    if len(packed) == 1:
        ((name, inner),) = packed.items()
        if name.startswith("~"):
            tag = _BY_NAME[name]
            if not tag.nested:
                return tag.unpack(inner)
            if type(inner) is not list:
                raise CorruptRecord("a tag holds a value of the wrong type")
            return tag.unpack(_unpack(inner))
    return {key: _unpack(item) for key, item in packed.items()}


def _snapshot(data: Mapping[Any, Any]) -> dict[Any, Any]:
    """The data as an exact dict, without setting off what a dict subclass does when it is read."""
    if type(data) is dict:
        return data
    return dict(dict.items(data)) if isinstance(data, dict) else dict(data)


class JSONCodec:
    """JSON that keeps types. ``max_depth`` counts nested containers, the session itself included.

    Exact types only: a subclass (``OrderedDict``, ``StrEnum``, a named tuple) would lose its type.
    Stored besides JSON's own: ``tuple``, ``bytes``, ``datetime`` and ``time`` (naive, fixed offset,
    ``ZoneInfo``), ``date``, ``timedelta``, ``Decimal``, ``UUID``, ``set``, ``frozenset``,
    ``int`` of up to 4300 digits, and dicts with any hashable one of these as keys.
    """

    custom: ClassVar[bool] = False

    def __init__(self, *, max_depth: int = 32) -> None:
        if not 1 <= max_depth <= _DEEPEST:
            raise ValueError(f"max_depth must be from 1 to {_DEEPEST}, not {max_depth}")
        self._max_depth = max_depth

    def encode(self, data: Mapping[Any, Any]) -> tuple[bytes, bool]:
        """The payload and whether tags are in it; raises ``SerializationError`` with the path."""
        return self._encode(_snapshot(data), self._max_depth)

    def fingerprint(self, value: Any) -> bytes:
        """Bytes that are equal for two values exactly if they are stored alike.

        Raises ``SerializationError`` with the path inside the value.
        """
        payload, rich = self._encode(value, self._max_depth - 1)
        return (b"~" if rich else b"=") + payload

    def decode(self, payload: bytes, rich: bool) -> dict[Any, Any]:
        """The data again; raises ``CorruptRecord`` at anything that ``encode`` did not write."""
        try:
            data = _from_json(payload)
            if rich:
                data = _unpack(data)
        except Exception:
            data = None
        # Raised here and not above: the cause would carry session data in its message.
        if type(data) is not dict:
            raise CorruptRecord("the payload is not the JSON of a session")
        return data

    def _encode(self, value: Any, levels: int) -> tuple[bytes, bool]:
        try:
            if _plain((value,), levels + 1):
                try:
                    return _to_json(value), False
                except UnicodeEncodeError:
                    pass
            return _to_json(_Packer(levels).pack(value)), True
        except RecursionError:
            reason = "no stack is left to walk through it"
        except RuntimeError:
            reason = "it was changed by another thread while it was saved"
        raise SerializationError((), reason)


class Serializer(Protocol):
    """What an application may pass as ``serializer``."""

    def dumps(self, data: dict[Any, Any], /) -> bytes: ...
    def loads(self, payload: bytes, /) -> dict[Any, Any]: ...


class CustomCodec:
    """An application's own serializer; what it keeps of types, and how safe it is, is its affair.

    An exception of it is reported by its type only, because its message may quote the data.
    """

    custom: ClassVar[bool] = True

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer

    def encode(self, data: Mapping[Any, Any]) -> tuple[bytes, bool]:
        """The serializer's bytes and ``False``; raises ``SerializationError``."""
        try:
            payload: Any = self._serializer.dumps(_snapshot(data))
        except Exception as error:
            reason = f"the serializer raised {_name(type(error))}"
        else:
            if type(payload) is bytes:
                return payload, False
            reason = f"the serializer returned {_name(type(payload))}, not bytes"
        raise SerializationError((), reason)

    def fingerprint(self, value: Any) -> bytes:
        """The serializer's bytes of this value alone; raises ``SerializationError``."""
        return self.encode({"": value})[0]

    def decode(self, payload: bytes, rich: bool) -> dict[Any, Any]:
        """The serializer's dict; raises ``CorruptRecord`` at an exception or anything else."""
        try:
            data: Any = None if rich else self._serializer.loads(payload)
        except Exception as error:
            reason = f"the serializer raised {_name(type(error))}"
        else:
            if isinstance(data, dict):
                return data
            reason = "the serializer did not return a dict"
        raise CorruptRecord(reason)
