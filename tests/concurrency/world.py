"""A world small enough to try every order of events: two workers, a store, a browser, no thread.

Each call to the store is a step, and between any two steps anybody else may take theirs. What every
step did to the rows is held against the rules of docs/architecture.md.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sessionware import MemoryStore, Session, SessionEvent, SessionManager
from sessionware.errors import SessionGone
from sessionware.flows import Call, Flow
from sessionware.records import NO_OWNER
from sessionware.rows import owner_of
from sessionware.states import state_of
from sessionware.stores.protocol import Row
from tests.apps import SECRET

T = TypeVar("T")
Op = tuple[str, str]

USER = "user_id"
ENDING = {"clear", "del", "take", "logout", "invalidate"}


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the others take a step."""
    yield


class SteppedRunner:
    """Runs flows a store call at a time, with a turn before it and one before its answer."""

    def __init__(self, store: object) -> None:
        self._store = store

    async def arun(self, flow: Flow[T], /) -> T:
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                wanted = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            answer = error = None
            await turn()
            if isinstance(wanted, Call):
                try:
                    answer = wanted.to(self._store)
                except Exception as raised:
                    error = raised
                await turn()

    async def arun_shared(
        self, key: object, flow: Callable[[], Flow[T]], cached: Callable[[], T | None], /
    ) -> T:
        return await self.arun(flow())

    def close(self) -> None:
        """Nothing to end."""


@dataclass(eq=False, repr=False)
class Visit:
    """One request: what it shall do, and what became of it."""

    number: int
    worker: int
    ops: list[Op]
    steps: Coroutine[Any, Any, None] | None = None
    loaded: tuple[int, int] | None = None
    user: str | None = None
    tokens: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    meant: dict[str, str | None] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    saved_as: dict[str, str | None] = field(default_factory=dict)
    written: dict[bytes, int] = field(default_factory=dict)
    removed: bool = False
    committed: set[str] = field(default_factory=set)
    dropped: bool = False
    done: bool = False

    def hold(self, row: Row | None) -> None:
        """Note which state of which row this request builds on."""
        self.loaded = None if row is None else (row.id, row.epoch)

    def does(self, *names: str) -> bool:
        return any(name in names for name, _ in self.ops)


