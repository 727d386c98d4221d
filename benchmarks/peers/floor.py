"""The floor: about the least that a signed, cached, durable session can cost.

No expiry, no versions, no locks, no second process, no nested changes: nothing that a product has
to do. What is left is a header to scan, an HMAC, a dict, msgspec, and one SQL statement a write,
grouped with those that wait already.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Awaitable
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from ..site import LIFETIME, SECRET

_KEY = hmac.new(SECRET.encode(), digestmod=sha256)
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def _sign(sid: bytes) -> bytes:
    mac = _KEY.copy()
    mac.update(sid)
    return urlsafe_b64encode(mac.digest())


class FloorSession:
    """Decodes when somebody looks; writes when somebody assigned."""

    __slots__ = ("_data", "dirty", "ended", "raw")

    def __init__(self, raw: bytes | None) -> None:
        self.raw = raw
        self._data: dict[str, Any] | None = None
        self.dirty = self.ended = False

    @property
    def data(self) -> dict[str, Any]:
        if self._data is None:
            self._data = {} if self.raw is None else _decode(self.raw)
        return self._data

    def get(self, key: str, default: Any = None) -> Any:
        return self.data.get(key, default)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.data[key] = value
        self.dirty = True

    def update(self, values: dict[str, Any]) -> None:
        self.data.update(values)
        self.dirty = True

    def clear(self) -> None:
        self._data = {}
        self.ended = True

    def encoded(self) -> bytes:
        return _encode(self.data)


class FloorStore(Protocol):
    """Where rows are: a key of 32 bytes and what is under it."""

    def load(self, key: bytes) -> Awaitable[bytes | None]: ...
    def save(self, key: bytes, raw: bytes) -> Awaitable[None]: ...
    def remove(self, key: bytes) -> Awaitable[None]: ...


class Floor:
    """The ASGI middleware."""

    def __init__(self, app: Any, store: FloorStore) -> None:
        self.app = app
        self.store = store
        self.cache: dict[bytes, bytes] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sid = None
        for name, value in scope["headers"]:
            if name == b"cookie":
                sid = sid_of(value)
                break
        raw = None
        if sid is not None:
            raw = self.cache.get(sid)
            if raw is None:
                raw = await self.store.load(sha256(sid).digest())
                if raw is None:
                    sid = None
                else:
                    self.cache[sid] = raw
        session = scope["session"] = FloorSession(raw)

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start" and (session.dirty or session.ended):
                await self.finish(sid, session, message)
            await send(message)

        await self.app(scope, receive, sending)

    async def finish(self, sid: bytes | None, session: FloorSession, message: Any) -> None:
        if session.ended:
            if sid is not None:
                await self.store.remove(sha256(sid).digest())
                self.cache.pop(sid, None)
            return
        is_new = sid is None
        if sid is None:
            sid = new_sid()
        raw = session.encoded()
        await self.store.save(sha256(sid).digest(), raw)
        self.cache[sid] = raw
        if is_new:
            message["headers"] = [*message["headers"], (b"set-cookie", cookie_of(sid))]


def new_sid() -> bytes:
    return secrets.token_urlsafe(32).encode()


def cookie_of(sid: bytes) -> bytes:
    cookie = b"session=%b.%b; path=/; Max-Age=%d; httponly; samesite=lax"
    return cookie % (sid, _sign(sid), LIFETIME)


def sid_of(cookies: bytes) -> bytes | None:
    """The ID in a Cookie header, if its signature is right."""
    at = cookies.find(b"session=")
    if at < 0:
        return None
    sid, _, signature = cookies[at + 8 :].partition(b";")[0].partition(b".")
    return sid if hmac.compare_digest(_sign(sid), signature) else None
