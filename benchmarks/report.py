"""The report: every section as text for a terminal, or between the marks of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import fleet, part_tables, request_tables, targets
from .text import Table, aligned, markdown

Section = tuple[str, str, tuple[str, ...], Callable[[dict[str, Any]], Table]]
"""Mark in the page, title on a terminal, the parts it needs, how it is made."""

_SECTIONS: tuple[Section, ...] = (
    (
        "asgi", "ASGI: added µs a request, lowest (median); req/s of the whole app",
        ("requests",), lambda results: request_tables.in_process(results, "asgi"),
    ),
    (
        "wsgi", "WSGI: the same",
        ("requests",), lambda results: request_tables.in_process(results, "wsgi"),
    ),
    ("ratios", "Ratios on Starlette", ("requests",), request_tables.ratios),
    ("wsgi-ratios", "Ratios on WSGI", ("requests",), request_tables.wsgi_ratios),
    ("served", "uvicorn, one worker, 32 connections", ("server",), request_tables.served),
    ("scale", "Growth with the table: µs a statement", ("scale",), part_tables.growth),
    ("purge", "Requests beside a purge", ("purge",), part_tables.purging),
    ("sizes", "Sizes", (), part_tables.session),
    ("budget", "The cache's budget", ("memory",), part_tables.budget),
    ("settings", "What settings cost", ("requests",), request_tables.settings),
    ("bare", "Bare applications", ("requests",), request_tables.bare),
    ("facts", "What was seen", ("requests",), request_tables.facts),
    ("givens", "A fleet: what is given", (), fleet.givens),
    ("fleet", "A fleet", (), fleet.table),
    ("targets", "Goals", (), targets.table),
)  # fmt: skip


def about(results: dict[str, Any]) -> str:
    """Where, when and how; each part says so itself, as they may be of different runs."""
    first = next(iter(results.values()))
    here = first["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
    build = "" if here["optimized"] else ", built without optimizations"
    postgres, redis = here["postgres"] or "not there", here["redis"] or "not there"
    runs: dict[str, list[str]] = {}
    for part, found in results.items():
        runs.setdefault(_run(found["machine"]), []).append(part)
    said = "; ".join(f"{', '.join(names)}: {run}" for run, names in runs.items())
    if len(runs) == 1:
        said = next(iter(runs))
    return (
        f"{said[:1].upper()}{said[1:]}. {here['cores']} cores, {here['cpu']}, {here['system']}. "
        f"Python {here['python']}{build}, SQLite {here['sqlite']}, PostgreSQL {postgres}, "
        f"Redis {redis}. {_efforts(results)}{packages}."
    )


def _run(here: dict[str, Any]) -> str:
    changed = " with changes" if here["changed"] else ""
    load = here["load_before"]
    return f"{here['date']}, commit {here['commit']}{changed}, load average before it {load}"


def _efforts(results: dict[str, Any]) -> str:
    parts = []
    if "requests" in results:
        effort = results["requests"]["effort"]
        parts.append(f"{effort['rounds']} rounds of {effort['seconds'] * 1000:.0f} ms")
    if "server" in results:
        effort = results["server"]["effort"]
        rounds, seconds = effort["served_rounds"], effort["served_seconds"]
        served = results["server"]["served"].values()
        busy = max((page["busy"] for each in served for page in each.values()), default=0.0)
        parts.append(
            f"over a server {rounds} of {seconds:g} s, the load generator busy for at most "
            f"{busy:.0%} of it"
        )
    said = "; ".join(parts)
    return f"{said[:1].upper()}{said[1:]}. " if parts else ""


def terminal(results: dict[str, Any]) -> str:
    text = [about(results)]
    for _, title, parts, make in _SECTIONS:
        if all(part in results for part in parts):
            head, rows = make(results)
            if rows:
                text.append(f"{title}\n{aligned(head, rows)}")
    text += [f"not measured: {name}: {why}" for name, why in missing(results).items()]
    return "\n\n".join(text)


def into_docs(results: dict[str, Any], page: Path) -> None:
    """Put the tables between the page's marks."""
    text = page.read_text()
    made = {"about": about(results)}
    for mark, _, parts, make in _SECTIONS:
        table: Table = ([], [])
        if all(part in results for part in parts):
            table = make(results)
        made[mark] = markdown(*table)
    problems = "\n".join(f"- {name}: {why}" for name, why in missing(results).items())
    made["failed"] = problems or "All contenders ran."
    for name, part in made.items():
        text = filled(text, name, part)
    page.write_text(text)


def filled(text: str, name: str, part: str) -> str:
    """The page with this part between its marks."""
    marked = re.compile(rf"(<!-- measured: {name} -->\n).*?(\n<!-- end of {name} -->)", re.S)
    place = marked.search(text)
    if place is None:
        raise SystemExit(f"the page has no place for {name}")
    return text[: place.end(1)] + part + text[place.start(2) :]


def missing(results: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in results.values():
        found |= part.get("left_out", {}) | part["failed"]
    return found
