"""The stage on which a race is played: one store, two workers, and one browser's session."""

from __future__ import annotations

from typing import Any

from sessionware import MemoryStore, SessionEvent, SessionManager
from tests.apps import COOKIE, Managers
from tests.byhand import Visitor
from tests.interleaving import Act, Client, Scripted


class Scene:
    """Worker ``here`` works through the script, worker ``there`` straight on the rows.

    Both are made when they are first asked for, so that a test can choose settings before.
    """

    def __init__(self, managers: Managers, memory: MemoryStore, wrapper: type[Scripted]) -> None:
        self.memory = memory
        self.store = wrapper(memory)
        self.events: list[SessionEvent] = []
        self.settings: dict[str, Any] = {"coherence": "validate"}
        self._managers = managers
        self._here: SessionManager | None = None
        self._there: SessionManager | None = None

    @property
    def here(self) -> SessionManager:
        if self._here is None:
            self._here = self._managers(
                store=self.store, on_event=self.events.append, **self.settings
            )
        return self._here

    @property
    def there(self) -> SessionManager:
        if self._there is None:
            self._there = self._managers(store=self.memory, **self.settings)
        return self._there

    async def session(self, act: Act) -> Client:
        """A browser with a session of this content."""
        client = Client(self.here)
        assert (await client.visit(act)).status == 200
        assert client.token is not None
        return client

    def elsewhere(self, client: Client) -> Visitor:
        """The same browser at the other worker, which never waits."""
        return Visitor(self.there, f"{COOKIE}={client.token}")

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def rows(self) -> int:
        return self.memory.count(0)

    def content(self, row_id: int) -> dict[str, Any]:
        """What is stored in a row, past every cache."""
        row = self.memory.reload(row_id)
        assert row is not None
        store = self.here.store
        record = store.records.read(row.data, sid_hash=row.sid_hash)
        return store.codec.decode(record.payload, record.rich)
