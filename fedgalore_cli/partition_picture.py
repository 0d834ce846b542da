"""A picture of who holds what: a row for each client, a column for each class or domain, darker where it has more."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

# inches
LINE = 0.12  # of small print
LETTER = 0.08  # of small print, with some air
LONGEST = 10.0  # of a side; past it not every row or column is named
BARS = 1.7  # for the totals
KEY = 0.15  # for the colour bar

PRINT = 7  # points


def counts(shards: Sequence[Sequence[int]], keys: Sequence[Hashable]) -> list[Counter[Hashable]]:
    """For each client how many of its examples have which key: class, domain, or whatever `keys` holds."""
    return [Counter(keys[index] for index in shard) for shard in shards]


def in_order(keys: Iterable[Hashable]) -> list[Hashable]:
    """Each key once, as a person sorts them: 2 before 10, `site-2` before `site-10`."""
    return sorted(set(keys), key=lambda key: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", str(key))])


def check_format(path: Path) -> None:
    """Refuses a file that `draw` does not write.

    Raises:
        ValueError: its suffix is not in `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} ends in none of {', '.join(FORMATS)}; name a file that does")


def draw(
    path: Path,
    shards: Sequence[Sequence[int]],
    keys: Sequence[Hashable] | None,
    title: str,
    *,
    kind: str = "class",
    clients: Sequence[str] | None = None,
) -> None:
    """Writes the picture in the format of its suffix. Creates the folder if it is missing.

    Args:
        shards: for each client the indices of its examples, as `fedgalore.data.partition` returns them.
        keys: each example's class or domain; without any, or with a single one, only sizes are drawn.
        kind: what the keys are.
        clients: their names; without them, numbers from 1.

    Raises:
        ValueError: no shards, or a suffix that is not in `FORMATS`.
        OSError: the file cannot be written.
    """
    check_format(path)
    picture = figure(shards, keys, title, kind=kind, clients=clients)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=100)


def figure(
    shards: Sequence[Sequence[int]],
    keys: Sequence[Hashable] | None,
    title: str,
    *,
    kind: str = "class",
    clients: Sequence[str] | None = None,
) -> Figure:
    """The picture itself; arguments as for `draw`."""
    from matplotlib.figure import Figure

    if not shards:
        raise ValueError("there are no shards to draw")
    held = counts(shards, keys) if keys is not None else []
    columns = in_order(chain.from_iterable(held))
    row = _pitch(len(shards), wanted=3.0, largest=0.4)
    height = row * len(shards) + 1.2
    if len(columns) < 2:
        picture = Figure(figsize=(6.5, height), layout="constrained")
        first = bars = picture.subplots()
    else:
        labels = [_short(column) for column in columns]
        column = _pitch(len(columns), wanted=5.0, largest=0.7)
        upright = max(map(len, labels)) * LETTER > column
        height += max(map(len, labels)) * LETTER if upright else 0
        width = column * len(columns) + BARS + 1.8
        picture = Figure(figsize=(max(width, 5.0), height), layout="constrained")
        first, bars, key = picture.subplots(1, 3, width_ratios=(column * len(columns), BARS, KEY))
        bars.sharey(first)
        bars.tick_params(which="both", left=False, labelleft=False)
        table = np.array([[counter[name] for name in columns] for counter in held])
        numbered = row >= LINE and column > len(str(table.max())) * LETTER
        _draw_cells(first, key, table, numbered)
        key.set_ylabel(f"examples of a {kind}")
        shown = range(0, len(columns), _step(column))
        rotation = 90 if upright else 0
        first.set_xticks(shown, [labels[i] for i in shown], rotation=rotation, fontsize=PRINT, parse_math=False)
        first.set_xlabel(kind)
    _draw_totals(bars, shards, row)
    names = [_short(name) for name in clients or range(1, len(shards) + 1)]
    rows = _named_rows(len(shards), row)
    first.set_yticks(rows, [names[i] for i in rows], fontsize=PRINT, parse_math=False)
    first.set_ylabel("client")
    first.set_ylim(len(shards) - 0.5, -0.5)
    picture.suptitle(textwrap.fill(title, int(12 * picture.get_figwidth())), fontsize=11, parse_math=False)
    return picture


def _draw_cells(axes: Axes, key: Axes, table: np.ndarray, numbered: bool) -> None:
    """`table (clients, columns)`, with numbers in it or with a colour bar in `key`.

    Darkness goes by the root, so that a few examples still show beside many.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    # one hue from light to dark is read the same by every kind of colour vision; white is nothing at all
    hue = LinearSegmentedColormap.from_list("held", colormaps["Blues"](np.linspace(0.12, 1, 64)))
    norm = PowerNorm(0.5, 0, table.max())
    image = axes.imshow(np.ma.masked_equal(table, 0), cmap=hue, norm=norm, aspect="auto", interpolation="nearest")
    clients, columns = table.shape
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(clients + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.88", linewidth=0.4)
    axes.tick_params(which="minor", length=0)
    if not numbered:
        axes.figure.colorbar(image, cax=key)
        return
    key.remove()
    for (client, column), count in np.ndenumerate(table):
        if count:
            colour = "white" if norm(count) > 0.55 else "black"
            axes.text(column, client, str(count), color=colour, ha="center", va="center", fontsize=PRINT)


def _draw_totals(axes: Axes, shards: Sequence[Sequence[int]], row: float) -> None:
    totals = [len(shard) for shard in shards]
    axes.barh(range(len(shards)), totals, height=0.7, color="0.6")
    for client in _named_rows(len(shards), row):
        end = (totals[client], client)
        axes.annotate(str(totals[client]), end, (3, 0), textcoords="offset points", va="center", fontsize=PRINT)
    axes.set_xlabel("examples")
    axes.set_xlim(0, max(totals) * 1.3 or 1)
    axes.locator_params(axis="x", nbins=3, integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def _pitch(lines: int, *, wanted: float, largest: float) -> float:
    """Inches for each of so many rows or columns."""
    return min(max(wanted / lines, LINE), largest, LONGEST / lines)


def _step(pitch: float) -> int:
    """The step from a row or column with a name to the next, so that names fit: 1, 2, 5, 10, 20, ..."""
    need = ceil(LINE / pitch)
    return next(step * 10**power for power in range(9) for step in (1, 2, 5) if step * 10**power >= need)


def _named_rows(rows: int, pitch: float) -> range:
    step = _step(pitch)
    return range(step - 1, rows, step)


def _short(name: object) -> str:
    """At most 28 characters of a name, its end among them: long names may differ there only."""
    text = " ".join(str(name).split())
    return text if len(text) <= 28 else f"{text[:17]}…{text[-10:]}"
