"""How the pictures look: on a pale card of their own, so that they are legible on light and on dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot

# Told apart under the common deficiencies of colour vision (Okabe and Ito).
BLUE, ORANGE, GREEN, GREY, RED = "#0072b2", "#e69f00", "#009e73", "#8a8f98", "#d55e00"
SITES = (BLUE, ORANGE, GREEN, "#cc79a7")
STYLE: dict[Any, Any] = {
    "figure.facecolor": "#fbfbf8",
    "axes.facecolor": "#fbfbf8",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 10,
    "font.family": "sans-serif",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small files, and it can be searched
    "svg.hashsalt": "fedgalore",  # the same picture is the same file
}


@contextmanager
def figure(to: Path, columns: int, width: float, height: float) -> Iterator[Any]:
    """Axes side by side; the picture is written on leaving."""
    with mpl.rc_context(STYLE):
        made, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained")
        yield axes
        made.savefig(to, metadata={"Date": None})
        pyplot.close(made)
