"""Numbers, metrics and statuses as commands show them to people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

NOT_SHARES = ("loss", "perplexity", "mse", "mae", "r2", "pearson", "spearman", "mcc")
BEYOND = 1e6  # numbers are written with an exponent
COLOURS = {
    "PENDING": "yellow",
    "RUNNING": "cyan",
    "PAUSED": "yellow",
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELLED": "red",
    "COMMITTED": "green",
    "ABANDONED": "red",
}


def in_words(metrics: Mapping[str, float]) -> str:
    """Metrics one after the other, each with its name."""
    return ", ".join(f"{heading(name)} {value(name, metrics)}" for name in listed(metrics))


def pooled(row: Mapping[str, Any]) -> Mapping[str, float]:
    """The metrics of a round's first version on all clients' examples; none where nobody evaluated it."""
    return row["evaluation"]["metrics"] if row["evaluation"] else {}


def listed(metrics: Mapping[str, float]) -> list[str]:
    """Names of metrics as people look for them: loss and accuracy first."""
    return sorted(metrics, key=lambda name: (name != "loss", name != "accuracy", name))


def heading(metric: str) -> str:
    return metric.replace("_", " ")


def value(metric: str, metrics: Mapping[str, float]) -> str:
    """A metric for people: a share as a percentage."""
    found = metrics.get(metric)
    return number(found) if metric in NOT_SHARES or ":" in metric else percent(found)


def status(name: str) -> Text:
    return Text(name, COLOURS.get(name, "default"))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{_short(100 * value, 1)} %"


def number(value: float | None) -> str:
    return "-" if value is None else _short(value, 4)


def _short(value: float, places: int) -> str:
    """A number that no table is too narrow for, whatever an agent sent."""
    return f"{value:.{places}f}" if abs(value) < BEYOND else f"{value:.3g}"


def ago(moment: str) -> str:
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
