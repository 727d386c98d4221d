"""No raw ID, cookie, secret or session data in files, logs, exceptions, reprs (R04, R58, R59)."""

from __future__ import annotations

import math
import re
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from sqlalchemy import Engine, NullPool, create_engine, event, make_url
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from sessionware import (
    ResponseAlreadyStarted,
    SessionError,
    SessionEvent,
    SessionGone,
    SessionManager,
    manager_of,
    session_of,
)
from sessionware.tokens import Tokens
from tests import services
from tests.apps import COOKIE, SECRET, Answer, Browser, Managers, app_of
from tests.security.conftest import Clock, Database
from tests.security.leaks import Leaks, watching

pytestmark = pytest.mark.anyio

MARKER = "PAYLOAD-MARKER-7f3a91c4"
SEALED_WITH = "5ea1" * 16
STORES = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("sqlite+aiosqlite", id="aiosqlite"),
    pytest.param("postgresql+psycopg", id="psycopg", marks=pytest.mark.postgres),
    pytest.param("postgresql+asyncpg", id="asyncpg", marks=pytest.mark.postgres),
    pytest.param("mysql+pymysql", id="pymysql", marks=pytest.mark.mysql),
    pytest.param("mysql+asyncmy", id="asyncmy", marks=pytest.mark.mysql),
]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """In debug mode asyncio logs the callbacks that were slow."""
    return "asyncio", {"debug": True}


@pytest.fixture
def leaks(blockbuster: BlockBuster) -> Iterator[Leaks]:
    # What follows blocks a lot: asyncio's debug mode reads source files.
    blockbuster.deactivate()
    with watching() as found:
        found.secret("the secret", SECRET)
        found.secret("the encryption key", SEALED_WITH)
        found.secret("the encryption key", bytes.fromhex(SEALED_WITH))
        found.secret("the payload", MARKER)
        yield found


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    driver: str = request.param
    match driver.partition("+")[0]:
        case "postgresql":
            return services.with_driver(request.getfixturevalue("postgres_url"), driver)
        case "mysql":
            return services.with_driver(request.getfixturevalue("mysql_url"), driver)
    return f"{driver}:///{tmp_path / 'sessions.db'}"


class Watched(Browser):
    """A browser whose every token is a secret from when it gets it."""

    def __init__(self, manager: SessionManager, leaks: Leaks, *more: Route) -> None:
        super().__init__(app_of(manager, *more))
        self._leaks = leaks

    async def get(self, path: str, **options: Any) -> Answer:
        answer = await super().get(path, **options)
        if self.token is not None:
            self._leaks.token(self.token)
        return answer


@pytest.mark.parametrize("store_url", STORES, indirect=True)
async def test_a_whole_life_leaves_no_secret_in_logs_reprs_or_events(
    make_manager: Managers, store_url: str, table_name: str, leaks: Leaks
) -> None:
    events: list[SessionEvent] = []

    def on_event(event: SessionEvent) -> None:
        events.append(event)
        # The moment when the library holds most.
        leaks.things_alive("sessionware")

    async def show(request: Request) -> Response:
        session = session_of(request)
        session["once"] = MARKER
        await session.asave()
        leaks.things_alive("sessionware")
        for listed in await manager_of(request).alist_sessions("alice", current=session):
            leaks.thing(listed)
        assert await session.atake("once") == MARKER
        return PlainTextResponse("shown")

    manager = make_manager(
        store=store_url, table_name=table_name, on_event=on_event, record_client=True
    )
    browser = Watched(manager, leaks, Route("/show", show))
    leaks.thing(manager)
    leaks.thing(manager.settings)
    leaks.thing(manager.store)
    await browser.get(f"/write?k={MARKER}")
    await browser.get("/write?cart=x")
    for path in ("/read", "/show", "/login?user=alice", "/show", "/rotate", "/read"):
        assert (await browser.get(path)).status == 200
    stale = browser.token
    await browser.get("/rotate")
    for cookie in (f"{COOKIE}={stale}", f"{COOKIE}=x{browser.token}", f"{COOKIE}={'A' * 87}"):
        await browser.get("/read", cookie=cookie)
    both = f"{COOKIE}={stale}; {COOKIE}={browser.token}"
    await browser.get("/read", cookie=both)
    await browser.get("/logout")
    by_hand = await manager.aopen(None)
    by_hand["k"] = MARKER
    closing = await manager.afinish(by_hand)
    set_cookie = manager.set_cookie(closing)
    assert set_cookie is not None
    leaks.token(set_cookie.partition(";")[0].partition("=")[2])
    for shown in (by_hand, closing, manager.stats(), *events):
        leaks.thing(shown)
    kinds = {each.kind for each in events}
    assert kinds >= {"created", "rotated", "ended", "retired_id_used", "bad_signature", "duplicate"}
    assert leaks.seen_in("repr of sessionware.session.Session")
    assert leaks.seen_in("log sqlalchemy.engine")
    leaks.check()


