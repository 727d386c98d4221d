"""Compare sessionware with others on this machine: `make bench`, `make bench-quick`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import plot, report
from .contenders import CONTENDERS
from .running import FULL, QUICK, Run
from .scenarios import SCENARIOS
from .workers import ROOT

PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "performance.svg"


def main() -> None:
    given = _arguments()
    results = json.loads(given.reuse.read_text()) if given.reuse else _measure(given)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(_rounded(results), indent=1) + "\n")
    if given.docs:
        report.into_docs(results, PAGE)
        plot.draw(results, PICTURE)
    print(report.terminal(results))
    if results["failed"]:
        raise SystemExit(1)


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    effort = QUICK if given.quick else FULL
    if given.rounds:
        effort = replace(effort, rounds=given.rounds, served_rounds=max(1, given.rounds // 4))
    if given.only:
        effort = replace(effort, sizing_rows=0)
    contenders = [
        each
        for each in CONTENDERS
        if (each.quick or not given.quick or given.only)
        and (not given.only or any(part in each.name for part in given.only))
    ]
    scenarios = [
        each
        for each in SCENARIOS
        if (each.quick or not given.quick) and (not given.scenarios or each.name in given.scenarios)
    ]
    if given.quick and not given.only:
        served = ("sessionware-sqlite", "sessionware-psycopg", "starlette-cookie")
        contenders = [replace(each, served=each.name in served) for each in contenders]
    # On the disk that the checkout is on: what is in memory costs no fsync.
    (ROOT / "build").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "build"))
    os.environ.setdefault("PYTHONHASHSEED", "0")
    run = Run(contenders, scenarios, effort, folder, served=not given.no_server)
    try:
        results = run.run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        if run.failed:
            run.progress.say(f"the contenders' logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return results


def _rounded(value: Any) -> Any:
    """Nobody needs nanoseconds."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer contenders and rounds: under two minutes")
    add("--only", action="append", help="contenders whose name has this in it (repeatable)")
    add("--scenarios", nargs="*", choices=[each.name for each in SCENARIOS], metavar="NAME")
    add("--rounds", type=int, help="rounds in place of the usual number")
    add("--no-server", action="store_true", help="leave out the runs over uvicorn")
    add("--json", type=Path, help="write the results here")
    add("--docs", action="store_true", help=f"write tables and plot into {PAGE.parent.name}/")
    add("--reuse", type=Path, help="take the results from this file in place of measuring")
    return parser.parse_args()


if __name__ == "__main__":
    main()
