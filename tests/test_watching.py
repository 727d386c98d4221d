"""``Session.on_ended``: who holds a connection open learns that its session has ended."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
import trio.testing
import uvicorn
import wsproto
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from sessionware import (
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    StoreUnavailable,
    watching,
)
from tests.apps import COOKIE, Managers
from tests.byhand import Clock, Visitor, expiring, login, storing
from tests.interleaving import PATIENCE, AsyncScripted, Scripted, lost_after
from tests.services import with_driver

pytestmark = pytest.mark.anyio

ENDED = 4401
MODES = [
    "stamps",
    "validate",
    "bounded",
    pytest.param("notify", marks=pytest.mark.postgres),
]


@pytest.fixture
async def managers(anyio_backend: Any) -> AsyncIterator[Managers]:
    made = Managers()
    yield made
    await made.aclose()


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no channel; two seconds would make slow tests."""
    monkeypatch.setattr(watching, "_ASK_SECONDS", 0.1)
    monkeypatch.setattr(watching, "_REST_SECONDS", 0.1)


@pytest.fixture
def pair(
    mode: str, request: pytest.FixtureRequest, managers: Managers, table_name: str
) -> list[SessionManager]:
    """Two workers of one mode of coherence."""
    fixture = "postgres_url" if mode == "notify" else "sqlite_url"
    url = request.getfixturevalue(fixture)
    return [managers(store=url, table_name=table_name, coherence=mode) for _ in range(2)]


class Bells:
    """Callbacks, and how often each was called."""

    def __init__(self) -> None:
        self.rung: Counter[str] = Counter()

    def bell(self, name: str) -> Callable[[], None]:
        return lambda: self.rung.update([name])

    async def ring(self, *names: str) -> None:
        """Wait until all of these have rung."""
        with anyio.fail_after(PATIENCE):
            while not self.rung.keys() >= set(names):
                await anyio.sleep(0.01)

    def wait(self, name: str) -> None:
        """The same in a thread."""
        deadline = time.monotonic() + PATIENCE
        while name not in self.rung:
            assert time.monotonic() < deadline, "it did not ring"
            time.sleep(0.01)


async def visitor_of(manager: SessionManager, act: Callable[[Session], object]) -> Visitor:
    visitor = Visitor(manager)
    await visitor.avisit(act)
    return visitor


def watch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sessionware-watch"]


async def no_thread_left() -> None:
    with anyio.fail_after(PATIENCE):
        while watch_threads():
            await anyio.sleep(0.01)


async def switch_user(visitor: Visitor) -> None:
    await visitor.avisit(login("somebody else"))


async def log_out(visitor: Visitor) -> None:
    await visitor.avisit(Session.invalidate)


async def clear(visitor: Visitor) -> None:
    await visitor.avisit(Session.clear)


async def drop_user(visitor: Visitor) -> None:
    await visitor.avisit(lambda session: session.pop("user_id"))


async def revoke(visitor: Visitor) -> None:
    (info,) = await visitor.manager.alist_sessions("revoke")
    assert await visitor.manager.arevoke(info.handle, user_id="revoke")


async def revoke_user(visitor: Visitor) -> None:
    assert await visitor.manager.arevoke_user("revoke_user") == 1


async def rotate(visitor: Visitor) -> None:
    await visitor.avisit(Session.rotate)


async def save(visitor: Visitor) -> None:
    await visitor.avisit(storing(saved=1))


async def rotate_then_log_out(visitor: Visitor) -> None:
    await rotate(visitor)
    await anyio.sleep(0.1)
    await log_out(visitor)


async def log_in_again(visitor: Visitor) -> None:
    await visitor.avisit(lambda session: session.rotate(authenticated=True))


ENDS = [switch_user, log_out, clear, drop_user, revoke, revoke_user, rotate_then_log_out]
KEEPS = [rotate, save, log_in_again]


