"""What is counted of jobs as it happens, so that nobody has to read their rounds for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from coordinator.state.job_state import Status

Traffic = Mapping[int, Mapping[str, Mapping[str, int]]]  # round -> client -> "up" | "down" -> bytes


@dataclass(frozen=True)
class Totals:
    """Of a job: rounds that closed, bytes from (up) and to (down) its clients.

    `evaluated`: the last closed round in which clients evaluated the model, 0 for none; `metrics`: what they measured.
    `statistics`: what the aggregator told of the last version that it made.
    """

    committed: int = 0
    abandoned: int = 0
    up: int = 0
    down: int = 0
    evaluated: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)


class Summary(NamedTuple):
    """A job as it is counted."""

    job_id: str
    status: Status
    totals: Totals


def totals_of(stored: Mapping[str, str]) -> Totals:
    """Totals as they lie in the store: texts by name."""
    tables = {name: json.loads(stored.get(name, "{}")) for name in ("metrics", "statistics")}
    counts = {name: int(text) for name, text in stored.items() if name not in tables}
    return Totals(**counts, metrics=tables["metrics"], statistics=tables["statistics"])
