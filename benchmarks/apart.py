"""A measurement in a process of its own: what it leaves in memory or in caches is nobody else's.

    python -m benchmarks.apart MODULE < an order in JSON

The module's ``measure`` gets the order as keywords, and ``tick`` to say how far it is.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .workers import ROOT, Failed


def apart(module: str, folder: Path, tick: Callable[[str], None], **order: Any) -> dict[str, Any]:
    """Have a module measure, in a child process."""
    with (folder / f"{module}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.apart", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            return _heard(process, module, tick, {"folder": str(folder), **order})
        finally:
            process.kill()
            process.wait()


def _heard(
    process: subprocess.Popen[str], module: str, tick: Callable[[str], None], order: dict[str, Any]
) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order))
    process.stdin.close()
    for line in process.stdout:
        answer = json.loads(line)
        if "step" in answer:
            tick(answer["step"])
        elif "error" in answer:
            raise Failed(answer["error"])
        else:
            found: dict[str, Any] = answer["found"]
            return found
    raise Failed(f"{module}: its process died; see its log")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # Whatever a library prints is no answer.
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    order = json.load(sys.stdin)
    order["folder"] = Path(order["folder"])
    module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    try:
        found = module.measure(**order, tick=lambda what: say(step=what))
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
        raise
    say(found=found)


if __name__ == "__main__":
    main()