@pytest.mark.parametrize(
    ("mode", "elsewhere"),
    [
        *((mode, True) for mode in ("stamps", "validate", "bounded")),
        ("stamps", False),
        *(pytest.param("notify", each, marks=pytest.mark.postgres) for each in (True, False)),
    ],
)
async def test_each_end_is_told_once_and_no_rotation_or_save(
    pair: list[SessionManager], elsewhere: bool
) -> None:
    here, there = pair
    bells, visitors = Bells(), {}
    for fate in [*ENDS, *KEEPS]:
        name = fate.__name__
        visitors[name] = await visitor_of(there if elsewhere else here, login(name))
        session = await here.aopen(visitors[name].cookie)
        session.on_ended(bells.bell(name))
    for fate in [*KEEPS, *ENDS]:
        await fate(visitors[fate.__name__])
    await bells.ring(*(fate.__name__ for fate in ENDS))
    await anyio.sleep(0.25)
    assert bells.rung == Counter(fate.__name__ for fate in ENDS)


@pytest.mark.parametrize("mode", MODES)
async def test_an_expiry_is_told_and_a_session_that_was_renewed_elsewhere_goes_on(
    pair: list[SessionManager], clock: Clock
) -> None:
    here, there = pair
    bells = Bells()
    ends = await visitor_of(there, expiring(60, n=1))
    lasts = await visitor_of(there, expiring(60, n=1))
    for name, visitor in {"ends": ends, "lasts": lasts}.items():
        (await here.aopen(visitor.cookie)).on_ended(bells.bell(name))
    await lasts.avisit(expiring(120))
    await anyio.sleep(0.2)
    assert not bells.rung
    clock.tick(61)
    await bells.ring("ends")
    await anyio.sleep(0.25)
    assert bells.rung == {"ends": 1}
    clock.tick(60)
    await bells.ring("lasts")


@pytest.mark.parametrize("mode", MODES)
async def test_the_end_of_all_sessions_is_told_to_all(pair: list[SessionManager]) -> None:
    here, there = pair
    bells, names = Bells(), [f"user {number}" for number in range(20)]
    for name in names:
        visitor = await visitor_of(here, login(name))
        (await here.aopen(visitor.cookie)).on_ended(bells.bell(name))
    await there.arevoke_all()
    await bells.ring(*names)
    assert set(bells.rung.values()) == {1}
    await no_thread_left()


@pytest.mark.parametrize("mode", MODES)
async def test_revoke_user_spares_the_session_to_keep_and_each_worker_knows(
    pair: list[SessionManager],
) -> None:
    here, there = pair
    bells = Bells()
    laptop, phone = [await visitor_of(here, login("alice")) for _ in range(2)]
    for manager in pair:
        for name, visitor in {"laptop": laptop, "phone": phone}.items():
            session = await manager.aopen(visitor.cookie)
            session.on_ended(bells.bell(f"{name} {pair.index(manager)}"))
    kept = await there.aopen(laptop.cookie)
    assert await there.arevoke_user("alice", keep=kept) == 1
    await bells.ring("phone 0", "phone 1")
    bound = 30 if there.settings.coherence == "bounded" else 0
    for manager in pair:
        assert not (await manager.aopen(laptop.cookie)).is_new
        if manager is there or not bound:
            assert (await manager.aopen(phone.cookie)).is_new
    (info,) = await here.alist_sessions("alice", current=kept)
    assert info.current
    assert set(bells.rung) == {"phone 0", "phone 1"}


# Where the callback runs.


@pytest.fixture
async def memory(managers: Managers) -> SessionManager:
    return managers(store=MemoryStore())


async def test_a_coroutine_function_and_what_gives_a_coroutine_are_awaited_in_the_loop(
    memory: SessionManager,
) -> None:
    bells, here = Bells(), threading.get_ident()

    async def work(name: str) -> None:
        await anyio.sleep(0)
        assert threading.get_ident() == here
        bells.bell(name)()

    visitor = await visitor_of(memory, login("alice"))
    session = await memory.aopen(visitor.cookie)
    session.on_ended(partial(work, "partial"))
    session.on_ended(lambda: work("lambda"))
    await log_out(visitor)
    await bells.ring("partial", "lambda")


