"""Numbers and tables as text: aligned for a terminal, Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

Rows = list[list[str]]
Table = tuple[list[str], Rows]
"""The head and the rows."""


def number(value: float) -> str:
    """Three digits that mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def ratio(top: float, bottom: float) -> str:
    if bottom <= 0:
        return "-"
    return f"{top / bottom:.{2 if top > bottom / 10 else 3}f}"


def yes(value: bool) -> str:
    return "yes" if value else "no"


def aligned(head: Sequence[str], rows: Rows) -> str:
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


def markdown(head: Sequence[str], rows: Rows) -> str:
    if not rows:
        return "Not measured in this run."
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])
