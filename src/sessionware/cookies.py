"""Read our cookie from a request, and write it to a response.

Reading is byte-exact and stricter than the frameworks' parsers, each of which can be made to see a
cookie that the browser did not store under our name (RFC 6265bis sections 4.2 and 5.6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from .tokens import Tokens, hash_id

SCAN_LIMIT: Final = 65_536
"""Bytes of Cookie header, all fields together, beyond which no cookie is read."""

_LONGEST_KNOWN: Final = 512
_MOST_KNOWN: Final = 4096
# Of the bytes that the cache may take; and what one costs beside its header, as measured.
_KNOWN_SHARE: Final = 32
_KNOWN_BYTES: Final = 400

MAX_VALUES: Final = 8
"""How many cookies of our name a request may carry."""


class Kind(Enum):
    """What a request presents as its session cookie."""

    NONE = "none"
    VALID = "valid"
    BAD = "bad"
    DUPLICATE = "duplicate"


class Presented(NamedTuple):
    """What :func:`identify` found. ``id`` is set only if ``kind`` is ``VALID``.

    ``current`` says that the current key signed it; if not, the next Set-Cookie must sign it again.
    ``sid_hash`` is the store's key for it.
    """

    kind: Kind
    id: str | None = None
    current: bool = False
    sid_hash: bytes | None = None

    def __repr__(self) -> str:
        return f"Presented({self.kind.value}, current={self.current})"


NO_COOKIE: Final = Presented(Kind.NONE)
_BAD: Final = Presented(Kind.BAD)
_DUPLICATE: Final = Presented(Kind.DUPLICATE)
_VALID: Final = Kind.VALID


def identify(values: Sequence[bytes] | None, tokens: Tokens) -> Presented:
    """Decide which session, if any, the values of our cookie name.

    ``NONE``: there is no value. ``VALID``: one valid value, or several of one ID; invalid ones
    beside it do not count. ``BAD``: only invalid values, or ``None``, a header too long to be read.
    ``DUPLICATE``: valid values of different IDs (a cookie tossed from a sibling domain), or more
    than ``MAX_VALUES``. The order of the values never matters (RFC 6265bis section 4.2.2).
    """
    if not values:
        return _BAD if values is None else NO_COOKIE
    if len(values) > MAX_VALUES:
        return _DUPLICATE
    id: str | None = None
    current = False
    for value in values:
        found = tokens.examine(value)
        if found is None:
            continue
        if id is not None and id != found[0]:
            return _DUPLICATE
        id = found[0]
        current = current or found[1]
    return _BAD if id is None else Presented(_VALID, id, current, hash_id(id))


class Recognizer:
    """Remembers which ``Cookie`` headers have been found valid, so that their signature is checked
    once. That a session still stands is for the store to say, each time.

    It takes a share of ``cache_max_bytes``. ``report`` is told what other headers are found to be.
    """

    __slots__ = ("_known", "_reader", "_report", "_room", "_tokens", "_used")

    def __init__(
        self,
        reader: CookieReader,
        tokens: Tokens,
        cache_max_bytes: int,
        report: Callable[[Presented], Presented],
    ) -> None:
        self._reader = reader
        self._tokens = tokens
        self._report = report
        # A dict compares bytes only where a hash with this process's own key is equal, so the time
        # of a lookup says nothing about headers that are nearly right.
        self._known: dict[bytes | str, Presented] = {}
        self._room = cache_max_bytes // _KNOWN_SHARE
        self._used = 0

    def recognize(self, headers: Iterable[tuple[bytes, bytes]]) -> Presented:
        """What :func:`identify` finds in the headers of an ASGI scope."""
        field: bytes | None = None
        fields: list[bytes] | None = None
        for name, value in headers:
            if len(name) == 6 and name.lower() == b"cookie":
                if field is None:
                    field = value
                elif fields is None:
                    fields = [field, value]
                else:
                    fields.append(value)
        if field is None:
            return NO_COOKIE
        if fields is not None:
            return self._report(identify(self._reader.values(fields), self._tokens))
        return self._known.get(field) or self._examine(field, self._reader.values((field,)))

    def recognize_environ(self, environ: Mapping[str, Any]) -> Presented:
        """What :func:`identify` finds in a WSGI environ, whose text is Latin-1 (PEP 3333).

        A character that cannot come from Latin-1 turns into ``?``, which no token contains.
        """
        header: str | None = environ.get("HTTP_COOKIE")
        if not header:
            return NO_COOKIE
        field = header.encode("latin-1", "replace")
        return self._known.get(field) or self._examine(field, self._reader.values((field,)))

    def recognize_value(self, value: str) -> Presented:
        """What :func:`identify` finds in the value of one cookie, which is text here as under
        Django.
        """
        # Text is never equal to a header, which is bytes.
        return self._known.get(value) or self._examine(value, (value.encode("ascii", "replace"),))

    @property
    def tokens(self) -> Tokens:
        """What verifies the signatures."""
        return self._tokens

    def _examine(self, given: bytes | str, values: Sequence[bytes] | None) -> Presented:
        presented = identify(values, self._tokens)
        if presented.id is not None:
            self._keep(given, presented)
        return self._report(presented)

    def _keep(self, given: bytes | str, presented: Presented) -> None:
        if len(given) > _LONGEST_KNOWN:
            return
        cost = len(given) + _KNOWN_BYTES
        if self._used + cost > self._room or len(self._known) >= _MOST_KNOWN:
            self._known.clear()
            self._used = 0
        if cost <= self._room:
            self._used += cost
            self._known[given] = presented


class CookieReader:
    """Finds the values of one cookie name; what they are worth is for :func:`identify` to say."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name.encode("ascii")

    @property
    def name(self) -> bytes:
        """The cookie's name, as it is on the wire."""
        return self._name

    def values(self, fields: Sequence[bytes]) -> list[bytes] | None:
        """Return the raw values of our name in the Cookie header fields of one request.

        Pairs end at ``;`` and nowhere else, SP and HTAB are trimmed around name and value, names
        are compared byte by byte, and nothing is unquoted or decoded; a pair with an empty name or
        without ``=`` is never ours. Returns ``None``, without a look inside, if the fields have
        more than ``SCAN_LIMIT`` bytes together, and stops one value after ``MAX_VALUES``. Takes
        time linear in the bytes.
        """
        total = 0
        for field in fields:
            total += len(field)
        if total > SCAN_LIMIT:
            return None
        name = self._name
        values: list[bytes] = []
        for field in fields:
            start = 0
            # A pair that holds the name anywhere is looked at, all others are skipped unseen.
            while (at := field.find(name, start)) >= 0:
                begin = field.rfind(b";", 0, at) + 1
                end = field.find(b";", at)
                if end < 0:
                    end = len(field)
                key, equals, value = field[begin:end].partition(b"=")
                if equals and key.strip(b" \t") == name:
                    values.append(value.strip(b" \t"))
                    if len(values) > MAX_VALUES:
                        return values
                start = end
        return values


