"""Many clients that do random things to shared sessions, each request at a random worker."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Protocol

from tests.history.records import Operation, Outcome
from tests.history.wire import Answer, NoAnswer, NotSent

CLIENTS = 24
SESSIONS = 64
HOT = 6
"""So many sessions get half of the requests: their writers meet."""
USERS = 12
KEYS = ("k0", "k1", "k2")
WEIGHTS = {
    "read": 34.0,
    "set": 26.0,
    "nest": 6.0,
    "del": 5.0,
    "incr": 6.0,
    "take": 5.0,
    "boom": 3.0,
    "login": 2.5,
    "rotate": 2.5,
    "reset": 1.5,
    "logout": 0.5,
    "clear": 0.3,
    "revoke": 0.1,
}
_FOLLOWED = 0.3
"""How many changes somebody looks at from all workers as soon as they are acknowledged."""
_ENDED = frozenset({"logout", "clear", "login", "rotate", "reset", "revoke"})


class Line(Protocol):
    """A client's way to one worker; see ``wire.Connection``."""

    async def get(self, path: str, token: str | None = None) -> Answer: ...
    def close(self) -> None: ...


@dataclass
class Shared:
    """A session that several clients use. ``steady`` ones are never emptied, so they can count."""

    name: str
    steady: bool
    user: str
    tokens: list[str] = field(default_factory=list)
    over: bool = False

    def token(self, chance: random.Random) -> int:
        """The newest ID mostly, sometimes one that was replaced."""
        last = len(self.tokens) - 1
        return chance.randint(0, last) if chance.random() < 0.06 else last


