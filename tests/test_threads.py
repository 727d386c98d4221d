"""Threads: a few daemons that work off a queue, in any order of submitting and closing."""

from __future__ import annotations

import gc
import threading
import weakref
from _thread import allocate_lock
from collections.abc import Iterator

import pytest

from sessionware import ConfigurationError
from sessionware.threads import Threads

PATIENCE = 5


class Gate:
    """A job that begins, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.open.wait(PATIENCE)
        return "done"


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(2, "sessionware-test")
    yield threads
    threads.close()


def running(name: str = "sessionware-test") -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def wait_until_none_is_running() -> None:
    for thread in running():
        thread.join(PATIENCE)
    assert running() == []


def wait_for_idle(threads: Threads, count: int) -> None:
    for _ in range(1000 * PATIENCE):
        if len(threads._crew.idle) == count:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{count} threads were to become idle")


def test_a_jobs_result_and_its_exception_are_the_futures(threads: Threads) -> None:
    error = LookupError("no")

    def fail() -> None:
        raise error

    assert threads.submit(lambda: 7).result(PATIENCE) == 7
    assert threads.submit(fail).exception(PATIENCE) is error


def test_even_an_exit_ends_only_its_job(threads: Threads) -> None:
    def leave() -> None:
        raise SystemExit

    assert isinstance(threads.submit(leave).exception(PATIENCE), SystemExit)
    assert threads.submit(lambda: 7).result(PATIENCE) == 7


def test_no_thread_is_started_before_there_is_work() -> None:
    Threads(2, "sessionware-test")
    assert running() == []


def test_threads_are_daemons_with_a_name(threads: Threads) -> None:
    thread = threads.submit(threading.current_thread).result(PATIENCE)
    assert (thread.name, thread.daemon) == ("sessionware-test", True)


def test_no_more_threads_than_the_limit_run_and_all_work_is_done(threads: Threads) -> None:
    gates = [Gate() for _ in range(5)]
    futures = [threads.submit(gate) for gate in gates]
    assert all(gate.begun.wait(PATIENCE) for gate in gates[:2])
    assert len(running()) == 2
    assert not gates[2].begun.is_set()
    for gate in gates:
        gate.open.set()
    assert [future.result(PATIENCE) for future in futures] == ["done"] * 5


def test_an_idle_thread_is_used_again(threads: Threads) -> None:
    idents = [threads.submit(threading.get_ident).result(PATIENCE) for _ in range(20)]
    assert len(set(idents)) <= 2


def test_of_idle_threads_the_last_one_to_become_idle_is_called(threads: Threads) -> None:
    gates, last = [Gate(), Gate()], 0
    idents = [threads.submit(lambda gate=gate: (gate(), threading.get_ident())) for gate in gates]  # type: ignore[misc]
    for idle, (gate, ident) in enumerate(zip(gates, idents, strict=True), 1):
        gate.open.set()
        _, last = ident.result(PATIENCE)
        wait_for_idle(threads, idle)
    assert threads.submit(threading.get_ident).result(PATIENCE) == last


def test_a_job_that_hangs_does_not_hold_up_another_while_the_limit_allows_one() -> None:
    """Submitted in the moment between a thread's taking a job and its beginning it, too."""
    for _ in range(200):
        threads = Threads(2, "sessionware-test")
        threads.submit(int).result(PATIENCE)
        hanging = Gate()
        first = threads.submit(hanging)
        second = threads.submit(lambda: 7)
        assert second.result(PATIENCE) == 7
        hanging.open.set()
        first.result(PATIENCE)
        threads.close()
    wait_until_none_is_running()


def test_a_job_that_was_cancelled_before_it_began_is_skipped() -> None:
    threads = Threads(1, "sessionware-test")
    gate, ran = Gate(), threading.Event()
    first = threads.submit(gate)
    assert gate.begun.wait(PATIENCE)
    assert threads.submit(ran.set).cancel()
    assert not first.cancel()
    gate.open.set()
    assert threads.submit(ran.is_set).result(PATIENCE) is False
    threads.close()