class CookieWriter:
    """Writes the Set-Cookie values of one cookie, spelled as Starlette's middleware spells them.

    Settings are taken as they are: ``config`` has refused what could break out of an attribute.
    """

    __slots__ = ("_flags", "_name", "_path")

    def __init__(
        self,
        name: str,
        *,
        path: str = "/",
        domain: str | None = None,
        https_only: bool = False,
        same_site: str = "lax",
        partitioned: bool = False,
    ) -> None:
        flags = f"httponly; samesite={same_site}"
        if https_only:
            flags += "; secure"
        if domain is not None:
            flags += f"; domain={domain}"
        if partitioned:
            flags += "; partitioned"
        self._name = name
        self._path = f"; path={path}; "
        self._flags = flags

    def set(self, token: str, max_age: int | None) -> str:
        """Return the value that stores a token for ``max_age`` seconds.

        With ``None`` the cookie lasts until the browser is closed.
        """
        lifetime = "" if max_age is None else f"Max-Age={max_age}; "
        return f"{self._name}={token}{self._path}{lifetime}{self._flags}"

    def expire(self) -> str:
        """Return the value that removes the cookie.

        It repeats every attribute, without which a browser would keep or refuse it.
        """
        past = "expires=Thu, 01 Jan 1970 00:00:00 GMT; "
        return f"{self._name}=null{self._path}{past}{self._flags}"
