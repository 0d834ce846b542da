"""Bytes for people, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def size(n_bytes: float) -> str:
    """In powers of ten."""
    value, unit = float(n_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of text under a heading, all cells but the first to the right; 80 columns at most where cells are short."""
    lines = [list(heading), *map(list, rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(heading))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(cells)
        ).rstrip()
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )
