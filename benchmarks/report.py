"""Tables from results: plain text for a terminal, Markdown for the documentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .contenders import CONTENDERS, FULL, NORMAL, PG, Contender
from .scenarios import SCENARIOS, Scenario

Rows = list[list[str]]
GROUPS: dict[str, tuple[str, ...]] = {
    "asgi": ("starlette", "litestar"),
    "wsgi": ("wsgi", "flask", "django"),
}
_FLOORS = {NORMAL: "floor-sqlite", FULL: "floor-sqlite-full", PG: "floor-psycopg"}
_BASES = {
    "starlette": "Starlette", "litestar": "Litestar", "wsgi": "plain WSGI", "flask": "Flask",
    "django": "Django",
}  # fmt: skip


def number(value: float) -> str:
    """Three digits that mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def in_process(results: dict[str, Any], group: str) -> tuple[list[str], Rows]:
    """Added µs, lowest (median); requests a second of the whole application where that is asked."""
    scenarios = [each for each in SCENARIOS if _is_measured(results, each)]
    head = ["", "data is in", *(_title(each) for each in scenarios)]
    rows = []
    for each in _measured(results, group):
        cells = [_cell(results["in_process"][each.name].get(s.name), s) for s in scenarios]
        rows.append([each.name, each.stores, *cells])
    return head, rows


def bare(results: dict[str, Any]) -> tuple[list[str], Rows]:
    found: dict[str, list[float]] = {}
    for each in CONTENDERS:
        for measured in results["in_process"].get(each.name, {}).values():
            found.setdefault(each.base, []).append(measured["bare"]["min"])
    rows = [[_BASES[base], number(min(values))] for base, values in found.items()]
    return ["bare application", "µs a request"], rows


TARGETS = ("read", "untouched", "anonymous", "forged")


def ratios(results: dict[str, Any]) -> tuple[list[str], Rows]:
    """What ours add on Starlette, over what its cookie middleware and the floor add."""
    head = ["", *(f"{_named(name)} / cookie" for name in TARGETS), "64 writes/s / cookie"]
    head += ["write / floor", "cold / floor", "read / floor", "read / Redis", "write / Redis"]
    goals = ["≤ 0.4", "≤ 0.25", "≤ 1.0", "≤ 0.5", "> 1", "≤ 1.3", "≤ 1.3", "", "≤ 0.025", "≤ 1"]
    rows: Rows = [["goal", *goals]]
    for each in _measured(results, "asgi"):
        if each.base != "starlette" or each.name.startswith("floor"):
            continue
        cells = [_ratio(results, each.name, "starlette-cookie", name) for name in TARGETS]
        cells.append(_ratio(results, "starlette-cookie", each.name, "writes64", "whole"))
        floor = _FLOORS.get(each.stores, "none")
        cells += [_ratio(results, each.name, floor, name) for name in ("write", "cold", "read")]
        cells += [_ratio(results, each.name, "starsessions-redis", n) for n in ("read", "write")]
        rows.append([each.name, *cells])
    return head, rows


def wsgi_ratios(results: dict[str, Any]) -> tuple[list[str], Rows]:
    """The same kinds of store on the same framework, ours first."""
    pairs = [
        ("sessionware-flask-sqlite", "flask-cookie"),
        ("sessionware-flask-sqlite", "flask-session-redis"),
        ("sessionware-flask-sqlite", "flask-session-sqlite"),
        ("sessionware-flask-sqlite", "flask-session-filesystem"),
        ("sessionware-wsgi-sqlite", "beaker-file"),
        ("sessionware-wsgi-sqlite", "beaker-sqlite"),
        ("sessionware-django-sqlite", "django-cached_db-sqlite"),
        ("sessionware-django-sqlite", "django-db-sqlite"),
        ("sessionware-django-psycopg", "django-cached_db-psycopg"),
    ]
    scenarios = [s for s in SCENARIOS if not s.per_second and _is_measured(results, s)]
    head = ["ours / theirs", *(each.title for each in scenarios), "64 writes/s, theirs / ours"]
    rows = []
    for ours, theirs in pairs:
        if ours in results["in_process"] and theirs in results["in_process"]:
            cells = [_ratio(results, ours, theirs, each.name) for each in scenarios]
            cells.append(_ratio(results, ours, theirs, "writes64", "whole"))
            rows.append([f"{ours} / {theirs}", *cells])
    return head, rows


def served(results: dict[str, Any]) -> tuple[list[str], Rows]:
    head = ["", "data is in"]
    for page in ("read", "write"):
        head += [f"{page}/s", "bare/s", "of bare", "p50 ms", "p99 ms"]
    rows = []
    for each in CONTENDERS:
        found = results["served"].get(each.name)
        if found is None:
            continue
        row = [each.name, each.stores]
        for page in ("read", "write"):
            one = found[page]
            row += [number(one["mine"]), number(one["bare"]), f"{one['ratio']:.2f}"]
            row += [f"{one['p50']:.1f}", f"{one['p99']:.1f}"]
        rows.append(row)
    return head, rows


def facts(results: dict[str, Any]) -> tuple[list[str], Rows]:
    head = ["", "coherence", "logout ends a copied cookie", "a read sends Set-Cookie"]
    head += ["acknowledged writes, all found", "SELECTs for 500 cold readers"]
    rows = []
    for each in CONTENDERS:
        found = results["facts"].get(each.name)
        if found is not None:
            mode = found.get("coherence", "")
            shown = [
                mode if found["alive"] or mode == "validate" else f"{mode}, which was down",
                _yes(found["logout ends a copied cookie"]),
            ]
            shown += [_yes(found["a read sends Set-Cookie"])]
            counted = "" if "cookie" in each.name else str(found.get("writes found", ""))
            shown += [counted, str(found.get("SELECTs of a stampede", ""))]
            rows.append([each.name, *shown])
    return head, rows