word: contextvars.ContextVar[str] = contextvars.ContextVar("word")


async def test_the_callback_has_the_context_in_which_it_was_given(memory: SessionManager) -> None:
    bells = Bells()

    async def later() -> None:
        await anyio.sleep(0)
        bells.bell(f"later {word.get()}")()

    visitor = await visitor_of(memory, login("alice"))
    session = await memory.aopen(visitor.cookie)
    word.set("then")
    session.on_ended(lambda: bells.bell(f"now {word.get()}")())
    session.on_ended(later)
    word.set("since")
    await log_out(visitor)
    await bells.ring("now then", "later then")


async def test_a_callback_that_fails_is_logged_without_its_text_and_harms_nobody(
    memory: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    bells = Bells()

    def plain() -> None:
        raise ValueError("private")

    async def coroutine() -> None:
        raise LookupError("private")

    visitor = await visitor_of(memory, login("alice"))
    session = await memory.aopen(visitor.cookie)
    for callback in (plain, coroutine, bells.bell("well")):
        session.on_ended(callback)
    with caplog.at_level(logging.ERROR, "sessionware"):
        await log_out(visitor)
        await bells.ring("well")
        await anyio.sleep(0.1)
    assert "ValueError" in caplog.text
    assert "LookupError" in caplog.text
    assert "private" not in caplog.text


def test_without_an_event_loop_it_is_called_in_a_thread_and_nobody_waits_for_it() -> None:
    managers, bells, go = Managers(), Bells(), threading.Event()
    manager = managers(store="sqlite:///sessions.db")
    visitors = {}
    word.set("of the thread")

    def slow() -> None:
        go.wait(PATIENCE)
        bells.bell(word.get())()

    for name, callback in {"slow": slow, "quick": bells.bell("quick")}.items():
        visitors[name] = Visitor(manager)
        visitors[name].visit(login(name))
        visitors[name].open().on_ended(callback)
    for visitor in visitors.values():
        visitor.visit(Session.invalidate)
    bells.wait("quick")
    go.set()
    bells.wait("of the thread")
    manager.shutdown()


def test_without_an_event_loop_a_coroutine_function_is_refused() -> None:
    manager = Managers()(store=MemoryStore())
    visitor = Visitor(manager)
    visitor.visit(login("alice"))
    with pytest.raises(TypeError, match="event loop"):
        visitor.open().on_ended(partial(anyio.sleep, 0))


async def test_in_a_worker_thread_of_the_loop_it_works_over_a_store_of_coroutines(
    managers: Managers,
) -> None:
    manager, bells = managers(store=AsyncScripted(MemoryStore())), Bells()
    visitor = await visitor_of(manager, login("alice"))
    session = await manager.aopen(visitor.cookie)
    await anyio.to_thread.run_sync(session.on_ended, bells.bell("rung"))
    await log_out(visitor)
    await bells.ring("rung")


async def test_a_session_that_is_not_stored_is_not_watched(memory: SessionManager) -> None:
    session = await memory.aopen(None)
    call_off = session.on_ended(pytest.fail)
    call_off()
    assert not memory._watcher._watched


async def test_a_session_that_ended_before_it_was_watched_is_told_too(
    memory: SessionManager,
) -> None:
    bells = Bells()
    visitor = await visitor_of(memory, login("alice"))
    session = await memory.aopen(visitor.cookie)
    await log_out(visitor)
    session.on_ended(bells.bell("late"))
    await bells.ring("late")


# A store of coroutines.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "driver", ["aiosqlite", pytest.param("asyncpg", marks=pytest.mark.postgres)]
)
async def test_it_works_with_drivers_that_know_asyncio_only(
    driver: str,
    request: pytest.FixtureRequest,
    managers: Managers,
    table_name: str,
    blockbuster: Any,
) -> None:
    for function in blockbuster.functions.values():
        function.can_block_in("/asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
    if driver == "aiosqlite":
        url = request.getfixturevalue("sqlite_url").replace("sqlite", "sqlite+aiosqlite", 1)
    else:
        url = with_driver(request.getfixturevalue("postgres_url"), "postgresql+asyncpg")
    here, there = (managers(store=url, table_name=table_name) for _ in range(2))
    bells, names = Bells(), [f"user {number}" for number in range(10)]
    visitors = [await visitor_of(there, login(name)) for name in names]
    for name, visitor in zip(names, visitors, strict=True):
        (await here.aopen(visitor.cookie)).on_ended(bells.bell(name))
    await there.arevoke_user(names[0])
    await bells.ring(names[0])
    for visitor in visitors[1:]:
        await log_out(visitor)
    await bells.ring(*names)
    assert set(bells.rung.values()) == {1}
    await no_thread_left()


async def test_a_store_of_coroutines_is_asked_in_the_loop(managers: Managers) -> None:
    rows, bells = MemoryStore(), Bells()
    here, there = managers(store=AsyncScripted(rows)), managers(store=rows)
    visitor = await visitor_of(there, login("alice"))
    (await here.aopen(visitor.cookie)).on_ended(bells.bell("rung"))
    await log_out(visitor)
    await bells.ring("rung")


# The store fails.


def down(do: Callable[[], Any]) -> Any:
    raise StoreUnavailable("it is down")


def defect(do: Callable[[], Any]) -> Any:
    raise ZeroDivisionError("private")


@pytest.mark.parametrize("wrapper", [Scripted, AsyncScripted])
async def test_a_store_that_fails_is_asked_again(
    managers: Managers, wrapper: type[Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    rows, bells = MemoryStore(), Bells()
    store = wrapper(rows)
    here, there = managers(store=store), managers(store=rows)
    visitor = await visitor_of(there, login("alice"))
    session = await here.aopen(visitor.cookie)
    store.script("reload", down, defect, lost_after)
    session.on_ended(bells.bell("rung"))
    with anyio.fail_after(PATIENCE):
        while not store.finished:
            await anyio.sleep(0.01)
    await log_out(visitor)
    await bells.ring("rung")
    assert "ZeroDivisionError" in caplog.text
    assert "private" not in caplog.text


@pytest.mark.postgres
async def test_an_end_whose_answer_was_lost_is_told_in_the_worker_that_asked_for_it(
    managers: Managers, postgres_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_ASK_SECONDS", 30)
    manager, bells = managers(store=postgres_url, table_name=table_name), Bells()
    visitor = await visitor_of(manager, login("alice"))
    session = await manager.aopen(visitor.cookie)
    session.on_ended(bells.bell("rung"))
    await anyio.sleep(0.3)
    store = manager.store.store
    steps, real = [lost_after], store.remove

    def remove(*args: Any) -> Any:
        return steps.pop()(partial(real, *args)) if steps else real(*args)

    monkeypatch.setattr(store, "remove", remove)
    await log_out(visitor)
    await bells.ring("rung")


# Nothing is left behind.


async def test_what_was_called_off_does_not_ring_and_leaves_nothing_behind(
    memory: SessionManager,
) -> None:
    closed: list[int] = []

    class Socket:
        def close(self) -> None:
            closed.append(1)

    visitor = await visitor_of(memory, login("alice"))
    session, socket = await memory.aopen(visitor.cookie), Socket()
    call_off = session.on_ended(socket.close)
    gone = weakref.ref(socket)
    del socket
    call_off()
    await no_thread_left()
    gc.collect()
    assert gone() is None
    call_off()
    await log_out(visitor)
    await anyio.sleep(0.1)
    assert not closed


async def test_what_is_called_off_in_the_last_moment_does_not_ring(
    memory: SessionManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bells = Bells()
    visitor = await visitor_of(memory, login("alice"))
    session = await memory.aopen(visitor.cookie)
    fired = threading.Event()
    real = watching._Watch.fire

    def fire(watch: Any) -> None:
        real(watch)
        fired.set()

    monkeypatch.setattr(watching._Watch, "fire", fire)
    call_off = session.on_ended(bells.bell("too late"))
    await log_out(visitor)
    # The loop must not run what was put into it before it is called off.
    assert await_without_the_loop(fired)
    call_off()
    await anyio.sleep(0.1)
    assert not bells.rung
    assert "on_ended" not in caplog.text


def await_without_the_loop(event: threading.Event) -> bool:
    return event.wait(PATIENCE)


async def test_the_end_of_a_connection_calls_off_what_it_forgot(memory: SessionManager) -> None:
    visitor = await visitor_of(memory, login("alice"))
    one, other, bells = (
        await memory.aopen(visitor.cookie),
        await memory.aopen(visitor.cookie),
        Bells(),
    )
    one.on_ended(bells.bell("over"))
    other.on_ended(bells.bell("other"))
    memory.unwatch(one)
    await log_out(visitor)
    await bells.ring("other")
    await no_thread_left()
    assert bells.rung == {"other": 1}


async def test_a_shutdown_ends_the_thread_and_a_dropped_manager_too() -> None:
    for drop in (False, True):
        manager = Managers()(store=MemoryStore())
        visitor = await visitor_of(manager, login("alice"))
        (await manager.aopen(visitor.cookie)).on_ended(bool)
        if not drop:
            await manager.ashutdown()
        else:
            gone = weakref.ref(manager)
            manager._watcher.stop()
            del manager, visitor
            await no_thread_left()
            gc.collect()
            assert gone() is None
        await no_thread_left()


def test_a_connection_whose_event_loop_is_closed_is_forgotten() -> None:
    for store in (Scripted(MemoryStore()), AsyncScripted(MemoryStore())):
        manager = Managers()(store=store)

        async def watch(manager: SessionManager = manager) -> None:
            visitor = await visitor_of(manager, login("alice"))
            (await manager.aopen(visitor.cookie)).on_ended(lambda: pytest.fail("nobody is there"))

        for backend in ("asyncio", "trio"):
            anyio.run(watch, backend=backend)
        deadline = time.monotonic() + PATIENCE
        while watch_threads():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("when_asked", ["the end", "the question"])
def test_what_comes_while_trio_ends_is_dropped_and_does_not_break_it(when_asked: str) -> None:
    manager = Managers()(store=AsyncScripted(MemoryStore()))
    watcher = manager._watcher

    async def say() -> None:
        pytest.fail("nobody is there")

    async def end_in_the_last_moment() -> None:
        try:
            await trio.sleep_forever()
        finally:
            # From here on trio makes calls and takes no task: this was its last one.
            (watch,) = watcher._watched
            if when_asked == "the end":
                watcher._end(watch)
            else:
                watcher._have_asked([watch])

    async def main() -> None:
        visitor = await visitor_of(manager, login("alice"))
        (await manager.aopen(visitor.cookie)).on_ended(say)
        trio.lowlevel.spawn_system_task(end_in_the_last_moment)
        await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    watcher.stop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_that_are_watched_do_not_keep_a_processor_busy(
    memory: SessionManager, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    monkeypatch.setattr(watching, "_ASK_SECONDS", 60)
    visitor = await visitor_of(memory, login("alice"))
    session = await memory.aopen(visitor.cookie)
    for _ in range(5_000):
        session.on_ended(bool)
    await anyio.sleep(0.5)
    (thread,) = watch_threads()
    assert thread.ident is not None
    clock_id = time.pthread_getcpuclockid(thread.ident)
    before, began = time.clock_gettime(clock_id), time.monotonic()
    await anyio.sleep(0.5)
    used = time.clock_gettime(clock_id) - before
    assert used < 0.3 * (time.monotonic() - began)
    memory.unwatch(session)


async def test_managers_that_share_a_store_leave_nothing_in_it(managers: Managers) -> None:
    store = managers(store=MemoryStore()).store
    for _ in range(3):
        manager = Managers()(store=store)
        visitor = await visitor_of(manager, login("alice"))
        call_off = (await manager.aopen(visitor.cookie)).on_ended(bool)
        call_off()
        await no_thread_left()
        del manager, visitor, call_off
        gc.collect()
    assert store.listeners == []


# Real WebSockets.


def site(manager: SessionManager) -> Starlette:
    """A WebSocket that is closed when its session ends, and one that forgets to call it off."""

    async def forget(socket: WebSocket) -> None:
        await socket.accept()
        assert isinstance(socket.session, Session)
        socket.session.on_ended(partial(socket.close, ENDED))
        await socket.close()

    async def serve(socket: WebSocket) -> None:
        await socket.accept()
        session = socket.session
        assert isinstance(session, Session)
        call_off = session.on_ended(partial(socket.close, ENDED))
        try:
            await socket.send_text("watched")
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect:
            pass
        finally:
            call_off()

    return Starlette(
        routes=[WebSocketRoute("/", serve), WebSocketRoute("/forget", forget)],
        middleware=[Middleware(SessionMiddleware, manager=manager)],
    )


@pytest.fixture
def workers(
    mode: str, request: pytest.FixtureRequest, table_name: str
) -> Iterator[list[SessionManager]]:
    """As ``pair``, for a test without an event loop of its own."""
    fixture = "postgres_url" if mode == "notify" else "sqlite_url"
    url = request.getfixturevalue(fixture)
    made = [Managers()(store=url, table_name=table_name, coherence=mode) for _ in range(2)]
    yield made
    for manager in made:
        manager.shutdown()


@pytest.mark.parametrize("mode", MODES)
def test_a_websocket_is_closed_at_the_logout_in_another_worker(
    workers: list[SessionManager], test_client_factory: Callable[..., TestClient]
) -> None:
    here, there = workers
    browser = Visitor(there)
    browser.visit(login("alice"))
    assert browser.cookie is not None
    client = test_client_factory(site(here))
    with client.websocket_connect("/", headers={"cookie": browser.cookie}) as socket:
        assert socket.receive_text() == "watched"
        browser.visit(storing(n=1))
        browser.visit(Session.rotate)
        socket.send_text("still here")
        assert socket.receive_text() == "still here"
        browser.visit(Session.invalidate)
        assert socket.receive()["code"] == ENDED
    deadline = time.monotonic() + PATIENCE
    while watch_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("mode", ["stamps"])
def test_a_websocket_that_is_closed_leaves_nothing_behind_also_if_it_called_nothing_off(
    workers: list[SessionManager], test_client_factory: Callable[..., TestClient]
) -> None:
    browser = Visitor(workers[0])
    browser.visit(login("alice"))
    assert browser.cookie is not None
    client = test_client_factory(site(workers[0]))
    with client.websocket_connect("/forget", headers={"cookie": browser.cookie}) as socket:
        assert socket.receive()["type"] == "websocket.close"
    assert not workers[0]._watcher._watched
    assert not workers[0]._watcher._of_request


@pytest.fixture
def port(workers: list[SessionManager]) -> Iterator[int]:
    """uvicorn with the first worker's app."""
    config = uvicorn.Config(site(workers[0]), port=0, ws="wsproto", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


async def next_event(stream: Any, connection: wsproto.WSConnection) -> Any:
    with anyio.fail_after(PATIENCE):
        while True:
            for event in connection.events():
                return event
            connection.receive_data(await stream.receive())


@pytest.mark.parametrize("mode", ["stamps"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_websocket_of_uvicorn_is_closed_at_the_logout(
    workers: list[SessionManager], port: int, anyio_backend: str
) -> None:
    browser = await visitor_of(workers[1], login("alice"))
    assert browser.cookie is not None
    assert browser.cookie.startswith(COOKIE)
    connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        hello = Request("127.0.0.1", "/", extra_headers=[(b"cookie", browser.cookie.encode())])
        await stream.send(connection.send(hello))
        assert isinstance(await next_event(stream, connection), AcceptConnection)
        watched = await next_event(stream, connection)
        assert isinstance(watched, TextMessage)
        assert watched.data == "watched"
        await log_out(browser)
        closed = await next_event(stream, connection)
        assert isinstance(closed, CloseConnection)
        assert closed.code == ENDED
        await stream.send(connection.send(closed.response()))
    await no_thread_left()
