"""The other end of worker.py: starts the processes, gives them orders, hears their answers."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from .contenders import Contender

ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A contender could not be set up, did something wrong, or its process died."""


class Worker:
    def __init__(self, contender: Contender, folder: Path) -> None:
        self.contender = contender
        self.found: dict[str, Any] = {}
        command = [sys.executable, "-m", "benchmarks.worker", contender.name, str(folder)]
        self._log = (folder / f"{contender.name}.log").open("w")
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
        )

    def order(self, verb: str, **details: Any) -> None:
        """Give an order; the answer is fetched later, so that several can be at work."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": verb, **details}) + "\n")

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed("its process died; see its log")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def ask(self, verb: str, **details: Any) -> dict[str, Any]:
        self.order(verb, **details)
        return self.answer()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        assert self._process.stdin is not None
        self.order("close")
        with suppress(Failed):
            self.answer()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
