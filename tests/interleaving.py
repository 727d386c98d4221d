"""What tests of races and faults share: gates, a scripted store, requests as functions."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeAlias

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sessionware import Session, SessionManager, SessionMiddleware
from sessionware.errors import Contention, OutcomeUnknown
from tests.apps import Answer, Browser

PATIENCE: Final = 10
"""Seconds after which a test that waits for something that never comes fails."""

Act: TypeAlias = Callable[[Session], Any]
Do: TypeAlias = Callable[[], Any]
Step: TypeAlias = Callable[[Do], Any]


class Gate:
    """A place where a thread or task is held until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def hold(self) -> None:
        self._reached.set()
        assert self._opened.wait(PATIENCE), "nobody opened the gate"

    async def ahold(self) -> None:
        self._reached.set()
        await _in_thread(self._opened)

    async def reached(self) -> None:
        await _in_thread(self._reached)

    def open(self) -> None:
        self._opened.set()


async def _in_thread(event: threading.Event) -> None:
    waiting = partial(event.wait, PATIENCE)
    came = await anyio.to_thread.run_sync(waiting, abandon_on_cancel=True)
    assert came, "what the test waits for never came"


# Steps: what becomes of one call to the store.


def lost_before(do: Do) -> Any:
    """The connection breaks before the statement reaches the database."""
    raise OutcomeUnknown("lost before it was done")


def lost_after(do: Do) -> Any:
    """It is committed, and the answer is lost."""
    do()
    raise OutcomeUnknown("lost after it was done")


def contended(do: Do) -> Any:
    """The database refuses because of other writers."""
    raise Contention("a deadlock")


def held_before(gate: Gate) -> Step:
    def step(do: Do) -> Any:
        gate.hold()
        return do()

    return step


def held_after(gate: Gate) -> Step:
    def step(do: Do) -> Any:
        answer = do()
        gate.hold()
        return answer

    return step


def preceded_by(other: Callable[[], object], then: Step | None = None) -> Step:
    """Somebody else comes first."""

    def step(do: Do) -> Any:
        other()
        return do() if then is None else then(do)

    return step


def followed_by(other: Callable[[], object], then: Step) -> Step:
    """Somebody else comes between the statement and its outcome."""

    def step(do: Do) -> Any:
        def both() -> Any:
            answer = do()
            other()
            return answer

        return then(both)

    return step


class Scripted:
    """A store of plain methods around another one: counts calls, and follows a script.

    ``script("replace", step, step)``: the next calls of ``replace`` are left to these steps, one
    each. As it blocks, it runs in threads.
    """

    blocking = True

    def __init__(self, store: Any) -> None:
        self.inner = store
        self.calls: Counter[str] = Counter()
        self._steps: defaultdict[str, deque[Step]] = defaultdict(deque)
        self._lock = threading.Lock()

    def script(self, method: str, *steps: Step) -> None:
        self._steps[method].extend(steps)

    @property
    def finished(self) -> bool:
        """Whether every step was taken."""
        return not any(self._steps.values())

    def __getattr__(self, method: str) -> Any:
        real = getattr(self.inner, method)

        def call(*args: Any) -> Any:
            return self._call(method, partial(real, *args), self._next(method))

        return call

    def _next(self, method: str) -> Step | None:
        with self._lock:
            self.calls[method] += 1
            steps = self._steps[method]
            return steps.popleft() if steps else None

    def _call(self, method: str, do: Do, step: Step | None) -> Any:
        return do() if step is None else step(do)


class AsyncScripted(Scripted):
    """The same as coroutines, run in the event loop, around a store that does not block."""

    def __getattr__(self, method: str) -> Any:
        plain = method.removeprefix("a")
        if plain == method or not hasattr(self.inner, plain):
            raise AttributeError(method)
        real = getattr(self.inner, plain)

        async def call(*args: Any) -> Any:
            do, step = partial(real, *args), self._next(plain)
            if step is None:
                return do()
            return await anyio.to_thread.run_sync(self._call, plain, do, step)

        return call


# Requests as functions of the session.


_numbers = itertools.count()
_acts: dict[int, Act] = {}


async def _endpoint(request: Request) -> Response:
    act = _acts.pop(request.path_params["number"])
    # Not request.session, which counts as touching it.
    return JSONResponse(await perform(act, request.scope["session"]))


async def perform(act: Act, session: Session) -> Any:
    """Do it, whether it is a function or a coroutine function."""
    answer = act(session)
    return await answer if inspect.isawaitable(answer) else answer


def app_of(manager: SessionManager) -> Starlette:
    """An app that does what ``Client.visit`` says."""
    return Starlette(
        routes=[Route("/{number:int}", _endpoint)],
        middleware=[Middleware(SessionMiddleware, manager=manager)],
    )


class Client(Browser):
    """A browser whose requests are functions of the session."""

    def __init__(self, manager: SessionManager, token: str | None = None) -> None:
        super().__init__(app_of(manager), token)
        self.manager = manager

    def twin(self) -> Client:
        """The same browser, its cookie as it is now, for a request that comes beside."""
        return Client(self.manager, self.token)

    async def visit(self, act: Act = dict, *, may_fail: bool = False) -> Answer:
        """One request; its body is what ``act`` returns. Reads if it isn't told what to do."""
        number = next(_numbers)
        _acts[number] = act
        try:
            return await self.get(f"/{number}", may_fail=may_fail)
        finally:
            _acts.pop(number, None)

    async def content(self) -> dict[str, Any]:
        """What the session holds now."""
        answer = await self.visit()
        assert answer.status == 200
        return dict(answer.json())


def untouched(session: Session) -> str:
    """A request that doesn't need its session."""
    return "no session needed"


def paused(gate: Gate, act: Act) -> Act:
    """A slow request: it has its session, waits, then acts."""

    async def slow(session: Session) -> Any:
        await gate.ahold()
        return await perform(act, session)

    return slow


class Started:
    """A request under way."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._answer: Answer | None = None

    async def run(self, request: Coroutine[Any, Any, Answer] | Awaitable[Answer]) -> None:
        try:
            self._answer = await request
        finally:
            self._done.set()

    async def answer(self) -> Answer:
        """Its response, when it has come."""
        with anyio.fail_after(PATIENCE):
            await self._done.wait()
        assert self._answer is not None
        return self._answer


class Group:
    """A task group. Unlike anyio's it never swallows an exception, and says so to type checkers."""

    def __init__(self) -> None:
        self._group = anyio.create_task_group()
        self.start_soon = self._group.start_soon

    async def __aenter__(self) -> Group:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._group.__aexit__(kind, error, trace)


def start(group: Group, request: Awaitable[Answer]) -> Started:
    """Let a request run beside the test."""
    started = Started()
    group.start_soon(started.run, request)
    return started


async def together(*requests: Awaitable[Answer]) -> list[Answer]:
    """All at once; their answers in the order given."""
    async with Group() as group:
        started = [start(group, request) for request in requests]
    return [await one.answer() for one in started]
