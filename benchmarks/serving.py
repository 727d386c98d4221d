"""Requests a second over a real server: uvicorn with uvloop and httptools, one worker.

The server has one core and the load generator another, where the system can say so; database
servers share them with both.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from .contenders import Contender
from .workers import ROOT, Failed

SESSIONS = 256
PAGES = ("read", "write")


@contextmanager
def _process(arguments: list[str], core: int, log: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        bufsize=1,
    )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(process.pid, {cores[core]})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Served:
    """One application behind uvicorn, and the generator that is connected to it."""

    def __init__(self, stack: ExitStack, contender: Contender, folder: Path, *, bare: bool) -> None:
        port = _free_port()
        log = stack.enter_context((folder / f"{contender.name}-served.log").open("a"))
        server = ["benchmarks.worker", contender.name, str(folder), str(port)]
        self._server = stack.enter_context(_process([*server, *["bare"] * bare], 0, log))
        _until_open(port, self._server)
        self._load = stack.enter_context(_process(["benchmarks.load", str(port)], 1, log))
        self._answer()
        self.cookies: list[str] = []
        if not bare:
            self.cookies = self.ask(page="seed", sessions=SESSIONS)["cookies"]

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self._load.stdin is not None
        self._load.stdin.write(json.dumps(order) + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._load.stdout is not None
        line = self._load.stdout.readline()
        if not line:
            raise Failed("the load generator died; see the log")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer or answer.get("failures"):
            raise Failed(f"over uvicorn: {answer}")
        return answer


def serve(
    contender: Contender, folder: Path, rounds: int, seconds: float, tick: Callable[[], None]
) -> dict[str, Any]:
    """Slices of the bare application and of the contender in turn; medians, and of their ratios."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        bare = _Served(stack, contender, folder, bare=True)
        mine = _Served(stack, contender, folder, bare=False)
        written = 0
        for page in PAGES:
            slices: dict[str, list[dict[str, Any]]] = {"bare": [], "mine": []}
            for each, served in (("bare", bare), ("mine", mine)):
                warm = served.ask(page=page, seconds=seconds / 4, cookies=mine.cookies)
                written += warm["requests"] * (each == "mine" and page == "write")
            for number in range(rounds):
                order = [("bare", bare), ("mine", mine)]
                for each, served in order if number % 2 else reversed(order):
                    slices[each].append(
                        served.ask(page=page, seconds=seconds, cookies=mine.cookies)
                    )
                tick()
            written += sum(each["requests"] for each in slices["mine"]) * (page == "write")
            ratios = [
                ours["per_second"] / theirs["per_second"]
                for ours, theirs in zip(slices["mine"], slices["bare"], strict=True)
            ]
            found[page] = {
                "bare": median(each["per_second"] for each in slices["bare"]),
                "mine": median(each["per_second"] for each in slices["mine"]),
                "ratio": median(ratios),
                "p50": median(each["p50"] for each in slices["mine"]),
                "p99": median(each["p99"] for each in slices["mine"]),
                "busy": max(each["busy"] for both in slices.values() for each in both),
            }
        if "cookie" not in contender.name:
            there = mine.ask(page="show", cookies=mine.cookies)["n"]
            if there != written:
                raise Failed(f"{written} writes were acknowledged, {there} are there")
    return found


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _until_open(port: int, server: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise Failed("the server did not start; see the log")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Failed("the server did not open its port")
