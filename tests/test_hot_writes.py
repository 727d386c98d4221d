"""What a request that writes costs in Python: calls counted, as in ``test_hot_path``.

With all that its flow does around its one statement, in the thread that counts, because the store
is a dict in memory. Its few calls count too, and the application's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from sessionware import SessionMiddleware
from sessionware.stores.memory import MemoryStore
from tests import test_hot_path
from tests.apps import Browser, Managers
from tests.test_hot_path import calls_of, check, run, scope_of

pytestmark = pytest.mark.anyio
anyio_backend, blockbuster = test_hot_path.anyio_backend, test_hot_path.blockbuster
managers = test_hot_path.managers

CALLS = {
    "write": 96,
    "nested": 113,
    "login": 117,
    "rotation": 174,
}


class Writing:
    """An application that never stores the same twice."""

    def __init__(self) -> None:
        self._n = 1_000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session: Any = scope["session"]
        self._n += 1
        match scope["path"]:
            case "/write":
                session["n"] = self._n
            case "/nested":
                session["cart"][0]["n"] = self._n
            case "/login" | "/rotation":
                session.update({"user_id": f"user {self._n}", "cart": [{"n": 1}]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


async def test_no_request_that_writes_makes_many_more_calls_than_it_did(
    managers: Managers,
) -> None:
    app = SessionMiddleware(Writing(), manager=managers(store=MemoryStore(), coherence="bounded"))

    async def fewest(kind: str) -> int:
        counted = []
        # The first one fills what is computed once.
        for _ in range(3):
            browser = Browser(app)
            if kind != "login":
                await browser.get("/login")
                # A row is read for the first time after it was written.
                await browser.get("/read")
            scope = scope_of(f"/{kind}", browser.token)
            counted.append(calls_of(partial(run, app, scope)))
        return min(counted)

    check({kind: await fewest(kind) for kind in CALLS}, CALLS)
