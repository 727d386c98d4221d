"""Workers in this process: managers with a cache each, reached without HTTP."""

from __future__ import annotations

from functools import partial

from starlette.types import ASGIApp

from sessionware import SessionManager
from tests.apps import Browser
from tests.history.app import make_app
from tests.history.wire import Answer


class LocalLine:
    """A client's way to one worker; see ``wire.Connection``."""

    def __init__(self, app: ASGIApp) -> None:
        self._browser = Browser(app)

    async def get(self, path: str, token: str | None = None) -> Answer:
        cookie = None if token is None else f"session={token}"
        answer = await self._browser.get(path, cookie=cookie, may_fail=True)
        if not answer.set_cookies:
            return Answer(answer.status, answer.body, None)
        expired = "expires=Thu, 01 Jan 1970" in answer.set_cookie
        return Answer(answer.status, answer.body, "" if expired else answer.token)

    def close(self) -> None:
        """Nothing is open."""


def lines_to(*managers: SessionManager) -> list[partial[LocalLine]]:
    """What makes a way to each of the managers' apps."""
    return [partial(LocalLine, make_app(manager)) for manager in managers]
