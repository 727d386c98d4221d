"""Tables of what requests cost: in process, over a server, beside each other."""

from __future__ import annotations

from typing import Any

from . import figures
from .contenders import CONTENDERS, Contender
from .scenarios import SCENARIOS, Scenario
from .text import Rows, Table, number, ratio, yes

GROUPS: dict[str, tuple[str, ...]] = {
    "asgi": ("starlette", "litestar"),
    "wsgi": ("wsgi", "flask", "django"),
}
_BASES = {
    "starlette": "Starlette", "litestar": "Litestar", "wsgi": "plain WSGI", "flask": "Flask",
    "django": "Django",
}  # fmt: skip
_COOKIE, _REDIS = "starlette-cookie", "starsessions-redis"


def in_process(results: dict[str, Any], group: str) -> Table:
    """Added µs, lowest (median); requests a second of the whole application where that is asked."""
    found = results["requests"]["in_process"]
    scenarios = [each for each in SCENARIOS if _is_measured(found, each)]
    head = ["", "data is in", *(_title(each) for each in scenarios)]
    rows = []
    for each in _measured(found, group):
        cells = [_cell(found[each.name].get(s.name), s) for s in scenarios]
        rows.append([each.name, each.stores, *cells])
    return head, rows


def bare(results: dict[str, Any]) -> Table:
    found: dict[str, list[float]] = {}
    for each in CONTENDERS:
        for measured in results["requests"]["in_process"].get(each.name, {}).values():
            found.setdefault(each.base, []).append(measured["bare"]["min"])
    rows = [[_BASES[base], number(min(values))] for base, values in found.items()]
    return ["bare application", "µs a request"], rows


TARGETS = ("read", "untouched", "anonymous", "forged")
_GOALS = {
    "warm read / cookie": "≤ 0.4", "untouched / cookie": "≤ 0.25", "anonymous / cookie": "≤ 1",
    "forged / cookie": "≤ 0.5", "64 writes/s / cookie": "> 1", "write / floor": "≤ 1.3",
    "cold / floor": "≤ 1.3", "read / floor": "", "64 writes/s / floor": "",
    "read / Redis": "≤ 0.025", "write / Redis": "≤ 1", "SELECTs, 500 cold reads": "1",
}  # fmt: skip


def ratios(results: dict[str, Any]) -> Table:
    """On Starlette, over its cookie middleware, the floor of the same driver, and Redis."""
    found = results["requests"]["in_process"]
    rows: Rows = [["goal", *_GOALS.values()]]
    for each in _measured(found, "asgi"):
        if each.base != "starlette":
            continue
        name, floor = each.name, each.floor
        cells = [_ratio(found, name, _COOKIE, scenario) for scenario in TARGETS]
        cells.append(_ratio(found, _COOKIE, name, "writes64", "whole"))
        cells += [_ratio(found, name, floor, scenario) for scenario in ("write", "cold", "read")]
        cells.append(_ratio(found, floor, name, "writes64", "whole"))
        cells += [_ratio(found, name, _REDIS, scenario) for scenario in ("read", "write")]
        counted = figures.selects(results, name)
        rows.append([name, *cells, "-" if counted is None else str(counted)])
    return ["", *_GOALS], rows if len(rows) > 1 else []


PAIRS = (
    ("sessionware-wsgi-sqlite", "floor-wsgi-sqlite", "write, cold ≤ 1.3"),
    ("sessionware-wsgi-psycopg", "floor-wsgi-psycopg", "write, cold ≤ 1.3"),
    ("sessionware-wsgi-sqlite", "beaker-file", "< 1"),
    ("sessionware-wsgi-sqlite", "beaker-sqlite", "< 1"),
    ("sessionware-flask-sqlite", "flask-cookie", "warm read < 1"),
    ("sessionware-flask-sqlite", "flask-session-redis", "< 1"),
    ("sessionware-flask-sqlite", "flask-session-sqlite", "< 1"),
    ("sessionware-flask-sqlite", "flask-session-filesystem", "< 1"),
    ("sessionware-django-sqlite", "django-cached_db-sqlite", ""),
    ("sessionware-django-sqlite", "django-db-sqlite", ""),
    ("sessionware-django-psycopg", "django-cached_db-psycopg", ""),
)


def wsgi_ratios(results: dict[str, Any]) -> Table:
    """The same kinds of store on the same framework, ours first."""
    found = results["requests"]["in_process"]
    scenarios = [s for s in SCENARIOS if not s.per_second and _is_measured(found, s)]
    head = ["ours / theirs", "goal", *(each.title for each in scenarios)]
    head.append("64 writes/s, theirs / ours")
    rows = []
    for ours, theirs, goal in PAIRS:
        if ours in found and theirs in found:
            cells = [_ratio(found, ours, theirs, each.name) for each in scenarios]
            cells.append(_ratio(found, ours, theirs, "writes64", "whole"))
            rows.append([f"{ours} / {theirs}", goal, *cells])
    return head, rows


