"""The picture for the documentation: bars on a logarithmic scale, as SVG by hand, and as PNG where
matplotlib is installed.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

from .contenders import CONTENDERS
from .text import number

_CHOSEN = (
    "floor-sqlite", "sessionware-sqlite", "floor-psycopg", "sessionware-psycopg",
    "floor-asyncpg", "sessionware-asyncpg",
    "starlette-cookie", "starsessions-memory", "starsessions-redis", "litestar-memory",
    "litestar-redis", "sessionware-flask-sqlite", "flask-cookie", "flask-session-redis",
    "flask-session-sqlite", "sessionware-django-sqlite", "django-cached_db-sqlite",
    "sessionware-wsgi-sqlite", "beaker-file", "beaker-sqlite",
)  # fmt: skip
_LABELS, _BARS, _ROW, _TOP = 190, 300, 20, 56
_COLORS = {"ours": "#0b7285", "floor": "#adb5bd", "theirs": "#e8590c"}

Bars = list[tuple[str, str, float]]
"""Name, kind (a key of the colors), value."""


def draw(results: dict[str, Any], picture: Path) -> None:
    panels = {
        "warm read: µs added (shorter is better)": _added(results, "read"),
        "64 writes in flight: requests/s (longer is better)": _per_second(results),
    }
    picture.write_text(_svg(panels))
    _png(panels, picture.with_suffix(".png"))


def _added(results: dict[str, Any], scenario: str) -> Bars:
    return _bars(results, scenario, lambda found: max(0.1, found["added"]["min"]))


def _per_second(results: dict[str, Any]) -> Bars:
    return _bars(results, "writes64", lambda found: 1e6 / found["whole"]["min"])


def _bars(results: dict[str, Any], scenario: str, value: Any) -> Bars:
    found = results["in_process"]
    kinds = {each.name: "ours" if each.ours else "theirs" for each in CONTENDERS}
    return [
        (name, "floor" if name.startswith("floor") else kinds[name], value(found[name][scenario]))
        for name in _CHOSEN
        if scenario in found.get(name, {})
    ]


def _scale(bars: Bars) -> tuple[int, int]:
    """The powers of ten around all values."""
    values = [value for _, _, value in bars]
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))


def _svg(panels: dict[str, Bars]) -> str:
    panels = {title: bars for title, bars in panels.items() if bars}
    width = len(panels) * (_LABELS + _BARS + 70)
    height = _TOP + _ROW * max((len(bars) for bars in panels.values()), default=0) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for at, (title, bars) in enumerate(panels.items()):
        parts += _panel(title, bars, at * (_LABELS + _BARS + 70) + 10)
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, bars: Bars, left: int) -> list[str]:
    low, high = _scale(bars)
    zero = left + _LABELS
    bottom = _TOP + _ROW * len(bars)
    parts = [f'<text x="{left}" y="24" font-size="14" font-weight="bold">{escape(title)}</text>']
    for power in range(low, high + 1):
        x = zero + _BARS * (power - low) / (high - low)
        parts.append(
            f'<line x1="{x:.0f}" y1="{_TOP - 8}" x2="{x:.0f}" y2="{bottom}" stroke="#dee2e6"/>'
            f'<text x="{x:.0f}" y="{bottom + 18}" text-anchor="middle" fill="#868e96">'
            f"{10**power:,g}</text>"
        )
    for row, (name, kind, value) in enumerate(bars):
        y = _TOP + row * _ROW
        length = max(2, _BARS * (math.log10(value) - low) / (high - low))
        parts.append(
            f'<text x="{zero - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{zero}" y="{y}" width="{length:.1f}" height="14" fill="{_COLORS[kind]}"/>'
            f'<text x="{zero + length + 5:.1f}" y="{y + 12}" fill="#495057">{number(value)}</text>'
        )
    return parts


def _png(panels: dict[str, Bars], picture: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(6.5 * len(panels), 6))
    for axis, (title, bars) in zip(axes, panels.items(), strict=True):
        names, kinds, values = zip(*reversed(bars), strict=True)
        axis.barh(names, values, color=[_COLORS[kind] for kind in kinds], log=True)
        axis.set_title(title, fontsize=10)
        for row, value in enumerate(values):
            axis.text(value, row, f" {number(value)}", va="center", fontsize=7)
        axis.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