def test_where_the_system_has_no_more_threads_those_that_there_are_do_the_work(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ran: list[int] = []
    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            threads.post(lambda: ran.append(1))
    gate = Gate()
    first = threads.submit(gate)
    assert gate.begun.wait(PATIENCE)
    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", refuse)
        second = threads.submit(lambda: 2)
    gate.open.set()
    assert (first.result(PATIENCE), second.result(PATIENCE)) == ("done", 2)
    assert ran == [], "whoever was told that it failed does not find it done"


def test_closing_lets_the_work_that_was_submitted_be_done_and_ends_the_threads() -> None:
    threads = Threads(2, "sessionware-test")
    gates = [Gate() for _ in range(4)]
    futures = [threads.submit(gate) for gate in gates]
    threads.close()
    for gate in gates:
        gate.open.set()
    assert [future.result(PATIENCE) for future in futures] == ["done"] * 4
    wait_until_none_is_running()


def test_after_closing_it_works_again() -> None:
    threads = Threads(1, "sessionware-test")
    assert threads.submit(lambda: 1).result(PATIENCE) == 1
    threads.close()
    assert threads.submit(lambda: 2).result(PATIENCE) == 2
    threads.close()
    wait_until_none_is_running()


def test_what_is_submitted_while_closing_is_under_way_is_done() -> None:
    threads = Threads(1, "sessionware-test")
    gate = Gate()
    first = threads.submit(gate)
    assert gate.begun.wait(PATIENCE)
    threads.close()
    second = threads.submit(lambda: 7)
    gate.open.set()
    assert first.result(PATIENCE) == "done"
    assert second.result(PATIENCE) == 7
    threads.close()
    wait_until_none_is_running()


def test_closing_twice_ends_nothing_that_is_started_afterwards() -> None:
    threads = Threads(2, "sessionware-test")
    threads.submit(int).result(PATIENCE)
    threads.close()
    threads.close()
    gates = [Gate(), Gate()]
    futures = [threads.submit(gate) for gate in gates]
    assert all(gate.begun.wait(PATIENCE) for gate in gates)
    for gate in gates:
        gate.open.set()
    assert [future.result(PATIENCE) for future in futures] == ["done"] * 2
    threads.close()
    wait_until_none_is_running()


class Data:
    """Something that can be referred to weakly."""


def test_an_idle_thread_holds_on_to_nothing_of_its_last_job(threads: Threads) -> None:
    def job(data: Data = Data()) -> Data:  # noqa: B008
        references.append(weakref.ref(data))
        return data

    references: list[weakref.ref[Data]] = []
    future = threads.submit(job)
    future.result(PATIENCE)
    # A second job on each thread would hide what the first one left: wait for idleness instead.
    del future, job
    for _ in range(100):
        gc.collect()
        if references[0]() is None:
            break
        threading.Event().wait(0.01)
    assert references[0]() is None


class Lock:
    """A lock that something else than Python has put in the place of its own."""

    def __init__(self) -> None:
        lock = allocate_lock()
        self.acquire, self.release = lock.acquire, lock.release

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class GreenletsLock(Lock):
    __module__ = "gevent.thread"


def test_threads_that_gevent_replaces_later_are_refused_with_the_fix(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under ``gunicorn --preload``: it would hang at the first job."""
    monkeypatch.setattr(threading, "Lock", GreenletsLock)
    with pytest.raises(ConfigurationError, match=r"SW020 .*monkey\.patch_all"):
        threads.submit(int)
    assert running() == []
    monkeypatch.undo()
    assert threads.submit(int).result(PATIENCE) == 0


def test_locks_that_a_profiler_wraps_later_are_nothing_to_refuse(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "Lock", Lock)
    assert threads.submit(int).result(PATIENCE) == 0
