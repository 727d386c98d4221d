"""What the project set itself, and how far it is: each goal, the worst row, whether it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from . import figures, memory, purge, scale
from .scenarios import SCENARIOS
from .text import Table, number

OURS = (
    "sessionware-sqlite", "sessionware-sqlite-full", "sessionware-aiosqlite",
    "sessionware-psycopg", "sessionware-asyncpg",
)  # fmt: skip
"""On ASGI, coherent, at their defaults."""
FLOORS = {each: each.replace("sessionware", "floor") for each in OURS}
WSGI_FLOORS = {
    "sessionware-wsgi-sqlite": "floor-wsgi-sqlite",
    "sessionware-wsgi-psycopg": "floor-wsgi-psycopg",
}
FLASK_SESSION = ("flask-session-redis", "flask-session-sqlite", "flask-session-filesystem")
BEAKER = ("beaker-file", "beaker-sqlite")
Sign = Literal["≤", "<", "≥", ">", "="]


@dataclass(frozen=True)
class Target:
    what: str
    sign: Sign
    goal: float
    values: dict[str, float]
    """By the name of the row."""
    unit: str = ""

    def meets(self, value: float) -> bool:
        match self.sign:
            case "≤":
                return value <= self.goal
            case "<":
                return value < self.goal
            case "≥":
                return value >= self.goal
            case ">":
                return value > self.goal
            case _:
                return value == self.goal

    @property
    def worst(self) -> tuple[str, float]:
        """The row that is furthest from the goal, or nearest to missing it."""
        low = self.sign in ("≥", ">")
        return sorted(self.values.items(), key=lambda item: item[1], reverse=not low)[0]


Figure = Callable[[str], float | None]


def targets(results: dict[str, Any]) -> list[Target]:
    """All of them, those without a value left out."""
    return [each for each in _all(results) if each.values]


def _all(results: dict[str, Any]) -> Iterator[Target]:
    def added(name: str, scenario: str) -> float | None:
        return figures.in_process(results, name, scenario)

    def over(scenario: str, other: str) -> Figure:
        return lambda name: figures.over(added(name, scenario), added(other, scenario))

    def of_floor(scenario: str, floors: dict[str, str]) -> Figure:
        return lambda name: over(scenario, floors[name])(name)

    def quicker(other: str) -> Figure:
        """Requests a second, ours over theirs."""
        return lambda name: figures.over(
            figures.per_second(results, name, "writes64"),
            figures.per_second(results, other, "writes64"),
        )

    def row(what: str, sign: Sign, goal: float, figure: Figure, names: Any = OURS) -> Target:
        return Target(what, sign, goal, figures.measured(names, figure))

    cookie = "Starlette's cookie"
    for scenario, goal in (("read", 0.4), ("untouched", 0.25), ("anonymous", 1), ("forged", 0.5)):
        title = next(each.title for each in SCENARIOS if each.name == scenario)
        yield row(f"{title} / {cookie}", "≤", goal, over(scenario, "starlette-cookie"))
    yield row("write / floor", "≤", 1.3, of_floor("write", FLOORS))
    yield row("write / floor, WSGI", "≤", 1.3, of_floor("write", WSGI_FLOORS), names=WSGI_FLOORS)
    yield row(f"64 writes a second / {cookie}", ">", 1, quicker("starlette-cookie"))
    yield row("cold read / floor", "≤", 1.3, of_floor("cold", FLOORS))
    yield row("cold read / floor, WSGI", "≤", 1.3, of_floor("cold", WSGI_FLOORS), names=WSGI_FLOORS)
    yield row("SELECTs for 500 cold readers", "=", 1, lambda n: figures.selects(results, n))
    yield row("warm read / starsessions, Redis", "≤", 1 / 40, over("read", "starsessions-redis"))
    yield row("write / starsessions, Redis", "≤", 1, over("write", "starsessions-redis"))
    yield row("server: reads, of bare", "≥", 0.75, lambda n: figures.served(results, n, "read"))
    yield row(
        f"server: writes / {cookie}", ">", 1,
        lambda name: figures.over(
            figures.served(results, name, "write"),
            figures.served(results, "starlette-cookie", "write"),
        ),
    )  # fmt: skip
    yield row(
        "Flask: warm read / its cookie", "<", 1, over("read", "flask-cookie"),
        ("sessionware-flask-sqlite", "sessionware-flask-psycopg"),
    )  # fmt: skip
    yield from _beaten(results, "Flask-Session", "sessionware-flask-sqlite", FLASK_SESSION)
    yield from _beaten(results, "Beaker", "sessionware-wsgi-sqlite", BEAKER)
    for operation in scale.OPERATIONS[:3]:
        yield row(
            f"{operation}: growth to the most rows / the raw driver's", "≤", 1.2,
            lambda store, of=operation: figures.grows(results, store, of),  # type: ignore[misc]
            tuple(scale.STORES),
        )  # fmt: skip
    yield Target(
        "p99 moved by a purge", "≤", 20,
        figures.measured(purge.STORES, lambda name: figures.moved(results, name)), " ms",
    )  # fmt: skip
    yield Target(
        "memory of a cached session", "≤", 1200,
        figures.measured(("allocated", "resident"), lambda n: figures.cached_bytes(results, n)),
        " bytes",
    )  # fmt: skip
    for how in ("allocated", "resident"):
        above = figures.measured(
            memory.CASES,
            lambda case, how=how: figures.above_budget(results, case, how),  # type: ignore[misc]
        )
        percent = {case: value * 100 for case, value in above.items()}
        yield Target(f"cache memory above its budget, {how}", "≤", 10, percent, " %")


def _beaten(
    results: dict[str, Any], whom: str, ours: str, theirs: tuple[str, ...]
) -> Iterator[Target]:
    """Ours over theirs in each column, the worst of them."""
    values: dict[str, float] = {}
    for other in theirs:
        for each in SCENARIOS:
            of = "whole" if each.per_second else "added"
            one, two = (figures.in_process(results, n, each.name, of) for n in (ours, other))
            value = figures.over(one, two)
            if value is not None:
                values[f"{other}, {each.title}"] = value
    yield Target(f"{ours} / {whom}, every column", "<", 1, values)


def table(results: dict[str, Any]) -> Table:
    rows = []
    for each in targets(results):
        name, value = each.worst
        met = sum(map(each.meets, each.values.values()))
        verdict = "met" if met == len(each.values) else f"{met} of {len(each.values)}"
        shown = _shown(value, each.unit)
        rows.append(
            [each.what, f"{each.sign} {_shown(each.goal, each.unit)}", shown, name, verdict]
        )
    return ["", "goal", "the worst", "which is", "met by"], rows


def _shown(value: float, unit: str) -> str:
    if unit:
        return f"{number(value)}{unit}"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.{3 if value < 0.1 else 2}f}"
