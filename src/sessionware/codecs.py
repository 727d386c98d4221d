"""Session data to bytes and back, faithfully: equal and of the same type, or refused with the path.

Plain JSON data is written exactly as ``msgspec`` writes it. Anything else is written as a *tag*, an
object with one key that starts with ``~``; a flag beside the payload says whether tags are in it,
so plain data is never interpreted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from marshal import dumps
from math import isfinite
from typing import Any, ClassVar, Final, NoReturn, Protocol

import msgspec

from .errors import CorruptRecord, SerializationError, SessionTooLarge
from .tags import (
    BY_KIND,
    BY_NAME,
    INT_END,
    INT_MIN,
    Refused,
    checked_text,
    to_json,
    type_name,
    why_not,
)

from_json: Final = msgspec.json.Decoder().decode
_encode_into: Final = msgspec.json.Encoder().encode_into
# What is encoded into one that is long enough need not be moved as it grows. Taken and given back,
# for a thread has to have it for itself.
_buffers: Final[list[bytearray]] = []
_BUFFER_BYTES: Final = 4096

# Each level takes up to five Python frames, of the 1,000 that are shared with the application.
_DEEPEST: Final = 64
SIXTY_BITS: Final = (1 << 60) - 1
UNTOLD: Final = -1
"""In place of a snapshot that nobody has made yet: it follows from the payload."""
ABSENT: Final[Any] = object()
"""In place of the value of a key that was not there."""


class Codec(Protocol):
    """What turns the data of a session into bytes and back."""

    custom: ClassVar[bool]

    def encode(self, data: Mapping[Any, Any]) -> tuple[bytes, bool]: ...
    def decode(self, payload: bytes, rich: bool) -> dict[Any, Any]: ...
    def fingerprint(self, value: Any) -> bytes: ...
    def reencode(
        self, data: dict[Any, Any], before: Mapping[Any, Any], payload: bytes
    ) -> bytes | None: ...


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
            if not INT_MIN <= value < INT_END:
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


def snapshot(content: dict[Any, Any]) -> int | None:
    """A number that content has in common only with content that is the same in values, types and
    order; None for content that it can't be told of. In this process only, and at C speed. Of 60
    bits, which take less memory than 64.
    """
    try:
        # Version 2 has no references, which would tell equal values apart by their identity. The
        # items, because a copy of a dict subclass is made by its own methods.
        return hash(dumps(tuple(dict.items(content)), 2)) & SIXTY_BITS
    except ValueError:
        return None


def encodes_to(value: Any, payload: bytes) -> bool:
    """Whether it is these bytes as plain JSON. Raises what the encoder raises."""
    try:
        buffer = _buffers.pop()
    except IndexError:
        buffer = bytearray(_BUFFER_BYTES)
    _encode_into(value, buffer)
    same = buffer == payload
    _buffers.append(buffer)
    return same


def too_large(codec: Codec, content: Mapping[Any, Any], size: int, limit: int) -> SessionTooLarge:
    """The error that names the largest keys."""
    sizes = ((str(key), len(codec.fingerprint(value))) for key, value in dict(content).items())
    return SessionTooLarge(size, limit, sorted(sizes, key=lambda pair: pair[1], reverse=True)[:3])


class _Packer:
    """Turns any storable value into plain JSON with tags, knowing the path to where it is."""

    __slots__ = ("_holders", "_levels", "_path")

    def __init__(self, levels: int) -> None:
        self._levels = levels
        self._path: list[Any] = []
        self._holders: set[int] = set()

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or (kind is int and INT_MIN <= value < INT_END):
            return value
        if kind is str:
            return self._checked(str, value)
        if kind is float:
            return value if isfinite(value) else self._refuse("NaN and infinity are not JSON")
        if kind is list:
            return self._inside(self._items, value)
        if kind is dict:
            return self._inside(self._dict, value)
        tag = BY_KIND.get(kind)
        if tag is None:
            self._refuse(why_not(kind))
        if not tag.nested:
            return {tag.name: self._checked(tag.pack, value)}
        members = self._inside(self._items if kind is tuple else self._members, value)
        return {tag.name: tag.pack(members)}

    def _refuse(self, reason: str) -> NoReturn:
        raise SerializationError(self._path, reason)

    def _checked(self, pack: Callable[[Any], Any], value: Any) -> Any:
        try:
            packed = pack(value)
            return checked_text(packed) if type(packed) is str else packed
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
        self._refuse(f"{what} of type {type_name(type(value))}: {reason}")


def _unpack(packed: Any) -> Any:
    kind = type(packed)
    if kind is list:
        return [_unpack(item) for item in packed]
    if kind is not dict:
        return packed
    if len(packed) == 1:
        ((name, inner),) = packed.items()
        if name.startswith("~"):
            tag = BY_NAME[name]
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
        return self._encode(data if type(data) is dict else _snapshot(data), self._max_depth)

    def reencode(
        self, data: dict[Any, Any], before: Mapping[Any, Any], payload: bytes
    ) -> bytes | None:
        """As ``encode``, of plain data that differs from what was decoded from a plain payload at
        most in the values of some keys: ``before`` has what stood there, or ``ABSENT``. None where
        that is not so, or can't be told at a glance.

        Who got hold of what else is in the data is expected not to have changed it in its types
        alone.
        """
        assigned: list[Any] = []
        try:
            # Once and for all: another thread may assign something meanwhile.
            now = dict(dict.items(data))
            restored = now.copy()
            for key, value in before.items():
                if type(key) is not str:
                    return None
                assigned.append(now[key])
                if value is ABSENT:
                    del restored[key]
                else:
                    restored[key] = value
            if not encodes_to(restored, payload) or not _plain(assigned, self._max_depth):
                return None
            return to_json(now)
        except Exception:
            return None

    def fingerprint(self, value: Any) -> bytes:
        """Bytes that are equal for two values exactly if they are stored alike.

        Raises ``SerializationError`` with the path inside the value.
        """
        payload, rich = self._encode(value, self._max_depth - 1)
        return (b"~" if rich else b"=") + payload

    def decode(self, payload: bytes, rich: bool) -> dict[Any, Any]:
        """The data again; raises ``CorruptRecord`` at anything that ``encode`` did not write."""
        try:
            data = from_json(payload)
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
                    return to_json(value), False
                except UnicodeEncodeError:
                    pass
            return to_json(_Packer(levels).pack(value)), True
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
            reason = f"the serializer raised {type_name(type(error))}"
        else:
            if type(payload) is bytes:
                return payload, False
            reason = f"the serializer returned {type_name(type(payload))}, not bytes"
        raise SerializationError((), reason)

    def reencode(
        self, data: dict[Any, Any], before: Mapping[Any, Any], payload: bytes
    ) -> bytes | None:
        """None: what a serializer writes is its own affair."""
        return None

    def fingerprint(self, value: Any) -> bytes:
        """The serializer's bytes of this value alone; raises ``SerializationError``."""
        return self.encode({"": value})[0]

    def decode(self, payload: bytes, rich: bool) -> dict[Any, Any]:
        """The serializer's dict; raises ``CorruptRecord`` at an exception or anything else."""
        try:
            data: Any = None if rich else self._serializer.loads(payload)
        except Exception as error:
            reason = f"the serializer raised {type_name(type(error))}"
        else:
            if isinstance(data, dict):
                return data
            reason = "the serializer did not return a dict"
        raise CorruptRecord(reason)
