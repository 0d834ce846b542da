"""A job with other values, several times: settings, what each of them is judged by, and its mean and spread. Pure.

```python
settings = grid(spec, [("method.rank", [4, 8]), ("local.learning_rate", [1e-3, 2e-3])])
goal = goal_of([setting.spec for setting in settings])
for setting in settings:
    runs = [measured(spec, simulate(spec, folder, sites)) for spec in setting.seeded(3)]
    print(setting, Summary.of([score(goal, values) for values in runs]))
```
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from fedgalore.spec.assigning import AssignError, assign, parts_of
from fedgalore.spec.better import Mode, better
from fedgalore.spec.documents import DocumentError, read_yaml
from fedgalore.spec.job import JobSpec, SpecError, parse

if TYPE_CHECKING:
    from fedgalore.records import SimulationResult

Axis = tuple[str, Sequence[Any]]  # the path of a field, and the values that it takes
Values = tuple[tuple[str, Any], ...]


class SweepError(ValueError):
    """What cannot be swept; the message says which field, and what it takes."""


@dataclass(frozen=True)
class Setting:
    """A job with these values, by path."""

    values: Values
    spec: JobSpec

    def seeded(self, count: int) -> list[JobSpec]:
        """The same with `count` seeds, from the job's own on."""
        return [self.spec.model_copy(update={"seed": self.spec.seed + more}) for more in range(count)]

    def __str__(self) -> str:
        return words(self.values)


@dataclass(frozen=True)
class Goal:
    """The metric by which settings are compared, and whether a greater (max) or a smaller value is better."""

    metric: str
    mode: Mode

    def is_better(self, value: float, than: float) -> bool:
        return value > than if self.mode == "max" else value < than


@dataclass(frozen=True)
class Summary:
    """`mean` and `spread`, the standard deviation over seeds; None of too few values."""

    count: int
    mean: float | None
    spread: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        return cls(
            len(values),
            statistics.fmean(values) if values else None,
            statistics.stdev(values) if len(values) > 1 else None,
        )


def axis(text: str) -> Axis:
    """`method.rank=4,8`: a field, and its values as YAML.

    Raises:
        SweepError
    """
    path, equals, listed = text.partition("=")
    if not equals or not parts_of(path):
        raise SweepError(f"--sweep {text}: is no field with values; write path=value,value, such as method.rank=4,8")
    try:
        values = read_yaml(f"[{listed}]")
    except DocumentError as error:
        raise SweepError(f"--sweep {path}: the values are {error}") from None
    if not values:
        raise SweepError(f"--sweep {path}: has no values; give some, such as method.rank=4,8")
    if len({short(value) for value in values}) < len(values):
        raise SweepError(f"--sweep {path}: has a value twice ({listed}); leave it out")
    return path.strip(), values


def grid(spec: JobSpec, axes: Sequence[Axis]) -> list[Setting]:
    """Every combination of the values, the last field's changing fastest.

    Raises:
        SweepError: a field is swept twice, is the seed, or combinations are no jobs, of each problem the first.
    """
    paths = [path for path, _ in axes]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise SweepError(f"--sweep {twice[0]}: is there twice; give all its values at once, separated by commas")
    if "seed" in paths:
        raise SweepError("--sweep seed: is what each setting is repeated with; say how often by --seeds")
    settings, problems = list[Setting](), dict[str, str]()
    for values in product(*(values for _, values in axes)):
        chosen = tuple(zip(paths, values, strict=True))
        try:
            settings.append(Setting(chosen, with_values(spec, chosen)))
        except SpecError as error:
            problems.setdefault(str(error), words(chosen))
    if problems:
        raise SweepError("; ".join(f"--sweep {chosen}: {problem}" for problem, chosen in problems.items()))
    return settings


def with_values(spec: JobSpec, values: Iterable[tuple[str, Any]]) -> JobSpec:
    """The job with these values in place of its own; what its document leaves out stays left out.

    Raises:
        SpecError: that is no job.
    """
    document = spec.model_dump(mode="json", exclude_unset=True)
    for path, value in values:
        try:
            assign(document, path, value, known=0)
        except AssignError as error:
            raise SpecError(f"{path}: {error}") from None
    return parse(document)


def goal_of(specs: Sequence[JobSpec], metric: str | None = None) -> Goal:
    """What the jobs are compared by: `metric`, else what they keep their best version by, else the accuracy, else the
    first that all of them measure beside the loss.

    Raises:
        SweepError: some do not measure it.
    """
    known = [better(spec) for spec in specs]
    common = [name for name in known[0] if all(name in each for each in known)]
    keep = specs[0].evaluation.keep
    usual = ["accuracy", *(name for name in common if name != "loss"), "loss"]
    name = metric or (keep.metric if keep else next(each for each in usual if each in common))
    if name not in common:
        raise SweepError(f"--metric: {name} is not measured in every setting; take one of {', '.join(common)}")
    return Goal(name, known[0][name])


def measured(spec: JobSpec, result: SimulationResult) -> dict[str, float]:
    """What the best version was measured by where the job keeps one, else the last.

    On all clients' test examples, or on the held-out ones, as `evaluation.keep.by` says; without it on the clients', if
    they have any.
    """
    version = result.best.version if result.best else result.rounds[-1].model_version
    record = next(each for each in reversed(result.rounds) if each.model_version == version)
    found = next((each.metrics for each in record.held_out.values()), {})
    keep = spec.evaluation.keep
    if (keep is None or keep.by != "central") and record.pooled.metrics:
        found = record.pooled.metrics
    return {name: value for name, value in found.items() if math.isfinite(value)}


def score(goal: Goal, values: Mapping[str, float]) -> float:
    """The goal's metric among those that were measured.

    Raises:
        SweepError: it has no value.
    """
    if goal.metric not in values:
        raise SweepError(f"{goal.metric} has no value; give the clients test examples, or --test")
    return values[goal.metric]


def words(values: Values) -> str:
    """`method.rank=8, local.steps=10`."""
    return ", ".join(f"{path}={short(value)}" for path, value in values) or "the job as it is"


def short(value: Any) -> str:
    """A value as a person writes it."""
    return value if isinstance(value, str) else json.dumps(value)
