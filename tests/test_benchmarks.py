"""What the benchmarks make of their measurements: the arithmetic and the tables, nothing timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    contenders,
    figures,
    fleet,
    load,
    part_tables,
    parts,
    report,
    request_tables,
    targets,
    text,
)
from benchmarks.purge import percentile
from benchmarks.scenarios import SCENARIOS

DOCS = Path(__file__).resolve().parent.parent / "docs"
MACHINE = {
    "date": "2026-01-01 00:00 UTC", "commit": "abc", "changed": False, "cpu": "one", "cores": 2,
    "load_before": 0.1, "system": "Linux", "python": "3.11", "optimized": True, "sqlite": "3",
    "postgres": None, "redis": None, "packages": {},
}  # fmt: skip


def _times(bare: float, whole: float) -> dict[str, Any]:
    pairs = {"bare": bare, "whole": whole, "added": whole - bare}
    return {name: {"min": value, "median": value} for name, value in pairs.items()}


def _at(rows: int, ours: float, raw: float) -> dict[str, Any]:
    sides = {"ours": {"median": ours}, "raw": {"median": raw}}
    return {
        "rows": rows,
        "bytes_per_row": 1000,
        "data_bytes": 600,
        "operations": dict.fromkeys(("lookup", "save", "touch", "insert"), sides),
    }


def _results() -> dict[str, Any]:
    """As they are when everything was measured: ours adds 4, the cookie 20, all others 8."""
    in_process = {
        each.name: {
            scenario.name: _times(10, 14 if each.ours else 30 if "cookie" in each.name else 18)
            for scenario in SCENARIOS
        }
        for each in contenders.CONTENDERS
        if not each.frozen
    }
    fact = {"alive": True, "logout ends a copied cookie": True, "a read sends Set-Cookie": False}
    page = {"mine": 80.0, "bare": 100.0, "ratio": 0.8, "p50": 1.0, "p99": 2.0, "busy": 0.4}
    taken = {"highest": 105, "max_bytes": 100, "fills": 10, "entries": 3}
    return {
        "requests": {
            "machine": MACHINE,
            "effort": {"rounds": 1, "seconds": 0.01},
            "left_out": {"litestar-redis": "redis does not answer"},
            "failed": {},
            "in_process": in_process,
            "facts": {name: {**fact, "SELECTs of a stampede": 1} for name in in_process},
        },
        "server": {
            "machine": MACHINE,
            "effort": {"served_rounds": 1, "served_seconds": 1},
            "failed": {},
            "served": {
                each.name: {"read": page, "write": page}
                for each in contenders.CONTENDERS
                if each.served
            },
        },
        "scale": {
            "machine": MACHINE,
            "failed": {},
            "stores": {
                "sqlite": {"at": [_at(1000, 50, 10), _at(5000, 60, 20)]},
                "postgresql": {"at": [_at(1000, 200, 100), _at(5000, 300, 100)]},
            },
        },
        "purge": {
            "machine": MACHINE,
            "failed": {},
            "stores": {
                name: {
                    "quiet": {"p50": 1.0, "p99": 2.0, "max": 3.0},
                    "purging": {"p50": 1.5, "p99": 7.0, "max": 9.0},
                    "seconds": 2.0,
                    "rows_per_second": 50_000.0,
                    "longest_batch": 12.0,
                }
                for name in ("sessionware-sqlite", "sessionware-psycopg")
            },
        },
        "memory": {
            "machine": MACHINE,
            "failed": {},
            "session": {
                "allocated": {"taken": 1100.0, "counted": 1050.0},
                "resident": {"taken": 1300.0, "counted": 1050.0},
            },
            "budget": {"500 bytes": {"allocated": taken, "resident": taken}},
        },
    }


@pytest.mark.parametrize(
    ("percent", "wanted"), [(0, 1), (50, 5), (90, 9), (91, 10), (99, 10), (100, 10)]
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, wanted: float) -> None:
    assert percentile([float(value) for value in range(10, 0, -1)], percent) == wanted


def test_growth_is_compared_with_the_raw_drivers() -> None:
    results = _results()
    assert figures.growth(results, "sqlite", "lookup", "ours") == 1.2
    assert figures.growth(results, "sqlite", "lookup", "raw") == 2
    assert figures.grows(results, "sqlite", "lookup") == 0.6
    assert figures.grows(results, "postgresql", "save") == 1.5


def test_one_size_alone_has_no_growth() -> None:
    results: dict[str, Any] = {"scale": {"stores": {"sqlite": {"at": [_at(1000, 50, 10)]}}}}
    assert figures.grows(results, "sqlite", "lookup") is None


def test_each_target_names_its_worst_row() -> None:
    found = {each.what: each for each in targets.targets(_results())}
    assert found["warm read / Starlette's cookie"].values["sessionware-asyncpg"] == 0.2
    assert found["write / floor"].worst[1] == 0.5
    growth = found["save: growth to the most rows / the raw driver's"]
    assert growth.worst == ("postgresql", 1.5)
    assert not growth.meets(1.5)
    assert found["p99 moved by a purge"].worst[1] == 5
    above = found["cache memory above its budget, allocated"]
    assert above.worst[1] == pytest.approx(5)


@pytest.mark.parametrize(
    ("sign", "met", "missed"), [("≤", 1, 1.1), ("<", 0.9, 1), ("≥", 1, 0.9), (">", 1.1, 1)]
)
def test_a_goal_is_met_or_missed(sign: targets.Sign, met: float, missed: float) -> None:
    target = targets.Target("", sign, 1, {"one": met, "other": missed})
    assert target.meets(met)
    assert not target.meets(missed)
    assert target.worst == ("other", missed)


def test_every_goal_has_a_value_when_all_is_measured() -> None:
    every = list(targets._all(_results()))
    assert [each.what for each in every if not each.values] == []


def test_tables_are_as_wide_as_their_heads() -> None:
    results = _results()
    for name, _, _, make in report._SECTIONS:
        head, rows = make(results)
        assert rows, name
        assert {len(row) for row in rows} == {len(head)}, name


def test_the_report_says_what_is_missing() -> None:
    printed = report.terminal(_results())
    assert "not measured: litestar-redis: redis does not answer" in printed
    assert "105" not in report.terminal({"memory": {**_results()["memory"], "budget": {}}})


@pytest.mark.parametrize("part", parts.ALL)
def test_a_part_alone_can_be_reported(part: str) -> None:
    assert report.terminal({part: _results()[part]})


def test_the_page_has_a_place_for_every_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((DOCS / "performance.md").read_text())
    report.into_docs(_results(), page)
    assert "| Goals |" not in page.read_text()
    assert "Not measured in this run." not in page.read_text()


def test_the_page_shows_the_results_that_lie_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((DOCS / "performance.md").read_text())
    report.into_docs(json.loads((DOCS / "performance.json").read_text()), page)
    assert page.read_text() == (DOCS / "performance.md").read_text()


def test_every_one_of_ours_on_starlette_has_a_floor_on_its_store() -> None:
    known = {each.name: each for each in contenders.CONTENDERS}
    for each in contenders.CONTENDERS:
        if each.ours and each.base in ("starlette", "wsgi"):
            assert known[each.floor].stores == each.stores
            assert known[each.floor].options.get("driver") == each.options.get("driver")


def test_a_fleet_is_reckoned_from_its_givens() -> None:
    here = fleet.Here(
        row_bytes=1000, cached_bytes=1000, reads=5000, writes=2500, database_writes=10_000,
        purged=10_000, cold=0.01, lookup=0.02,
    )  # fmt: skip
    given = fleet.Fleet(
        sessions=1_000_000, lifetime=1000, active=30_000, every=30, writing=0.1,
        idle_timeout=3000, cache_ttl=300, processes=10, homes=1,
    )  # fmt: skip
    found = {each.what: each.value for each in fleet.reckon(given, here)}
    assert found["requests R"] == 1000
    assert found["writes W"] == 100
    assert found["touches U"] == 100
    assert found["reads by key Q"] == 100
    assert found["table"] == 1.5
    assert found["cached sessions"] == 3000
    assert found["rows to purge X"] == 1000
    assert found["time spent on it"] == 10
    assert found["processes, half busy"] == 3
    assert found["databases like this one"] == 3


def test_spread_over_all_processes_a_short_cache_saves_nothing() -> None:
    here = fleet.Here(1000, 1000, 5000, 2500, 10_000, 10_000, 0.0002, 0.0001)
    lines = {each.what: each.value for each in fleet.reckon(fleet.AS_IT_COMES, here)}
    assert lines["reads by key Q"] == lines["requests R"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0123, "0.0"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234")]
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert text.number(value) == shown


def test_a_ratio_of_nothing_is_no_number() -> None:
    assert text.ratio(1, 0) == "-"
    assert text.ratio(1, 20) == "0.050"
    assert text.ratio(3, 2) == "1.50"


def test_columns_are_aligned_and_their_heads_folded() -> None:
    shown = text.aligned(["", "one two"], [["row", "1"], ["longer row", "22"]])
    assert shown == "            one\n            two\nrow           1\nlonger row   22"


@pytest.mark.parametrize("head", [b"Content-Length", b"content-length"])
def test_an_answer_is_whole_with_its_body(head: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + head + b": 3\r\nx: y\r\n\r\nabc"
    assert load._is_whole(answer)
    assert not load._is_whole(answer[:-1])
    assert not load._is_whole(answer[:20])


def test_the_pairs_that_are_compared_take_part() -> None:
    names = {each.name for each in contenders.CONTENDERS}
    pairs = {name for ours, theirs, _ in request_tables.PAIRS for name in (ours, theirs)}
    rows = {*targets.OURS, *targets.FLOORS.values(), *targets.FLASK_SESSION, *targets.BEAKER}
    assert pairs | rows <= names
    assert part_tables.purging(_results())[1]
