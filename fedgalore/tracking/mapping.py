"""What trackers are told of a job, and under which names; the same for all of them. Pure.

| name                                | what                                                                           |
|-------------------------------------|--------------------------------------------------------------------------------|
| `SOURCE/METRIC`                     | of all clients together, such as `evaluation/accuracy`, `server/epsilon`       |
| `SOURCE_by_client/METRIC/CLIENT`    | of one client, such as `training_by_client/train_loss/north`                   |
| `traffic/up_bytes_so_far`, `down_…` | bytes of all rounds up to this one: the axis of a plot by bytes                |
| `round/model_version`               | the version that the round starts from, which is the one that is evaluated     |
| `round/seconds`, `round/reports`    | how long it took, and how many clients reported; not of a simulation           |
| `round/abandoned`                   | 1 where it made no version, else 0; not of a simulation                        |
| `round/number`                      | the round's number, which is the step of all values as well                    |

Sources are those of `fedgalore.client.records`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedgalore.client.shapes import Job, Round

NUMBER = "round/number"  # of every step: a tracker that begins again looks for the last one
WAYS = ("up_bytes", "down_bytes")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A job before its first round.

    `id` names it for good: what logs under the same id later goes on with the same run. `document` has all defaults.
    """

    id: str
    name: str
    document: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    description: str = ""

    @classmethod
    def of(cls, job: Job) -> Run:
        """Of a coordinator's job."""
        return cls(job.id, job.name, job.spec, tuple(job.tags), job.description)

    @property
    def params(self) -> dict[str, str | int | float | bool]:
        """The document's values by their paths, such as `method.rank`; lists as JSON, null as a text."""
        return dict(_flat(self.document))


@dataclass(frozen=True)
class Step:
    """What a round showed. `at`: when it closed, in seconds since 1970; `values`: finite, by name."""

    number: int
    at: float
    values: dict[str, float]


@dataclass(frozen=True)
class End:
    """How a job ended: its status, why, and what tells its result, such as the best version."""

    status: str
    reason: str = ""
    facts: Mapping[str, str | int | float] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Job) -> End:
        """Of a coordinator's job."""
        facts: dict[str, str | int | float] = {"up_bytes": job.up_bytes, "down_bytes": job.down_bytes}
        if job.model_version is not None:
            facts["model_version"] = job.model_version
        if job.best is not None:
            facts |= {"best_version": job.best.model_version, f"best_{job.best.metric}": job.best.value}
        return cls(job.status, job.reason, facts)


class Steps:
    """Rows of metrics as steps, each round once. Bytes so far are summed here: give it all rounds, from the first."""

    def __init__(self) -> None:
        self.last = 0
        self._moved = dict.fromkeys(WAYS, 0.0)

    def of_rounds(self, rounds: Iterable[Round], rows: Iterable[Row]) -> list[Step]:
        """The rounds that have closed since, up to the first that has not; `rows` of an open round do not count."""
        by_number, steps = _by_round(rows), []
        for each in sorted(rounds, key=lambda each: each.number):
            if not each.is_closed:
                break
            if each.number > self.last:
                at = each.phase_at[each.phase].timestamp() if each.phase in each.phase_at else 0.0
                steps.append(self._step(each.number, at, by_number[each.number], _of_round(each)))
        return steps

    def of_rows(self, rows: Iterable[Row], at: float) -> list[Step]:
        """Of a simulation, whose rounds are closed when they are recorded. `at`: seconds since 1970."""
        found = sorted(_by_round(rows).items())
        return [self._step(number, at, each, {}) for number, each in found if number > self.last]

    def _step(self, number: int, at: float, rows: Sequence[Row], more: Mapping[str, float]) -> Step:
        values = {_name(row): float(row["value"]) for row in rows}
        for way in WAYS:
            self._moved[way] += values.get(f"traffic/{way}", 0.0)
            values[f"traffic/{way}_so_far"] = self._moved[way]
        if rows:
            values["round/model_version"] = float(rows[0]["model_version"])
        values |= {**more, NUMBER: float(number)}
        self.last = number
        return Step(number, at, {name: value for name, value in values.items() if math.isfinite(value)})


def _by_round(rows: Iterable[Row]) -> defaultdict[int, list[Row]]:
    found: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["round"]].append(row)
    return found


def _name(row: Row) -> str:
    if row["client"] is None:
        return f"{row['source']}/{row['metric']}"
    return f"{row['source']}_by_client/{row['metric']}/{row['client']}"


def _of_round(round: Round) -> dict[str, float]:
    return {
        "round/model_version": round.model_version,
        "round/seconds": sum(round.phase_s.values()),
        "round/reports": sum(each.reported for each in round.participants.values()),
        "round/abandoned": float(round.phase == "ABANDONED"),
    }


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, str | int | float):  # bool is an int
        yield path, value
    else:
        yield path, json.dumps(value)
