"""What requests must look like while the store fails."""

from __future__ import annotations

import time
from typing import Final

import anyio

from tests.apps import Answer
from tests.interleaving import Act, Client, untouched

TIMEOUT: Final = 0.6
"""The ``store_timeout`` of these tests, seconds."""

GRACE: Final = 0.5
"""How much later than after ``store_timeout`` an answer may come."""

RECOVERY: Final = 5.0
"""How long after the end of a fault requests may still fail."""


async def timed(client: Client, act: Act = dict) -> tuple[Answer, float]:
    """One request and the seconds that it took."""
    began = time.monotonic()
    answer = await client.visit(act)
    return answer, time.monotonic() - began


async def refused(client: Client, act: Act = dict) -> None:
    """This request gets a 503 in time, with a Retry-After and no cookie."""
    answer, seconds = await timed(client, act)
    assert answer.status == 503
    assert int(answer.all("retry-after")[0]) >= 1
    assert answer.all("cache-control") == ["no-store"]
    assert answer.set_cookies == []
    assert seconds <= TIMEOUT + GRACE


async def unharmed(client: Client) -> None:
    """This request, which doesn't need its session, is served in spite of the failing store."""
    answer, seconds = await timed(client, untouched)
    assert (answer.status, answer.set_cookies) == (200, [])
    assert seconds <= TIMEOUT + GRACE


async def recovered(client: Client, act: Act = dict) -> Answer:
    """This request works again soon, without a restart."""
    with anyio.fail_after(RECOVERY):
        while (answer := await client.visit(act)).status == 503:
            await anyio.sleep(0.02)
    assert answer.status == 200
    return answer