class Driver:
    """Clients and the history that they make. ``lines`` makes a way to each worker."""

    def __init__(
        self, lines: Sequence[Callable[[], Line]], seed: int, *, clients: int = CLIENTS
    ) -> None:
        self.history: list[Operation] = []
        self.now = time.perf_counter
        self._lines = lines
        self._chance = random.Random(seed)
        self._clients = clients
        self._live: list[Shared] = []
        self._over: deque[Shared] = deque(maxlen=SESSIONS)
        self._texts: dict[str, str] = {}
        self._names = 0
        self._waiting = [0] * len(lines)

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers had each status; 0 where there was none."""
        counted: dict[int, int] = {}
        for each in self.history:
            counted[each.status] = counted.get(each.status, 0) + 1
        return counted

    async def run(self, seconds: float, most: int = 10**9) -> None:
        """Random requests for so long, or until the history is that long."""
        deadline = self.now() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client(deadline, most))

    async def settle(self, wait: float = 0.0) -> None:
        """After a while (so that nothing is late any more), look at every session everywhere."""
        await asyncio.sleep(wait)
        connections = [line() for line in self._lines]

        async def look(worker: int) -> None:
            for shared in [*self._live, *self._over]:
                for token in range(max(0, len(shared.tokens) - 3), len(shared.tokens)):
                    await self._do(connections, "read", shared, worker, token, final=True)

        async with asyncio.TaskGroup() as group:
            for worker in range(len(connections)):
                group.create_task(look(worker))
        for connection in connections:
            connection.close()

    async def _client(self, deadline: float, most: int) -> None:
        connections = [line() for line in self._lines]
        chance = random.Random(self._chance.random())
        try:
            while self.now() < deadline and len(self.history) < most:
                await self._act(connections, chance)
        finally:
            for connection in connections:
                connection.close()

    async def _act(self, connections: list[Line], chance: random.Random) -> None:
        worker = self._responsive(chance)
        self._live = [each for each in self._live if not each.over]
        if len(self._live) < SESSIONS:
            await self._create(connections, chance, worker)
            return
        if self._over and chance.random() < 0.03:
            shared = chance.choice(self._over)
            await self._do(connections, "read", shared, worker, shared.token(chance))
            return
        hot = chance.random() < 0.5
        shared = chance.choice(self._live[:HOT] if hot else self._live)
        (kind,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        done = await self._do(connections, kind, shared, worker, shared.token(chance), chance)
        if kind != "read" and done.outcome is Outcome.OK and chance.random() < _FOLLOWED:
            for _ in connections:
                other = self._responsive(chance)
                token = done.token if kind in _ENDED and done.token >= 0 else shared.token(chance)
                await self._do(connections, "read", shared, other, token)

    def _responsive(self, chance: random.Random) -> int:
        """Any worker, but one that half of the clients wait for: somebody must see the others."""
        workers = [
            worker
            for worker, waiting in enumerate(self._waiting)
            if waiting < max(1, self._clients // 2)
        ]
        return chance.choice(workers or range(len(self._waiting)))

    async def _create(self, connections: list[Line], chance: random.Random, worker: int) -> None:
        self._names += 1
        user = f"u{chance.randrange(USERS)}"
        shared = Shared(f"s{self._names}", chance.random() < 0.4, user)
        await self._do(connections, "create", shared, worker, -1)
        if shared.tokens:
            self._live.append(shared)

    async def _do(
        self,
        connections: list[Line],
        kind: str,
        shared: Shared,
        worker: int,
        token: int,
        chance: random.Random | None = None,
        *,
        final: bool = False,
    ) -> Operation:
        done = Operation(len(self.history), kind, shared.name, 0.0, token, worker, final=final)
        self.history.append(done)
        path = self._path(done, shared, chance)
        value = shared.tokens[token] if token >= 0 and done.kind != "revoke" else None
        connection = connections[worker]
        self._waiting[worker] += 1
        done.sent = self.now()
        try:
            answer = await connection.get(path, value)
        except NotSent:
            done.outcome = Outcome.MISSING
            await asyncio.sleep(0.02)
        except NoAnswer:
            pass
        else:
            done.answered = self.now()
            self._note(done, shared, answer, value)
        finally:
            self._waiting[worker] -= 1
        return done

    def _path(self, done: Operation, shared: Shared, chance: random.Random | None) -> str:
        if chance is not None and shared.steady and done.kind == "reset":
            done.kind = "rotate"
        elif chance is not None and not shared.steady and done.kind == "incr":
            done.kind = "set"
        query = f"s={shared.name}&i={done.number}"
        match done.kind:
            case "set" | "del" | "reset" if chance is not None:
                done.key = chance.choice(KEYS if done.kind != "set" else (*KEYS, "t"))
            case "take":
                done.key = "t"
            case "nest" | "boom" | "create":
                done.key = "nest"
            case "login" | "revoke" if chance is not None:
                other = f"u{chance.randrange(USERS)}"
                moves = done.kind == "revoke" or (not shared.steady and chance.random() < 0.4)
                done.user = other if moves else shared.user
        if done.kind == "revoke":
            done.token = -1
        if chance is not None and done.kind not in ("read", "boom", "revoke", "take", "incr"):
            done.explicit = chance.random() < 0.5
        elif done.kind in ("take", "incr", "revoke"):
            done.explicit = True
        query += f"&k={done.key}" if done.key else ""
        query += f"&u={done.user}" if done.user else ""
        return f"/{done.kind}?{query}{'&x=' if done.explicit else ''}"

    def _note(self, done: Operation, shared: Shared, answer: Answer, sent: str | None) -> None:
        done.status = answer.status
        if answer.status not in (200, 409, 500) or not answer.body.startswith(b"{"):
            return
        told = answer.json()
        done.result = told.get("result")
        if "seen" in told:
            done.seen = self._interned(told["seen"])
        if "gone" in told or done.kind == "boom":
            done.outcome = Outcome.FAILED if done.seen else Outcome.MISSING
        elif done.seen == {} and done.kind != "create":
            done.outcome = Outcome.MISSING
        else:
            done.outcome = Outcome.OK
        self._note_cookie(done, shared, answer.cookie, sent)
        ended = done.outcome is Outcome.OK and done.kind == "logout"
        newest = done.token == len(shared.tokens) - 1
        lost = done.outcome is Outcome.MISSING and newest and done.kind != "create"
        if (ended or done.expired_cookie or lost) and not shared.over:
            shared.over = True
            self._over.append(shared)

    def _note_cookie(
        self, done: Operation, shared: Shared, cookie: str | None, sent: str | None
    ) -> None:
        if cookie is None or cookie == sent:
            return
        if cookie == "":
            done.expired_cookie = True
            done.strange_cookie = done.kind not in ("logout", "clear")
        elif done.kind in ("create", "login", "rotate") and done.outcome is Outcome.OK:
            shared.tokens.append(cookie)
            done.new_token = len(shared.tokens) - 1
        else:
            done.strange_cookie = True

    def _interned(self, seen: dict[str, Any]) -> dict[str, str | int]:
        """Most values are read many times: keep one text of each."""
        keep = self._texts.setdefault
        return {
            intern(key): keep(text, text) if isinstance(text, str) else text
            for key, text in seen.items()
        }
