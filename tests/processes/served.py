"""The app that the workers serve, set up by the environment as a deployed one would be."""

from __future__ import annotations

import logging
import os
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sessionware import SessionManager
from tests.apps import SECRET, app_of

DEAF = 0.004


class Signed:
    """Every response says which worker gave it.

    Before it a worker is deaf for a moment, or the quickest would take all connections.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                time.sleep(DEAF)
                worker = (b"x-worker", str(os.getpid()).encode())
                message["headers"] = [*message["headers"], worker]
            await send(message)

        await self._app(scope, receive, signed)


if os.environ.get("SERVED_LOG") == "debug":
    logging.basicConfig(level=logging.DEBUG)
    for name in ("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.DEBUG)

app = Signed(
    app_of(
        SessionManager(
            secret_key=SECRET,
            store=os.environ["SERVED_STORE"],
            table_name=os.environ["SERVED_TABLE"],
            store_timeout=10,
        )
    )
)
