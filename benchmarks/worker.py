"""A process with one contender in it. Takes orders as lines of JSON on stdin, answers on stdout.

python -m benchmarks.worker NAME FOLDER          takes orders
python -m benchmarks.worker NAME FOLDER PORT     serves it with uvicorn; `bare` after that: bare
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from inspect import isawaitable
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from . import statements
from .calling import AsgiCaller, Jar, WsgiCaller
from .contenders import Contender, named
from .scenarios import IN_FLIGHT, STAMPEDE, scenario
from .site import LARGE, PAYLOAD, Place

_WARM_UP = 0.003
_ALIVE_WITHIN = 20.0


class Wrong(Exception):
    """The contender did not do what a session has to."""


class Bench:
    """One contender and its bare application, in the loop that runs."""

    def __init__(self, contender: Contender, place: Place) -> None:
        self.contender = contender
        self.site = contender.build(place)
        self.caller = AsgiCaller() if contender.is_asgi else WsgiCaller()
        self.cookies: dict[str, str | None] = {"anonymous": None}
        self.many: list[str | None] = []
        self.written: Counter[str | None] = Counter()
        self._calls: dict[tuple[str, str], int] = {}

    # Before anything is timed.

    async def validate(self) -> dict[str, Any]:
        """Write, read back, log in, log out, keep apart: says what is so, raises ``Wrong``."""
        alice, bob = Jar(), Jar()
        self._is(await self._show(alice), {}, "a visitor's session is empty")
        await self._go(alice, "seed")
        await self._go(alice, "write")
        await self._go(alice, "write")
        self._is(await self._show(alice), {**PAYLOAD, "n": 2}, "what was written is read back")
        await self._go(bob, "write")
        self._is(await self._show(bob), {"n": 1}, "sessions are kept apart")
        self.site.chill()
        self._is(await self._show(alice), {**PAYLOAD, "n": 2}, "without the cache, too")
        carol = Jar()
        await self._go(carol, "login")
        user = await self._show(carol)
        if not user.keys() & {"user_id", "_auth_user_id"}:
            raise Wrong("not so: a login is kept")
        if "read20" not in self.contender.skips:
            dave = Jar()
            await self._go(dave, "seed20")
            self._is(await self._show(dave), LARGE, "20 KB are read back")
            self.cookies["large"] = dave.header
            self.cookies["large write"] = await self._seeded("seed20")
        forged = _forged(alice.header)
        reply = await self.caller.ask(self.site.app, "show", forged)
        self._is(json.loads(reply.body), {}, "a forged cookie opens nothing")
        copied = bob.header
        await self._go(bob, "logout")
        self._is(await self._show(bob), {}, "after a logout the session is empty")
        reply = await self.caller.ask(self.site.app, "show", copied)
        ends = json.loads(reply.body) == {}
        if not ends and "cookie" not in self.contender.name:
            raise Wrong("a copied cookie outlives the logout")
        self.cookies |= {"valid": await self._seeded(), "write": await self._seeded()}
        self.cookies["forged"] = forged
        self.many = [await self._seeded() for _ in range(IN_FLIGHT)]
        quiet = await self.caller.ask(self.site.app, "read", self.cookies["valid"])
        return {
            "logout ends a copied cookie": ends,
            "a read sends Set-Cookie": bool(quiet.set_cookies),
            **self.site.notes,
        }

    async def _seeded(self, page: str = "seed") -> str | None:
        jar = Jar()
        await self._go(jar, page)
        return jar.header

    async def _go(self, jar: Jar, page: str) -> None:
        reply = await self.caller.ask(self.site.app, page, jar.header)
        if reply.status != 200:
            raise Wrong(f"/{page} was answered with {reply.status}")
        jar.keep(reply)

    async def _show(self, jar: Jar) -> Any:
        reply = await self.caller.ask(self.site.app, "show", jar.header)
        jar.keep(reply)
        return json.loads(reply.body)

    def _is(self, found: Any, wanted: Any, promise: str) -> None:
        if found != wanted:
            raise Wrong(f"not so: {promise}")

    async def settle(self) -> dict[str, Any]:
        """Use it until it runs as it does in normal running."""
        until = perf_counter() + _ALIVE_WITHIN
        while True:
            await self.caller.ask(self.site.app, "read", self.cookies["valid"])
            if self.site.alive():
                return {"alive": True}
            if perf_counter() > until:
                return {"alive": False}
            sleep(0.05)  # The loop has nothing else to do.

    # Timed.

    async def round(self, name: str, seconds: float, bare_first: bool) -> dict[str, Any]:
        """One slice of the bare application and one of the contender: µs a request."""
        taken = {}
        for which in ("bare", "mine") if bare_first else ("mine", "bare"):
            taken[which] = await self._slice(name, which, seconds)
        failures, self.caller.failures = self.caller.failures, 0
        if failures:
            raise Wrong(f"{failures} requests were not answered with 200")
        return taken

    async def _slice(self, name: str, which: str, seconds: float) -> float:
        app = self.site.bare if which == "bare" else self.site.app
        calls = self._calls.get((name, which))
        if calls is None:
            calls = self._calls[name, which] = await self._calibrated(name, which, app, seconds)
        if name not in ("writes64", "stampede", "cold"):
            # What lapsed while others were timed is looked up again outside the time.
            until = perf_counter() + _WARM_UP
            while perf_counter() < until:
                await self._timed(name, which, app, 1)
        return await self._timed(name, which, app, calls) * 1e6

    async def _calibrated(self, name: str, which: str, app: Any, seconds: float) -> int:
        calls, each = 1, 0.0
        while True:
            each = await self._timed(name, which, app, calls)
            total = each * calls * _at_once(name)
            if total > seconds / 4 or calls > 4_000:
                return max(1, round(seconds / (each * _at_once(name))))
            calls *= 4

    async def _timed(self, name: str, which: str, app: Any, calls: int) -> float:
        """Seconds a request."""
        page, mine = scenario(name).page, which == "mine"
        if name == "writes64":
            if mine:
                for cookie in self.many:
                    self.written[cookie] += calls
            return await self.caller.at_once(app, page, self.many, calls) / (calls * IN_FLIGHT)
        if name == "stampede":
            return await self._stampede(app, page, calls)
        cookie = self.cookies[_COOKIES.get(name, "valid")]
        if name in ("write", "write20") and mine:
            self.written[cookie] += calls
        if name == "cold":
            chill = self.site.chill if mine else _nothing
            return await self.caller.cold(app, page, cookie, calls, chill) / calls
        return await self.caller.one_by_one(app, page, cookie, calls) / calls

    async def _stampede(self, app: Any, page: str, calls: int) -> float:
        flight, each = (STAMPEDE, 1) if self.contender.is_asgi else (IN_FLIGHT, 8)
        cookies = [self.cookies["valid"]] * flight
        taken = 0.0
        for _ in range(calls):
            self.site.chill()
            taken += await self.caller.at_once(app, page, cookies, each)
        return taken / (calls * flight * each)

    # Afterwards.

    async def check(self) -> dict[str, Any]:
        """Each acknowledged write is there, and one stampede once more with SELECTs counted."""
        if "cookie" not in self.contender.name:
            for cookie, wanted in self.written.items():
                shown = json.loads((await self.caller.ask(self.site.app, "show", cookie)).body)
                if shown["n"] != wanted:
                    raise Wrong(f"{wanted} writes were acknowledged, {shown['n']} are there")
        found: dict[str, Any] = {"writes found": sum(self.written.values())}
        if self.contender.in_sql and "stampede" not in self.contender.skips:
            with statements.counted() as texts:
                await self._stampede(self.site.app, "read", 1)
            found["SELECTs of a stampede"] = statements.selects(texts)
        return found

    async def close(self) -> None:
        done = self.site.close()
        if isawaitable(done):
            await done


_COOKIES = {
    "anonymous": "anonymous",
    "login": "anonymous",
    "forged": "forged",
    "write": "write",
    "read20": "large",
    "write20": "large write",
}


def _nothing() -> None:
    pass


def _at_once(name: str) -> int:
    return {"writes64": IN_FLIGHT, "stampede": STAMPEDE}.get(name, 1)


def _forged(header: str | None) -> str:
    """The cookie with one character changed near its end, where signatures are."""
    if header is None:
        raise Wrong("a session that was written to has no cookie")
    at = len(header) - 6
    return header[:at] + ("A" if header[at] != "A" else "B") + header[at + 1 :]


async def take_orders(contender: Contender, place: Place, orders: AsyncIterator[str]) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Whatever a library prints is no answer.
    os.dup2(2, 1)
    bench: Bench | None = None
    async for line in orders:
        order = json.loads(line)
        verb = order.pop("do")
        answer: dict[str, Any]
        try:
            if verb == "build":
                bench = Bench(contender, place)
                answer = await bench.validate() | await bench.settle()
                gc.collect()
                gc.freeze()
            else:
                assert bench is not None
                answer = await getattr(bench, verb)(**order) or {}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


async def _read_in_a_thread() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


async def _read_here() -> AsyncIterator[str]:
    for line in sys.stdin:
        yield line


def _without_a_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run what never really waits: WSGI applications refuse to be called within an event loop."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("something waited for an event loop, and there is none")


def serve(contender: Contender, place: Place, port: int, *, bare: bool) -> None:
    import uvicorn

    site = contender.build(place)
    app = site.bare if bare else site.app
    if contender.frozen:
        gc.collect()
        gc.freeze()
    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", lifespan="off",
        access_log=False, log_level="error",
    )  # fmt: skip


def main() -> None:
    statements.watch()
    contender, place = named(sys.argv[1]), Place(Path(sys.argv[2]).resolve(), sys.argv[1])
    if len(sys.argv) > 3:
        serve(contender, place, int(sys.argv[3]), bare="bare" in sys.argv)
        return
    if not contender.is_asgi:
        _without_a_loop(take_orders(contender, place, _read_here()))
        return
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(take_orders(contender, place, _read_in_a_thread()))


if __name__ == "__main__":
    main()
