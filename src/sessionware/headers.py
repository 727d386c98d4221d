"""What shared caches are told about a response that depends on, or changes, a session.

ASGI headers are bytes and WSGI headers are text; the rules are written once, for both. Every
function returns a new list: an application may send the same list, a constant, with each response.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

_T = TypeVar("_T", bound=bytes | str)

# An unfinished quoted string hides all that follows: no cache is sure to see a directive there.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)', re.DOTALL)


def _vary_with_cookie(values: Sequence[str]) -> str | None:
    members = _members(values)
    if any(member.lower() in ("cookie", "*") for member in members):
        return None
    return ", ".join([*members, "Cookie"])


def _no_store(values: Sequence[str]) -> str | None:
    # `private="a, no-store"` names a field, it does not forbid storing.
    directives = _members(_QUOTED.sub("", value) for value in values)
    if any(directive.lower() == "no-store" for directive in directives):
        return None
    return "no-store"


def _members(values: Iterable[str]) -> list[str]:
    """Return the members of a comma-separated header, however many lines it takes."""
    parts = [part.strip(" \t") for value in values for part in value.split(",")]
    return [part for part in parts if part]


class _Rule(Generic[_T]):
    """A header that must say something: ``absent`` is the line to add where there is none.

    Where there are lines, ``decide`` sees their values and returns the one value to put in their
    place, or None to leave them.
    """

    def __init__(
        self,
        absent: tuple[_T, _T],
        decide: Callable[[Sequence[str]], str | None],
        read: Callable[[_T], str],
        write: Callable[[str], _T],
    ) -> None:
        self._absent = absent
        self._key = absent[0].lower()
        self._decide = decide
        self._read = read
        self._write = write

    def apply(self, headers: Iterable[tuple[_T, _T]]) -> list[tuple[_T, _T]]:
        key = self._key
        fields = list(headers)
        if key not in [name.lower() for name, _ in fields]:
            fields.append(self._absent)
            return fields
        lines = [index for index, (name, _) in enumerate(fields) if name.lower() == key]
        value = self._decide([self._read(fields[index][1]) for index in lines])
        if value is not None:
            fields[lines[0]] = (self._absent[0], self._write(value))
            for index in reversed(lines[1:]):
                del fields[index]
        return fields


def _decode(raw: bytes) -> str:
    return raw.decode("latin-1")


def _encode(text: str) -> bytes:
    return text.encode("latin-1")


_VARY = (b"vary", b"Cookie")
_NO_STORE = (b"cache-control", b"no-store")
_CONCERNED = frozenset({b"vary", b"cache-control", b"set-cookie"})
_ASGI_VARY = _Rule(_VARY, _vary_with_cookie, _decode, _encode)
_WSGI_VARY = _Rule(("Vary", "Cookie"), _vary_with_cookie, str, str)
_ASGI_CONTROL = _Rule(_NO_STORE, _no_store, _decode, _encode)
_WSGI_CONTROL = _Rule(("Cache-Control", "no-store"), _no_store, str, str)


def add_vary_cookie(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return ASGI headers with ``Cookie`` among the members of one ``Vary``.

    Headers whose ``Vary`` has it already, or has ``*`` (RFC 9110 section 12.5.5), stay as they are.
    """
    fields = list(headers)
    for name, _ in fields:
        if len(name) == 4 and name.lower() == b"vary":
            return _ASGI_VARY.apply(fields)
    fields.append(_VARY)
    return fields


def ensure_no_store(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return ASGI headers with ``Cache-Control: no-store``, for a response that sets a cookie.

    A ``Cache-Control`` that contains it stays as it is, a weaker one is replaced (RFC 9111 section
    5.2.2.5; OWASP Session Management Cheat Sheet, "Web Content Caching").
    """
    return _ASGI_CONTROL.apply(headers)


def add_vary_cookie_wsgi(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Do for WSGI headers what :func:`add_vary_cookie` does for ASGI headers."""
    return _WSGI_VARY.apply(headers)


def ensure_no_store_wsgi(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Do for WSGI headers what :func:`ensure_no_store` does for ASGI headers."""
    return _WSGI_CONTROL.apply(headers)


def sets_cookie(header: tuple[bytes, bytes], name: bytes) -> bool:
    """Whether an ASGI header sets the cookie of that name."""
    return header[0].lower() == b"set-cookie" and header[1].partition(b"=")[0].strip() == name


def with_session(
    headers: Iterable[tuple[bytes, bytes]], set_cookie: str | None, name: bytes
) -> list[tuple[bytes, bytes]]:
    """Return ASGI headers for a response that depends on the session, and sets its cookie.

    A ``Set-Cookie`` of the application's for the same name makes room: one at most may be there
    (RFC 6265bis section 4.1.1).
    """
    fields = list(headers)
    if set_cookie is None:
        return add_vary_cookie(fields)
    for field in fields:
        if field[0].lower() in _CONCERNED:
            fields = ensure_no_store(add_vary_cookie(fields))
            fields = [field for field in fields if not sets_cookie(field, name)]
            break
    else:
        fields += (_VARY, _NO_STORE)
    fields.append((b"set-cookie", set_cookie.encode("latin-1")))
    return fields


def with_session_wsgi(
    headers: Iterable[tuple[str, str]], set_cookie: str | None, name: str
) -> list[tuple[str, str]]:
    """Do for WSGI headers what :func:`with_session` does for ASGI headers."""
    merged = add_vary_cookie_wsgi(headers)
    if set_cookie is not None:
        merged = [
            (key, value)
            for key, value in ensure_no_store_wsgi(merged)
            if key.lower() != "set-cookie" or value.partition("=")[0].strip() != name
        ]
        merged.append(("Set-Cookie", set_cookie))
    return merged