class World:
    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.store = MemoryStore()
        self.rows: dict[int, Row] = {}
        self.cookie: str | None = None
        self.crashes = 0
        self.taken: Counter[str] = Counter()
        self.acknowledged: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
        self.written_by: dict[str, Visit] = {}
        self.now: Visit | None = None
        self._highest = 0
        self.workers = [self._worker(), self._worker()]

    def _worker(self) -> SessionManager:
        manager = SessionManager(
            secret_key=SECRET,
            store=self.store,
            purge_interval=None,
            on_event=self._event,
            **self.settings,
        )
        manager.store.runner = SteppedRunner(self.store)  # type: ignore[assignment]
        return manager

    def _event(self, event: SessionEvent) -> None:
        if event.kind == "stale_save_dropped" and self.now is not None:
            self.now.dropped = True

    # What happens.

    def crash(self, worker: int, visits: list[Visit]) -> None:
        """The worker's process dies: its cache is gone, and what it was doing stops where it is."""
        self.crashes += 1
        self.workers[worker] = self._worker()
        for visit in visits:
            if visit.worker == worker and visit.steps is not None:
                visit.done = True

    def step(self, visit: Visit) -> None:
        """Let a request go on to its next turn, and look at what that did to the rows."""
        if visit.steps is None:
            visit.steps = self._request(visit)
        self.now = visit
        try:
            visit.steps.send(None)
        except StopIteration:
            visit.done = True
        self._look(visit)
        self.now = None

    async def _request(self, visit: Visit) -> None:
        manager = self.workers[visit.worker]
        at_start = dict(self.rows)
        floor = dict(self.acknowledged[visit.worker])
        session = await manager.aopen(self.cookie)
        state = state_of(session)
        visit.hold(state.row)
        if state.row is not None:
            least = floor.get(state.row.sid_hash, 0)
            assert state.row.version >= least, "older data than this worker had acknowledged"
            if self.settings["coherence"] == "validate":
                self._check_read(state.row, at_start)
        for name, key in visit.ops:
            await self._do(visit, session, name, key)
        visit.user = dict.get(session, USER)
        headers = dict(await manager.aclose(session, failed=visit.does("fail")))
        self._keep(visit, headers.get("Set-Cookie"))
        self.acknowledged[visit.worker].update(visit.written)
        self._check_acknowledged(visit, session, savable=state.savable)

    def _keep(self, visit: Visit, set_cookie: str | None) -> None:
        if set_cookie is None:
            return
        self.cookie = set_cookie.partition(";")[0]
        if "expires=" in set_cookie:
            assert visit.removed, "a cookie was erased by who ended nothing"
            self.cookie = None

    async def _do(self, visit: Visit, session: Session, name: str, key: str) -> None:
        match name:
            case "set":
                token = f"{visit.number}.{len(visit.tokens)}"
                visit.tokens.add(token)
                self.written_by[token] = visit
                session[key] = visit.meant[key] = token
                visit.touched.add(key)
            case "del":
                visit.touched.add(key)
                if session.pop(key, None) is not None:
                    visit.meant[key] = None
            case "take":
                visit.touched.add("otp")
                value = await session.atake("otp", None)
                if value is not None:
                    self.taken[value] += 1
            case "login":
                header = state_of(session).header
                if header is not None and header.owner not in (NO_OWNER, owner_of(key)):
                    # What this request has saved already is the former user's.
                    for saved in visit.saved:
                        visit.meant.pop(saved, None)
                session[USER] = key
            case "logout":
                session.pop(USER, None)
            case "save":
                visit.user = dict.get(session, USER)
                try:
                    await session.asave()
                except SessionGone:
                    visit.dropped = True
                visit.hold(state_of(session).row)
                visit.saved.update(visit.meant)
                for token in visit.tokens:
                    visit.saved_as.setdefault(token, visit.user)
            case "clear" | "rotate" | "invalidate":
                if name != "rotate":
                    visit.meant.clear()
                getattr(session, name)()

    # What must hold.

    def _check_read(self, row: Row, at_start: dict[int, Row]) -> None:
        assert row.id in at_start, "a session that had ended was loaded"
        assert row.sid_hash == at_start[row.id].sid_hash, "an ID that was rotated away was accepted"
        assert row.version >= at_start[row.id].version, "older data than before the request"

    def _check_acknowledged(self, visit: Visit, session: Session, *, savable: bool) -> None:
        if visit.does("fail") or visit.dropped or not savable:
            return
        left = visit.tokens & {value for value in dict.values(session) if isinstance(value, str)}
        assert left <= visit.committed, "an acknowledged change was never stored"

    def content(self, row: Row) -> dict[str, str]:
        store = self.workers[0].store
        record = store.records.read(row.data, sid_hash=row.sid_hash)
        return store.codec.decode(record.payload, record.rich)

    def _look(self, visit: Visit) -> None:
        before, self.rows = self.rows, self._snapshot()
        for row_id, row in self.rows.items():
            old = before.get(row_id)
            if old == row:
                continue
            self._check_owner(row)
            if old is None:
                assert row_id > self._highest, "a row came back"
                self._highest = row_id
                self._check_new(visit, row)
            else:
                self._check_changed(visit, old, row)
            visit.committed |= visit.tokens & set(self.content(row).values())
            visit.written[row.sid_hash] = row.version
        for row_id in before.keys() - self.rows.keys():
            visit.removed = True
            visit.written[before[row_id].sid_hash] = 1 << 60
            self._check_removed(visit, before[row_id])

    def _snapshot(self) -> dict[int, Row]:
        found = (self.store.reload(row_id) for row_id in range(1, self._highest + 3))
        return {row.id: row for row in found if row is not None}

    def _check_owner(self, row: Row) -> None:
        """What was written as one user never gets into the session of another."""
        for key, token in self.content(row).items():
            by = None if key == USER else self.written_by[token]
            writer = None if by is None else by.saved_as.get(token, by.user)
            assert writer is None or row.user_id in (writer, None), "users were mixed"

    def _check_new(self, visit: Visit, row: Row) -> None:
        tokens = {token for key, token in self.content(row).items() if key != USER}
        assert tokens <= visit.tokens, "a new session holds what others wrote"

    def _check_changed(self, visit: Visit, old: Row, row: Row) -> None:
        assert row.expires_at >= old.expires_at, "a lifetime was cut short"
        theirs, now = self.content(old), self.content(row)
        if theirs != now and not visit.does("take"):
            stored = {key: now.get(key) for key in visit.meant}
            assert stored == visit.meant, "not stored as it was meant"
        if row.epoch == old.epoch:
            assert row.sid_hash == old.sid_hash
            assert (row.version > old.version) or theirs == now
            different = {key for key in theirs | now if theirs.get(key) != now.get(key)}
            assert different <= visit.touched, "keys were lost or came back"
            if different:
                assert visit.loaded == (old.id, old.epoch), "it was loaded before a barrier"
            return
        assert visit.loaded == (old.id, old.epoch), "two barriers in a row, one overtaken"
        strange = {token for key, token in now.items() if key != USER} - visit.tokens
        assert strange <= set(theirs.values()), "what was gone came back"
        assert not (strange and visit.does("clear") and not visit.does("save"))

    def _check_removed(self, visit: Visit, row: Row) -> None:
        assert visit.does(*ENDING), "a session ended that nobody ended"
        # A logout that leaves nothing ends the session, with what others have added for the user.
        logged_out = visit.does("logout") and row.user_id is not None
        if not (visit.does("clear", "invalidate") or logged_out):
            left = self.content(row).keys() - visit.touched - {USER}
            assert not left, "what a parallel request added was deleted"

    def check_end(self, visits: list[Visit], *, overtaken: bool) -> None:
        assert all(count == 1 for count in self.taken.values()), "a one-time value was taken twice"
        if overtaken or self.crashes or any(visit.does(*ENDING) for visit in visits):
            return
        if self.cookie is not None and self.rows:
            assert self._alive(self.cookie), "the browser's cookie names no session"

    def _alive(self, cookie: str) -> bool:
        opening = self.workers[0].aopen(cookie)
        try:
            while True:
                opening.send(None)
        except StopIteration as stop:
            return not stop.value.is_new
