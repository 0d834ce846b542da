"""The terminal: how wide it is, and tables that fit into it.

A plain string is printed as it stands, whoever wrote it: no console here reads markup. Colours are of `Text`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

UNLIMITED = 10_000  # columns of a pipe: each row is one line


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error. Lines into a pipe may be longer than a terminal's."""
    at_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if at_terminal else UNLIMITED
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr, width=width)


def table(*columns: str, gap: int = 2) -> Table:
    """An empty table without lines."""
    drawn = Table(box=None, header_style="bold", pad_edge=False, padding=(0, gap, 0, 0))
    for column in columns:
        drawn.add_column(column, no_wrap=column != "reason", overflow="ellipsis")
    return drawn


def fits(drawn: Table) -> bool:
    """Whether each row of the table has room in one line."""
    out = console()
    return out.measure(drawn, options=out.options.update_width(UNLIMITED)).maximum <= out.width


def whole(drawn: Table) -> Table:
    """The table, its cells on several lines where the screen has no room for them on one."""
    if not fits(drawn):
        for column in drawn.columns:
            column.no_wrap, column.overflow = False, "fold"
    return drawn


def fitted(draw: Callable[[Sequence[str], int], Table], optional: Sequence[str]) -> Table:
    """The table with as many of the optional columns as the screen has room for, the first ones before the others.

    Columns move together before one is left out.
    """
    choices = [draw(optional[:count], gap) for count in range(len(optional), -1, -1) for gap in (2, 1)]
    return next(filter(fits, choices), None) or whole(choices[-1])