def sizes(results: dict[str, Any]) -> tuple[list[str], Rows]:
    found = results.get("sizing", {})
    rows = [
        [f"a session in {store}, rows and indexes", number(found[key]["bytes_per_session"])]
        for store, key in (("SQLite", "sqlite"), ("PostgreSQL", "postgresql"))
        if key in found
    ]
    if rows:
        rows.insert(0, ["its record in the column `data`", number(found["data_bytes"])])
        rows += [
            ["a session in a process's cache", number(found["cache_bytes_per_session"])],
            ["the same as `cache_max_bytes` counts it", number(found["counted_bytes_per_session"])],
        ]
    return ["of the 0.5 KB session", "bytes"], rows


def about(results: dict[str, Any]) -> str:
    here, effort = results["machine"], results["effort"]
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
    changed = " with changes" if here["changed"] else ""
    build = "" if here["optimized"] else ", built without optimizations"
    postgres, redis = here["postgres"] or "not there", here["redis"] or "not there"
    return (
        f"{here['date']}, commit {here['commit']}{changed}. {here['cores']} cores, {here['cpu']}, "
        f"{here['system']}; load average before the run {here['load_before']}. Python "
        f"{here['python']}{build}, SQLite {here['sqlite']}, PostgreSQL {postgres}, Redis {redis}. "
        f"{effort['rounds']} rounds of {effort['seconds'] * 1000:.0f} ms; over a server "
        f"{effort['served_rounds']} of {effort['served_seconds']:g} s. {packages}."
    )


def terminal(results: dict[str, Any]) -> str:
    parts = [about(results)]
    for title, (head, rows) in _sections(results).items():
        if rows:
            parts.append(f"{title}\n{_aligned(head, rows)}")
    parts += [f"not measured: {name}: {why}" for name, why in _missing(results).items()]
    return "\n\n".join(parts)


def _sections(results: dict[str, Any]) -> dict[str, tuple[list[str], Rows]]:
    return {
        "ASGI: added µs a request, lowest (median); req/s of the whole app": in_process(
            results, "asgi"
        ),
        "WSGI: the same": in_process(results, "wsgi"),
        "Ratios on Starlette": ratios(results),
        "Ratios on WSGI": wsgi_ratios(results),
        "uvicorn, one worker, 32 connections": served(results),
        "Bare applications": bare(results),
        "What was seen": facts(results),
        "Sizes": sizes(results),
    }


def into_docs(results: dict[str, Any], page: Path) -> None:
    """Put the tables between the page's marks."""
    text = page.read_text()
    parts = {
        "about": about(results),
        "asgi": _markdown(*in_process(results, "asgi")),
        "wsgi": _markdown(*in_process(results, "wsgi")),
        "ratios": _markdown(*ratios(results)),
        "wsgi-ratios": _markdown(*wsgi_ratios(results)),
        "served": _markdown(*served(results)),
        "bare": _markdown(*bare(results)),
        "facts": _markdown(*facts(results)),
        "sizes": _markdown(*sizes(results)),
        "failed": "\n".join(f"- {name}: {why}" for name, why in _missing(results).items())
        or "All contenders ran.",
    }
    for name, part in parts.items():
        marked = re.compile(rf"(<!-- measured: {name} -->\n).*?(\n<!-- end of {name} -->)", re.S)
        place = marked.search(text)
        if place is None:
            raise SystemExit(f"{page}: no place for {name}")
        text = text[: place.end(1)] + part + text[place.start(2) :]
    page.write_text(text)


def _missing(results: dict[str, Any]) -> dict[str, str]:
    return {**results["left_out"], **results["failed"]}


def _measured(results: dict[str, Any], group: str) -> list[Contender]:
    return [
        each
        for each in CONTENDERS
        if each.base in GROUPS[group] and each.name in results["in_process"]
    ]


def _is_measured(results: dict[str, Any], scenario: Scenario) -> bool:
    return any(scenario.name in found for found in results["in_process"].values())


def _title(scenario: Scenario) -> str:
    return f"{scenario.title}, req/s" if scenario.per_second else scenario.title


def _named(name: str) -> str:
    return next(each.title for each in SCENARIOS if each.name == name)


def _cell(measured: Any, scenario: Scenario) -> str:
    if measured is None:
        return "-"
    if scenario.per_second:
        whole = measured["whole"]
        return f"{number(1e6 / whole['min'])} ({number(1e6 / whole['median'])})"
    added = measured["added"]
    return f"{number(added['min'])} ({number(added['median'])})"


def _ratio(results: dict[str, Any], one: str, other: str, scenario: str, of: str = "added") -> str:
    found = results["in_process"]
    try:
        top = found[one][scenario][of]["min"]
        bottom = found[other][scenario][of]["min"]
    except KeyError:
        return "-"
    return f"{top / bottom:.{2 if top > bottom / 10 else 3}f}" if bottom > 0 else "-"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _aligned(head: Sequence[str], rows: Rows) -> str:
    """Names of columns are broken into lines, to keep the table narrow."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    words = [each.split() for each in head]
    widths = [max([width, *map(len, each)]) for width, each in zip(widths, words, strict=True)]
    lines: list[list[str]] = []
    folded = [_folded(each, width) for each, width in zip(words, widths, strict=True)]
    for at in range(max(map(len, folded))):
        lines.append([each[at] if at < len(each) else "" for each in folded])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [*lines, *rows]
    )


def _folded(words: list[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def _markdown(head: Sequence[str], rows: Rows) -> str:
    if not rows:
        return "Not measured in this run."
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])
