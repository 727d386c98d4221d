"""Fixtures for races: managers are workers; two of them on one store are two workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sessionware import MemoryStore
from tests.apps import Managers
from tests.concurrency.scene import Scene
from tests.interleaving import AsyncScripted, Scripted


@pytest.fixture
async def managers(anyio_backend: Any) -> AsyncIterator[Managers]:
    made = Managers()
    yield made
    await made.aclose()


@pytest.fixture(params=[Scripted, AsyncScripted], ids=["threads", "loop"])
def scene(request: pytest.FixtureRequest, managers: Managers) -> Scene:
    """Worker ``here`` on a scripted store, worker ``there`` on the memory beneath it."""
    return Scene(managers, MemoryStore(), request.param)
