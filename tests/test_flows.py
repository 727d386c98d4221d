"""Flows: one copy of the logic, driven in a thread or in a task with the same outcome."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import Any, assert_type

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionware import CachedStore, SessionManager
from sessionware.flows import Call, Flow, Pause, T, adrive, drive, twins

pytestmark = pytest.mark.anyio


class Store:
    """Both kinds of store: records its calls, and fails where it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def echo(self, *args: Any) -> Any:
        self.calls.append(args)
        return args

    def fail(self, error: Exception) -> Any:
        self.calls.append((type(error),))
        raise error

    async def aecho(self, *args: Any) -> Any:
        return self.echo(*args)

    async def afail(self, error: Exception) -> Any:
        return self.fail(error)


ERRORS = st.sampled_from([LookupError, OSError, TimeoutError, StopAsyncIteration])
STEPS = st.lists(
    st.one_of(
        st.builds(lambda n: ("echo", n), st.integers(0, 9)),
        st.builds(lambda e: ("fail", e), ERRORS),
        st.builds(lambda e: ("fail uncaught", e), ERRORS),
        st.builds(lambda e: ("raise", e), ERRORS),
        st.just(("pause", 0)),
        st.just(("no such method", 0)),
    ),
    max_size=6,
)


def script(steps: list[tuple[str, Any]], log: list[Any]) -> Flow[str]:
    """A flow that does these steps, one after the other."""
    try:
        for what, value in steps:
            if what == "echo":
                log.append((yield Call("echo", (value, what))))
            elif what == "pause":
                log.append((yield Pause(value)))
            elif what == "raise":
                raise value("mine")
            elif what == "fail uncaught":
                yield Call("fail", (value("store"),))
            else:
                name = "fail" if what == "fail" else "missing"
                try:
                    yield Call(name, (value("store"),) if what == "fail" else ())
                except Exception as error:
                    log.append(type(error))
    finally:
        log.append("cleaned up")
    return "result"


def driven(steps: list[tuple[str, Any]], asynchronous: bool) -> tuple[Any, ...]:
    store, log = Store(), list[Any]()
    try:
        flow = script(steps, log)
        result = anyio.run(adrive, flow, store) if asynchronous else drive(flow, store)
    except (LookupError, OSError, StopAsyncIteration, RuntimeError) as error:
        return type(error), error.args, log, store.calls
    return result, log, store.calls


@given(STEPS)
def test_both_ways_of_driving_a_flow_give_the_same(steps: list[tuple[str, Any]]) -> None:
    outcome = driven(steps, asynchronous=False)
    assert driven(steps, asynchronous=True) == outcome
    assert outcome[-2][-1] == "cleaned up"


def test_a_flow_gets_the_stores_answer_and_its_exception() -> None:
    steps = [("echo", 1), ("fail", OSError), ("pause", 0), ("no such method", 0)]
    result, log, calls = driven(steps, asynchronous=False)
    assert result == "result"
    assert log == [(1, "echo"), OSError, None, AttributeError, "cleaned up"]
    assert calls == [(1, "echo"), (OSError,)]


async def test_a_flow_whose_task_is_cancelled_cleans_up() -> None:
    class Hangs:
        async def aecho(self, *args: Any) -> None:
            await anyio.sleep_forever()

    log: list[Any] = []
    with anyio.move_on_after(0.01):
        await adrive(script([("echo", 1)], log), Hangs())
    assert log == ["cleaned up"]


async def test_a_pause_lets_other_tasks_run() -> None:
    def pausing() -> Flow[str]:
        yield Pause(0.05)
        return "late"

    order: list[str] = []

    async def first() -> None:
        order.append(await adrive(pausing(), None))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        order.append("early")
    assert order == ["early", "late"]


class Calculator:
    """Has twins."""

    def run(self, flow: Flow[T], /) -> T:
        return drive(flow, Store())

    async def arun(self, flow: Flow[T], /) -> T:
        return await adrive(flow, Store())

    def double_flow(self, number: int, *, times: int = 1) -> Flow[int]:
        """Doubles a number."""
        for _ in range(times):
            number, _ = yield Call("echo", (number * 2, None))
        return number

    double, adouble = twins(double_flow)


async def test_twins_do_the_same() -> None:
    calculator = Calculator()
    assert calculator.double(3) == await calculator.adouble(3) == 6
    assert calculator.double(3, times=2) == await calculator.adouble(3, times=2) == 12


async def test_the_types_of_twins_are_those_of_the_flow() -> None:
    """Checked by mypy and pyright, as all tests are."""
    calculator = Calculator()
    assert_type(calculator.double(3), int)
    assert_type(await calculator.adouble(3, times=1), int)
    with pytest.raises(TypeError):
        calculator.double("3", twice=True)  # type: ignore[arg-type, call-arg]  # pyright: ignore


def test_twins_are_called_what_they_are() -> None:
    names = [(twin.__name__, twin.__qualname__) for twin in (Calculator.double, Calculator.adouble)]
    assert names == [("double", "Calculator.double"), ("adouble", "Calculator.adouble")]
    assert Calculator.double.__doc__ == Calculator.adouble.__doc__ == "Doubles a number."
    assert inspect.iscoroutinefunction(Calculator.adouble)
    assert not inspect.iscoroutinefunction(Calculator.double)


def test_a_twin_that_is_not_awaited_has_not_begun() -> None:
    coroutine = Calculator().adouble(3)
    assert isinstance(coroutine, Coroutine)
    coroutine.close()


@pytest.mark.parametrize("owner", [SessionManager, CachedStore])
def test_every_public_flow_has_documented_twins(owner: type) -> None:
    flows = [name for name in dir(owner) if name.endswith("_flow") and not name.startswith("_")]
    assert flows
    for name in flows:
        plain, coroutine = (
            getattr(owner, prefix + name.removesuffix("_flow")) for prefix in ("", "a")
        )
        assert inspect.iscoroutinefunction(coroutine)
        assert plain.__doc__ == coroutine.__doc__ == getattr(owner, name).__doc__
        assert plain.__doc__
