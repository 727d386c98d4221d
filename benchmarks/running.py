"""The run of all requests: workers are set up, timed in turns, checked, and ended; then parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from . import machine, parts, serving
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


QUICK = Effort(rounds=5, seconds=0.012, served_rounds=2, served_seconds=1.0)
FULL = Effort(rounds=31, seconds=0.02, served_rounds=5, served_seconds=2.0)


class Run:
    def __init__(
        self,
        contenders: Sequence[Contender],
        scenarios: Sequence[Scenario],
        effort: Effort,
        sizes: parts.Sizes,
        folder: Path,
        chosen: Sequence[str],
    ) -> None:
        """``chosen`` names the parts, in the order of ``parts.ALL``."""
        self.about = machine.describe()
        there = {name for name in ("postgres", "redis") if self.about[name]}
        self.failed: dict[str, str] = {}
        self._skipped: set[tuple[str, str]] = set()
        self.left_out = {
            each.name: f"{', '.join(missing)} does not answer"
            for each in contenders
            if (missing := set(each.needs) - there)
        }
        there_are = [each for each in contenders if each.name not in self.left_out]
        self.contenders = [each for each in there_are if not each.frozen]
        self.scenarios, self.effort, self.sizes = scenarios, effort, sizes
        self.folder, self._chosen = folder, chosen
        self._postgres = "postgres" in there
        self._served = [each for each in there_are if each.served]
        total = 0
        if "requests" in chosen:
            total += len(self.contenders) * (1 + len(scenarios) * effort.rounds)
        if "server" in chosen:
            total += len(self._served) * len(serving.PAGES) * effort.served_rounds * 20
        total += sum(parts.steps(part, sizes) * 20 for part in chosen if part in parts.APART)
        self.progress = Progress(total)

    def run(self) -> dict[str, Any]:
        """The results of each part, by its name."""
        found: dict[str, Any] = {}
        machine.sweep()
        try:
            for part in self._chosen:
                self.failed = {}
                found[part] = self._part(part) | {"failed": self.failed}
        finally:
            self.progress.end()
            machine.sweep()
        return found

    def _part(self, part: str) -> dict[str, Any]:
        about = {"machine": self.about, "effort": vars(self.effort)}
        match part:
            case "requests":
                return {**about, "left_out": self.left_out, **self._in_process()}
            case "server":
                return {**about, "served": self._over_a_server()}
        tick = partial(self.progress.step, by=20)
        result = parts.measure(part, self.sizes, self.folder, postgres=self._postgres, tick=tick)
        for name, problem in result.pop("failed").items():
            self._fail(f"{part} of {name}", problem)
        return {"machine": self.about, **result}

    def _fail(self, name: str, problem: Exception | str) -> None:
        self.failed[name] = str(problem)
        self.progress.say(f"{name}: {problem}")

    def _in_process(self) -> dict[str, Any]:
        workers: dict[str, Worker] = {}
        found: dict[str, Any] = {"facts": {}, "in_process": {}}
        try:
            for each in self.contenders:
                workers[each.name] = Worker(each, self.folder)
                # One after the other: on two cores they only get into each other's way.
                with self._losing(workers, each.name):
                    facts = workers[each.name].ask("build")
                    found["facts"][each.name] = facts
                    if not facts["alive"]:
                        self.progress.say(f"{each.name}: its channel did not come up")
                self.progress.step(f"validate {each.name}")
            for scenario in self.scenarios:
                for name, times in self._scenario(scenario, workers).items():
                    found["in_process"].setdefault(name, {})[scenario.name] = times
            for name in list(workers):
                with self._losing(workers, name):
                    found["facts"][name] |= workers[name].ask("check")
        finally:
            for worker in workers.values():
                worker.end()
        return found

    @contextmanager
    def _losing(
        self, workers: dict[str, Worker], name: str, scenario: Scenario | None = None
    ) -> Iterator[None]:
        """A contender that fails is left out, of this scenario or of all, and named at the end."""
        try:
            yield
        except Failed as problem:
            if scenario is not None and workers[name].is_alive:
                self._skipped.add((name, scenario.name))
                self._fail(f"{name}, {scenario.title}", problem)
            else:
                self._fail(name, problem)
                workers.pop(name).end()

    def _scenario(self, scenario: Scenario, workers: dict[str, Worker]) -> dict[str, Any]:
        slices: dict[str, list[dict[str, float]]] = {}
        for number in range(self.effort.rounds):
            names = [
                name
                for name in workers
                if scenario.name not in workers[name].contender.skips
                and (name, scenario.name) not in self._skipped
            ]
            # Everybody is at another place in each round.
            at = number % max(1, len(names))
            for name in names[at:] + names[:at]:
                with self._losing(workers, name, scenario):
                    taken = workers[name].ask(
                        "round",
                        name=scenario.name,
                        seconds=self.effort.seconds * scenario.windows,
                        bare_first=bool(number % 2),
                    )
                    slices.setdefault(name, []).append(taken)
                self.progress.step(f"{scenario.title}: {name}")
        return {
            name: _summary(rounds)
            for name, rounds in slices.items()
            if (name, scenario.name) not in self._skipped
        }

    def _over_a_server(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in self._served:
            with suppress(OSError):
                # Written by the first part; the second is to begin empty.
                for file in self.folder.glob(f"*{each.name.replace('-', '_')}.db*"):
                    file.unlink()
            try:
                found[each.name] = serving.serve(
                    each,
                    self.folder,
                    self.effort.served_rounds,
                    self.effort.served_seconds,
                    partial(self.progress.step, f"uvicorn: {each.name}", 20),
                )
            except (Failed, OSError) as problem:
                self._fail(f"{each.name} over uvicorn", problem)
        return found


def _summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    bare = [each["bare"] for each in rounds]
    mine = [each["mine"] for each in rounds]
    return {
        "bare": {"min": min(bare), "median": median(bare)},
        "whole": {"min": min(mine), "median": median(mine)},
        "added": {
            "min": min(mine) - min(bare),
            "median": median(m - b for m, b in zip(mine, bare, strict=True)),
        },
    }
