"""A contender that does not do what a session has to is found out, before or after it is timed."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import Contender
from benchmarks.site import LARGE, PAYLOAD, Place, Site
from benchmarks.worker import Bench, Wrong

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The callers of the benchmarks are asyncio's."""
    return "asyncio"


class Sessions:
    """An application with sessions in memory: right, but for what ``flaw`` says."""

    def __init__(self, flaw: str = "") -> None:
        self.flaw = flaw
        self.stored: dict[str, dict[str, Any]] = {}
        self.cached: dict[str, dict[str, Any]] = {}
        self.requests = 0

    def site(self) -> Site:
        return Site(self, Sessions(), chill=self.cached.clear)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        name, page = self.named(scope["headers"]), scope["path"][1:]
        before = self.cached.get(name) or self.stored.get(name) or {}
        content, cookie = dict(before), b""
        getattr(self, f"_{page}", self._plain)(content)
        if page == "logout":
            cookie = b"session=; Max-Age=0"
            if self.flaw != "a copied cookie outlives the logout":
                self.cached.pop(name, None)
                self.stored.pop(name, None)
        elif content != before:
            if not name:
                name = "one" if self.flaw == "visitors get one session" else secrets.token_hex(8)
                cookie = f"session={name}.{name[::-1]}".encode()
            self.cached[name] = content
            if self.flaw != "nothing is stored":
                self.stored[name] = content
        failed = self.flaw == "requests fail" and not self.requests % 50
        headers = [(b"set-cookie", cookie)] if cookie and self.flaw != "no cookie" else []
        status = 500 if failed and page == "read" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    def named(self, headers: list[tuple[bytes, bytes]]) -> str:
        cookie = dict(headers).get(b"cookie", b"").decode()
        name, _, signature = cookie.removeprefix("session=").partition(".")
        is_signed = signature == name[::-1] or self.flaw == "a forged cookie is taken"
        return name if is_signed else ""

    def _plain(self, content: dict[str, Any]) -> None:
        """Neither looks nor changes."""

    def _write(self, content: dict[str, Any]) -> None:
        lost = self.flaw == "a write is lost now and then" and self.requests > 400
        if not lost or self.requests % 7:
            content["n"] = content.get("n", 0) + (self.flaw != "writes do nothing")

    def _login(self, content: dict[str, Any]) -> None:
        content["other" if self.flaw == "a login is not kept" else "user_id"] = "alice"

    def _logout(self, content: dict[str, Any]) -> None:
        content.clear()

    def _seed(self, content: dict[str, Any]) -> None:
        content.update(PAYLOAD)

    def _seed20(self, content: dict[str, Any]) -> None:
        content.update(PAYLOAD if self.flaw == "large ones are cut" else LARGE)


@dataclass(frozen=True)
class Flawed(Contender):
    flaw: str = ""

    def build(self, place: Place) -> Site:
        return Sessions(self.flaw).site()


async def measured(flaw: str, folder: Path) -> None:
    """All that is done with a contender, in short."""
    contender = Flawed("flawed", "starlette", "memory", flaw=flaw)
    bench = Bench(contender, Place(folder, contender.name))
    await bench.validate()
    for name in ("read", "write", "writes64", "write20"):
        await bench.round(name, 0.005, bare_first=True)
    await bench.check()


async def test_one_that_does_what_it_should_is_measured(tmp_path: Path) -> None:
    await measured("", tmp_path)


@pytest.mark.parametrize(
    ("flaw", "found"),
    [
        ("writes do nothing", "what was written is read back"),
        ("no cookie", "what was written is read back"),
        ("visitors get one session", "without the cache, too"),
        ("nothing is stored", "without the cache, too"),
        ("a login is not kept", "a login is kept"),
        ("large ones are cut", "20 KB are read back"),
        ("a forged cookie is taken", "a forged cookie opens nothing"),
        ("a copied cookie outlives the logout", "a copied cookie outlives the logout"),
        ("requests fail", "requests were not answered with 200"),
        ("a write is lost now and then", "writes were acknowledged"),
    ],
)
async def test_a_broken_contender_is_found_out(flaw: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(Wrong, match=found):
        await measured(flaw, tmp_path)