BREAKAGES = {
    "the table is gone": ["DROP TABLE {table}"],
    "the row is gone": ["DELETE FROM {table}"],
    "the row is corrupt": ["UPDATE {table} SET data = substr(data, 1, 60)"],
    "writes break a constraint": ["{constraint}"],
}
CONSTRAINTS = {
    "sqlite": "CREATE TRIGGER refuse BEFORE UPDATE ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'refused'); END",
    # Its message shows the whole row that breaks it.
    "postgresql": "ALTER TABLE {table} ADD CONSTRAINT refuse CHECK (version < 2) NOT VALID",
    "mysql": "ALTER TABLE {table} ADD CONSTRAINT refuse CHECK (version < 2)",
}


def break_it(store_url: str, table: str, breakage: str) -> None:
    sync = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    backend = make_url(store_url).get_backend_name()
    engine = create_engine(services.with_driver(store_url, sync[backend]), poolclass=NullPool)
    with engine.begin() as connection:
        for statement in BREAKAGES[breakage]:
            constraint = CONSTRAINTS[backend].format(table=table)
            connection.exec_driver_sql(statement.format(table=table, constraint=constraint))


class Unstorable:
    """What a serializer that shows what it can't store would show."""

    def __repr__(self) -> str:
        return MARKER


UNSTORABLE: dict[str, Callable[[], object]] = {
    "an object": Unstorable,
    "not a number": lambda: [MARKER, math.nan],
    "a set of lists' neighbour": lambda: (MARKER, Unstorable()),
    "a surrogate": lambda: MARKER + "\ud800",
    "too deep": lambda: nested(MARKER, 1000),
    "too large": lambda: MARKER * 10_000,
    "a huge number": lambda: [MARKER, 10**5000],
    "a key that is an object": lambda: {Unstorable(): 1},
}


def nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def saving(leaks: Leaks, content: Callable[[], object]) -> Route:
    """A handler that changes the session, saves it by hand and catches what comes of it."""

    async def save(request: Request) -> Response:
        try:
            session = session_of(request)
            session["saved"] = content()
            await session.asave()
        except Exception as error:
            leaks.exception(error)
            raise
        return PlainTextResponse("saved")

    return Route("/save", save)


@pytest.mark.parametrize("breakage", BREAKAGES)
@pytest.mark.parametrize("store_url", STORES, indirect=True)
async def test_a_failing_database_puts_no_secret_into_logs_exceptions_or_answers(
    make_manager: Managers, store_url: str, table_name: str, leaks: Leaks, breakage: str
) -> None:
    manager = make_manager(store=store_url, table_name=table_name)
    browser = Watched(manager, leaks, saving(leaks, lambda: MARKER))
    await browser.get(f"/write?k={MARKER}")
    break_it(store_url, table_name, breakage)
    for path in (f"/write?l={MARKER}", "/save", "/rotate", "/logout", "/boom"):
        try:
            answer = await browser.get(path, cookie=f"{COOKIE}={browser.token}")
        except Exception as error:
            leaks.exception(error)
            continue
        if answer.status >= 500:
            leaks.text(f"body of {path}", answer.body)
            leaks.text(f"headers of {path}", repr(answer.headers))
    with suppress(Exception):
        leaks.thing(await manager.alist_sessions("alice"))
    leaks.thing(manager.stats())
    assert leaks.seen_in("log ")
    leaks.check()


@pytest.mark.parametrize("content", UNSTORABLE.values(), ids=UNSTORABLE)
async def test_a_refused_value_does_not_show_in_what_refuses_it(
    manager: SessionManager, leaks: Leaks, content: Callable[[], object]
) -> None:
    browser = Watched(manager, leaks, saving(leaks, content))
    with pytest.raises(SessionError) as refused:
        await browser.get("/save")
    leaks.exception(refused.value)
    assert leaks.seen_in(f"exception {type(refused.value).__name__}")
    leaks.check()


@pytest.mark.parametrize("content", UNSTORABLE.values(), ids=UNSTORABLE)
async def test_tools_that_show_the_variables_of_our_frames_show_no_session_data(
    manager: SessionManager, leaks: Leaks, content: Callable[[], object]
) -> None:
    session = await manager.aopen(None)
    session["other"], session["refused"] = MARKER, content()
    with pytest.raises(SessionError) as refused:
        await manager.afinish(session)
    leaks.variables(refused.value, "/sessionware/")
    assert leaks.seen_in("variables of encode")
    leaks.check()


