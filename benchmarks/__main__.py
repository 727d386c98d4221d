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
from .contenders import CONTENDERS, Contender
from .parts import ALL, REQUESTS, Sizes
from .running import FULL, QUICK, Run
from .scenarios import SCENARIOS
from .workers import ROOT

PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "performance.svg"
_QUICKLY_SERVED = ("sessionware-sqlite", "sessionware-psycopg", "starlette-cookie")


def main() -> None:
    given = _arguments()
    results = json.loads(given.reuse.read_text()) if given.reuse else _rounded(_measure(given))
    failed = [name for part in results.values() for name in part["failed"]]
    if given.keep and given.json is not None and given.json.exists():
        results = _in_order(json.loads(given.json.read_text()) | results)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    if given.docs:
        report.into_docs(results, PAGE)
        if "requests" in results:
            plot.draw(results["requests"], PICTURE)
    print(report.terminal(results))
    if failed:
        raise SystemExit(1)


def _in_order(results: dict[str, Any]) -> dict[str, Any]:
    return {part: results[part] for part in ALL if part in results}


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    effort, sizes = (QUICK if given.quick else FULL), Sizes()
    if given.rounds:
        effort = replace(effort, rounds=given.rounds, served_rounds=max(1, given.rounds // 4))
        sizes = replace(sizes, windows=given.rounds)
    if given.rows:
        sizes = replace(sizes, rows=tuple(sorted(given.rows)))
    if given.calls:
        sizes = replace(sizes, calls=given.calls)
    if given.expired:
        sizes = replace(sizes, expired=given.expired)
    if given.fills:
        sizes = replace(sizes, fills=given.fills)
    wanted = given.parts or (REQUESTS if given.quick or given.only else ALL)
    chosen = [part for part in ALL if part in wanted and part not in (given.without or ())]
    scenarios = [each for each in SCENARIOS if not given.scenarios or each.name in given.scenarios]
    # On the disk that the checkout is on: what is in memory costs no fsync.
    (ROOT / "build").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "build"))
    os.environ.setdefault("PYTHONHASHSEED", "0")
    run = Run(_contenders(given), scenarios, effort, sizes, folder, chosen)
    results: dict[str, Any] = {}
    try:
        results = run.run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        if any(part["failed"] for part in results.values()):
            run.progress.say(f"the logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return results


def _contenders(given: argparse.Namespace) -> list[Contender]:
    chosen = [
        each
        for each in CONTENDERS
        if (each.quick or not given.quick or given.only)
        and (not given.only or any(part in each.name for part in given.only))
    ]
    if given.quick and not given.only:
        chosen = [replace(each, served=each.name in _QUICKLY_SERVED) for each in chosen]
    return chosen


def _rounded(value: Any) -> Any:
    """Nobody needs nanoseconds."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer contenders and rounds: under two minutes")
    add("--parts", nargs="+", choices=ALL, help="measure these only")
    add("--without", nargs="+", choices=ALL, help="leave these out")
    add("--only", action="append", help="contenders whose name has this in it (repeatable)")
    add("--scenarios", nargs="*", choices=[each.name for each in SCENARIOS], metavar="NAME")
    add("--rounds", type=int, help="rounds in place of the usual number")
    add("--rows", type=int, nargs="+", help="scale: the sizes of the table")
    add("--calls", type=int, help="scale: statements of each kind")
    add("--expired", type=int, help="purge: how many rows")
    add("--fills", type=int, help="memory: sessions pushed through the cache, up to 10,000,000")
    add("--json", type=Path, help="write the results here")
    add("--keep", action="store_true", help="keep what that file has of parts not measured now")
    add("--docs", action="store_true", help=f"write tables and plot into {PAGE.parent.name}/")
    add("--reuse", type=Path, help="take the results from this file in place of measuring")
    return parser.parse_args()


if __name__ == "__main__":
    main()