def served(results: dict[str, Any]) -> Table:
    head = ["", "data is in"]
    for page in ("read", "write"):
        head += [f"{page}/s", "bare/s", "of bare", "p50 ms", "p99 ms"]
    head.append("write of bare / cookie's")
    rows = [["goal", "", "", "", "≥ 0.75", "", "", "", "", "", "", "", "> 1"]]
    cookie = figures.served(results, _COOKIE, "write")
    for each in CONTENDERS:
        found = results.get("server", {}).get("served", {}).get(each.name)
        if found is None:
            continue
        row = [each.name, each.stores]
        for page in ("read", "write"):
            one = found[page]
            row += [number(one["mine"]), number(one["bare"]), f"{one['ratio']:.2f}"]
            row += [f"{one['p50']:.1f}", f"{one['p99']:.1f}"]
        beside = figures.over(found["write"]["ratio"], cookie)
        rows.append([*row, "-" if beside is None else f"{beside:.2f}"])
    return head, rows if len(rows) > 1 else []


def facts(results: dict[str, Any]) -> Table:
    head = ["", "coherence", "logout ends a copied cookie", "a read sends Set-Cookie"]
    head += ["acknowledged writes, all found", "SELECTs for 500 cold readers"]
    rows = []
    for each in CONTENDERS:
        found = results["requests"]["facts"].get(each.name)
        if found is not None:
            mode = found.get("coherence", "")
            shown = [
                mode if found["alive"] or mode == "validate" else f"{mode}, which was down",
                yes(found["logout ends a copied cookie"]),
            ]
            shown += [yes(found["a read sends Set-Cookie"])]
            counted = "" if "cookie" in each.name else str(found.get("writes found", ""))
            shown += [counted, str(found.get("SELECTs of a stampede", ""))]
            rows.append([each.name, *shown])
    return head, rows


_SETTINGS = (
    ('`coherence="validate"`, SQLite', "read", "sessionware-sqlite-validate", "sessionware-sqlite"),
    (
        '`coherence="validate"`, PostgreSQL', "read",
        "sessionware-psycopg-validate", "sessionware-psycopg",
    ),
    ('`coherence="bounded"`', "read", "sessionware-sqlite-bounded", "sessionware-sqlite"),
    ("`synchronous=full`", "write", "sessionware-sqlite-full", "sessionware-sqlite"),
    ("`synchronous=full`", "writes64", "sessionware-sqlite-full", "sessionware-sqlite"),
    ("aiosqlite in place of threads", "write", "sessionware-aiosqlite", "sessionware-sqlite"),
    ("asyncpg in place of threads", "write", "sessionware-asyncpg", "sessionware-psycopg"),
    ("asyncpg in place of threads", "writes64", "sessionware-asyncpg", "sessionware-psycopg"),
)  # fmt: skip


def settings(results: dict[str, Any]) -> Table:
    """A row with one setting changed beside the row without."""
    found = results["requests"]["in_process"]
    rows = []
    for setting, scenario, with_it, without in _SETTINGS:
        one, other = (found.get(name, {}).get(scenario) for name in (with_it, without))
        if one and other:
            which = next(each for each in SCENARIOS if each.name == scenario)
            rows.append([setting, _title(which), _cell(other, which), _cell(one, which)])
    for page, title in (("read20", "warm read"), ("write20", "write")):
        base = found.get("sessionware-sqlite", {})
        if page in base:
            which = next(each for each in SCENARIOS if each.name == page)
            small = _cell(base[page.removesuffix("20")], which)
            rows.append(["20 KB in place of 0.5", title, small, _cell(base[page], which)])
    return ["", "request", "without", "with"], rows


def _measured(found: dict[str, Any], group: str) -> list[Contender]:
    return [each for each in CONTENDERS if each.base in GROUPS[group] and each.name in found]


def _is_measured(found: dict[str, Any], scenario: Scenario) -> bool:
    return any(scenario.name in each for each in found.values())


def _title(scenario: Scenario) -> str:
    return f"{scenario.title}, req/s" if scenario.per_second else scenario.title


def _cell(measured: Any, scenario: Scenario) -> str:
    if measured is None:
        return "-"
    if scenario.per_second:
        whole = measured["whole"]
        return f"{number(1e6 / whole['min'])} ({number(1e6 / whole['median'])})"
    added = measured["added"]
    return f"{number(added['min'])} ({number(added['median'])})"


def _ratio(found: dict[str, Any], one: str, other: str, scenario: str, of: str = "added") -> str:
    try:
        return ratio(found[one][scenario][of]["min"], found[other][scenario][of]["min"])
    except KeyError:
        return "-"