async def test_a_locked_database_puts_no_secret_into_logs_exceptions_or_answers(
    make_manager: Managers, tmp_path: Path, leaks: Leaks
) -> None:
    manager = make_manager(store=f"sqlite:///{tmp_path / 's.db'}", store_timeout=0.1)
    browser = Watched(manager, leaks, saving(leaks, lambda: MARKER))
    await browser.get(f"/write?k={MARKER}")
    with closing(sqlite3.connect(tmp_path / "s.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        for path in ("/save", f"/write?l={MARKER}", "/rotate", "/logout"):
            answer = await browser.get(path)
            assert answer.status == 503
            leaks.text("body", answer.body)
    assert leaks.seen_in("exception StoreUnavailable") or leaks.seen_in("exception Contention")
    leaks.check()


async def test_a_late_change_and_a_lost_save_tell_no_secret(
    manager: SessionManager, leaks: Leaks
) -> None:
    async def late(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            session_of(request)["late"] = MARKER

        session_of(request)["early"] = MARKER
        return StreamingResponse(body())

    async def lost(request: Request) -> Response:
        session = session_of(request)
        await Browser(request.app, browser.token).get("/logout")
        session["more"] = MARKER
        await session.asave()
        raise AssertionError("it was saved")

    browser = Watched(manager, leaks, Route("/late", late), Route("/lost", lost))
    await browser.get("/write?k=v")
    with pytest.raises(ResponseAlreadyStarted) as too_late:
        await browser.get("/late")
    with pytest.raises(SessionGone) as gone:
        await browser.get("/lost")
    leaks.exception(too_late.value)
    leaks.exception(gone.value)
    leaks.check()


def with_journal(tmp_path: Path) -> Engine:
    """A database whose rollback journal is not deleted after a commit, as a thief would like it."""
    engine = create_engine(f"sqlite:///{tmp_path / 'sessions.db'}")

    @event.listens_for(engine, "connect")
    def keep_journal(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=PERSIST")

    return engine


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("journal", ["wal", "persist"])
async def test_no_id_cookie_or_secret_is_in_the_database_files_and_no_payload_if_encrypted(
    make_manager: Managers, tmp_path: Path, leaks: Leaks, journal: str, sealed: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    store: Any = url if journal == "wal" else with_journal(tmp_path)
    manager = make_manager(store=store, encryption_key=SEALED_WITH if sealed else None)
    browser = Watched(manager, leaks)
    for path in (f"/write?k={MARKER}", "/login?user=alice", "/rotate", f"/write?k={MARKER}2"):
        await browser.get(path)
    ended = Watched(manager, leaks)
    await ended.get(f"/write?k={MARKER}")
    await ended.get("/logout")
    names = leaks.files(tmp_path)
    side_file = {"wal": "sessions.db-wal", "persist": "sessions.db-journal"}[journal]
    assert (tmp_path / side_file).stat().st_size > 0
    assert {"sessions.db", side_file} <= set(names)
    if journal == "persist":
        store.dispose()
    readable = {found for found in leaks.found() if found.startswith("the payload in file")}
    assert leaks.found() - readable == set()
    assert bool(readable) is not sealed, "a plain payload is there, or the search finds nothing"


async def test_nothing_that_a_stolen_table_holds_opens_a_session(
    make_manager: Managers, database: Database
) -> None:
    browser = Browser(app_of(make_manager(store=database.engine, record_client=True)))
    await browser.get("/write?k=v")
    await browser.get("/login?user=alice")
    columns = [value for row in database.rows() for value in row if value is not None]
    columns += [value for row in database.run("SELECT * FROM sessions_retired") for value in row]
    signer = Tokens(SECRET, [], COOKIE)
    tried = 0
    for column in columns:
        raw = column if isinstance(column, bytes) else str(column).encode()
        for text in (raw, raw.hex().encode(), urlsafe_b64encode(raw).rstrip(b"=")):
            attempts = [text, text + b"." + text]
            if re.fullmatch(rb"[A-Za-z0-9_-]{43}", text):
                # Even with the secret: the table's key is not the ID.
                attempts.append(signer.sign(text.decode()).encode())
                tried += 1
            for attempt in attempts:
                answer = await browser.get("/read", cookie=COOKIE.encode() + b"=" + attempt)
                assert answer.json() == {}
    assert tried, "the hash of the ID was among the columns"


async def test_log_lines_of_one_session_share_a_handle_that_opens_nothing(
    manager: SessionManager, caplog: pytest.LogCaptureFixture, time: Clock
) -> None:
    caplog.set_level("DEBUG", "sessionware")
    browser = Browser(app_of(manager))
    for path in ("/write?k=v", "/rotate", "/logout"):
        await browser.get(path)
    lines = [message for message in caplog.messages if message.startswith("session event")]
    handles = {re.findall(r"session=([0-9a-f]{12}) ", line)[0] for line in lines}
    assert len(lines) == 3
    assert len(handles) == 1
    handle = handles.pop()
    token = Tokens(SECRET, [], COOKIE).sign((handle * 4)[:43])
    assert (await browser.get("/read", cookie=f"{COOKIE}={token}")).json() == {}
