"""The whole run: workers are set up, timed in turns, checked, and ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from . import machine, serving, sizing
from .contenders import Contender
from .progress import Progress
from .scenarios import Scenario
from .workers import Failed, Worker


@dataclass(frozen=True)
class Effort:
    rounds: int
    seconds: float
    """Of one slice."""
    served_rounds: int
    served_seconds: float
    sizing_rows: int


QUICK = Effort(rounds=5, seconds=0.012, served_rounds=2, served_seconds=1.0, sizing_rows=0)
FULL = Effort(rounds=31, seconds=0.02, served_rounds=5, served_seconds=2.0, sizing_rows=100_000)


class Run:
    def __init__(
        self,
        contenders: Sequence[Contender],
        scenarios: Sequence[Scenario],
        effort: Effort,
        folder: Path,
        *,
        served: bool,
    ) -> None:
        about = machine.describe()
        there = {name for name in ("postgres", "redis") if about[name]}
        self.failed: dict[str, str] = {}
        self._left_out: set[tuple[str, str]] = set()
        left_out = {
            each.name: f"{', '.join(missing)} does not answer"
            for each in contenders
            if (missing := set(each.needs) - there)
        }
        self.contenders = [each for each in contenders if each.name not in left_out]
        self.scenarios, self.effort, self.folder = scenarios, effort, folder
        self._served = [each for each in self.contenders if each.served and served]
        self._postgres = "postgres" in there
        total = len(self.contenders) * (1 + len(scenarios) * effort.rounds)
        total += len(self._served) * len(serving.PAGES) * effort.served_rounds * 20
        total += effort.sizing_rows // 5_000 * 4
        self.progress = Progress(total)
        self.results: dict[str, Any] = {
            "machine": about,
            "effort": vars(effort),
            "left_out": left_out,
            "failed": self.failed,
            "facts": {},
            "in_process": {},
            "served": {},
        }

    def run(self) -> dict[str, Any]:
        machine.sweep()
        try:
            self._in_process()
            self._over_a_server()
            if self.effort.sizing_rows:
                self.results["sizing"] = sizing.measure(
                    self.folder,
                    self.effort.sizing_rows,
                    postgres=self._postgres,
                    tick=lambda what: self.progress.step(what, 4),
                )
        finally:
            self.progress.end()
            machine.sweep()
        return self.results

    def _fail(self, name: str, problem: Exception) -> None:
        self.failed[name] = str(problem)
        self.progress.say(f"{name}: {problem}")

    def _in_process(self) -> None:
        workers: dict[str, Worker] = {}
        try:
            for each in self.contenders:
                workers[each.name] = Worker(each, self.folder)
                # One after the other: on two cores they only get into each other's way.
                with self._losing(workers, each.name):
                    facts = workers[each.name].ask("build")
                    self.results["facts"][each.name] = facts
                    if not facts["alive"]:
                        self.progress.say(f"{each.name}: its channel did not come up")
                self.progress.step(f"validate {each.name}")
            for scenario in self.scenarios:
                self._scenario(scenario, workers)
            for name in list(workers):
                with self._losing(workers, name):
                    self.results["facts"][name] |= workers[name].ask("check")
        finally:
            for worker in workers.values():
                worker.end()

    @contextmanager
    def _losing(
        self, workers: dict[str, Worker], name: str, scenario: Scenario | None = None
    ) -> Iterator[None]:
        """A contender that fails is left out, of this scenario or of all, and named at the end."""
        try:
            yield
        except Failed as problem:
            if scenario is not None and workers[name].is_alive:
                self._left_out.add((name, scenario.name))
                self._fail(f"{name}, {scenario.title}", problem)
            else:
                self._fail(name, problem)
                workers.pop(name).end()

    def _scenario(self, scenario: Scenario, workers: dict[str, Worker]) -> None:
        slices: dict[str, list[dict[str, float]]] = {}
        for number in range(self.effort.rounds):
            names = [
                name
                for name in workers
                if scenario.name not in workers[name].contender.skips
                and (name, scenario.name) not in self._left_out
            ]
            # Everybody is at another place in each round.
            at = number % max(1, len(names))
            for name in names[at:] + names[:at]:
                with self._losing(workers, name, scenario):
                    taken = workers[name].ask(
                        "round",
                        name=scenario.name,
                        seconds=self.effort.seconds,
                        bare_first=bool(number % 2),
                    )
                    slices.setdefault(name, []).append(taken)
                self.progress.step(f"{scenario.title}: {name}")
        for name, rounds in slices.items():
            if (name, scenario.name) in self._left_out:
                continue
            bare = [each["bare"] for each in rounds]
            mine = [each["mine"] for each in rounds]
            self.results["in_process"].setdefault(name, {})[scenario.name] = {
                "bare": {"min": min(bare), "median": median(bare)},
                "whole": {"min": min(mine), "median": median(mine)},
                "added": {
                    "min": min(mine) - min(bare),
                    "median": median(m - b for m, b in zip(mine, bare, strict=True)),
                },
            }

    def _over_a_server(self) -> None:
        for each in self._served:
            if each.name in self.failed:
                continue
            with suppress(OSError):
                # Written by the first part; the second is to begin empty.
                for file in self.folder.glob(f"*{each.name.replace('-', '_')}.db*"):
                    file.unlink()
            try:
                self.results["served"][each.name] = serving.serve(
                    each,
                    self.folder,
                    self.effort.served_rounds,
                    self.effort.served_seconds,
                    partial(self.progress.step, f"uvicorn: {each.name}", 20),
                )
            except (Failed, OSError) as problem:
                self._fail(f"{each.name} over uvicorn", problem)
