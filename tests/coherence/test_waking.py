"""Waiting for a connection and for a nudge at the same time."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sessionware.coherence.waking import Waker, ready


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    made.open()
    yield made
    made.close()


Pair = tuple[socket.socket, socket.socket]


def waited(waker: Waker, connection: socket.socket, seconds: float) -> float:
    began = time.monotonic()
    waker.wait(connection, seconds)
    return time.monotonic() - began


def test_a_nudge_of_another_thread_ends_the_wait_once(waker: Waker, pair: Pair) -> None:
    timer = threading.Timer(0.05, waker.wake)
    timer.start()
    assert waited(waker, pair[0], 10) < 5
    timer.join()
    assert waited(waker, pair[0], 0.05) >= 0.04


def test_a_nudge_that_comes_before_the_wait_is_not_lost(waker: Waker, pair: Pair) -> None:
    for _ in range(100_000):
        waker.wake()
    assert waited(waker, pair[0], 10) < 5


def test_what_comes_on_the_connection_ends_the_wait(waker: Waker, pair: Pair) -> None:
    pair[1].send(b"x")
    assert waited(waker, pair[0], 10) < 5


def test_a_connection_that_is_closed_ends_the_wait(waker: Waker, pair: Pair) -> None:
    pair[1].close()
    assert waited(waker, pair[0], 10) < 5


def test_a_nudge_for_nobody_is_harmless(waker: Waker) -> None:
    waker.close()
    waker.wake()
    Waker().wake()


def test_a_process_with_thousands_of_open_files_can_wait(waker: Waker) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened: list[int] = []
    try:
        while not opened or opened[-1] < 1100:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        one, two = socket.socketpair()
        with one, two:
            assert one.fileno() > 1024
            two.send(b"x")
            assert ready(1, one) == {one}
            high = Waker()
            high.open()
            high.wake()
            high.wait(two, 1)
            high.close()
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_nudge_never_goes_to_a_file_that_got_the_number_of_a_closed_end(waker: Waker) -> None:
    """Connections are made anew while other threads nudge."""
    stop = threading.Event()

    def nudge() -> None:
        while not stop.is_set():
            waker.wake()

    nudgers = [threading.Thread(target=nudge) for _ in range(2)]
    for each in nudgers:
        each.start()
    strays = b""
    for _ in range(40):
        waker.close()
        reads, writes = os.pipe()
        os.set_blocking(reads, False)
        time.sleep(0.002)
        with suppress(BlockingIOError):
            strays += os.read(reads, 100)
        os.close(reads)
        os.close(writes)
        waker.open()
    stop.set()
    for each in nudgers:
        each.join()
    assert strays == b""
