"""A picture of a sweep: a line for each combination of the other fields, mean and spread, a dot for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedgalore.sweep import Goal, short, words
from fedgalore_cli.words import NOT_SHARES, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedgalore_cli.sweep import Row

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # of Okabe and Ito
MARKERS = "osD^vP*"
APART = 0.08  # of lines at the same value, in distances between two values
MOST_APART = 0.6  # of the first line and the last
LONGEST = 40  # characters of a label


def draw(path: Path, rows: Sequence[Row], goal: Goal, title: str) -> None:
    """Writes the picture in the format of its suffix.

    Raises:
        OSError: the file cannot be written.
    """
    figure(rows, goal, title).savefig(path, dpi=120)


def figure(rows: Sequence[Row], goal: Goal, title: str) -> Figure:
    """The picture itself. The first field is the axis; a setting without a value leaves a gap."""
    from matplotlib.figure import Figure

    share = goal.metric not in NOT_SHARES and ":" not in goal.metric
    scale = 100 if share else 1
    x = list(dict.fromkeys(_value(row) for row in rows))
    lines = list(dict.fromkeys(words(row.setting.values[1:]) for row in rows))
    gap = min(APART, MOST_APART / len(lines))
    drawn = Figure(figsize=(max(5.0, 0.9 * len(x) + 3.0), 4.0), layout="constrained")
    axes = drawn.subplots()
    for number, line in enumerate(lines):
        shift, colour = gap * (number - (len(lines) - 1) / 2), COLOURS[number % len(COLOURS)]
        of_line = [row for row in rows if words(row.setting.values[1:]) == line and row.values]
        places = [x.index(_value(row)) + shift for row in of_line]
        means = [scale * (row.summary.mean or 0.0) for row in of_line]
        spreads = [scale * (row.summary.spread or 0.0) for row in of_line]
        style = f"-{MARKERS[number % len(MARKERS)]}"
        axes.errorbar(places, means, spreads, fmt=style, color=colour, capsize=3, markersize=5, label=_cut(line))
        for place, row in zip(places, of_line, strict=True):
            values = [scale * each for each in row.values.values()]
            axes.scatter([place] * len(values), values, color=colour, s=12, alpha=0.45)
    axes.set_xticks(range(len(x)), [_cut(label) for label in x], parse_math=False)
    axes.set_xlim(-0.5, len(x) - 0.5)
    axes.set_xlabel(rows[0].setting.values[0][0] if rows[0].setting.values else "", parse_math=False)
    axes.set_ylabel(heading(goal.metric) + (" in %" if share else ""), parse_math=False)
    axes.grid(axis="y", alpha=0.3)
    if len(lines) > 1:
        axes.legend(fontsize=8)
    axes.set_title(title, fontsize=10, parse_math=False)
    return drawn


def _value(row: Row) -> str:
    return short(row.setting.values[0][1]) if row.setting.values else "the job as it is"


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
