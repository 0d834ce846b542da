"""Metrics of other packages, which the operators of sites and coordinator allow by name.

A job names one as `package.module:NAME`. It is code that runs where it is allowed, so no job alone brings it: agents
and coordinator list what they allow in their setting `metrics`. NAME is one of

- a `torchmetrics.Metric`, or a class of it that needs no arguments, whose states are tensors that are summed
  (`dist_reduce_fx="sum"`); its value is one number;
- an object, or a class of it, as `Countable` describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fedgalore.measures.formulas import Array
from fedgalore.measures.values import MEASURES, Measure
from fedgalore.spec.metrics import is_custom
from fedgalore.spec.registry import resolve


class CustomMetricError(ValueError):
    """A metric that cannot be allowed, or that a job names without its being allowed; the message says what to do."""


@runtime_checkable
class Countable(Protocol):
    """What a metric has to be that is none of torchmetrics."""

    counts: tuple[str, ...]  # names of the numbers that it counts

    def count(self, scores: Any, targets: Any) -> Mapping[str, float]:
        """The numbers of one batch, each of `counts`; summed over batches and sites.

        Args:
            scores: a tensor of logits `(N, C)`, or of numbers `(N,)`.
            targets: a tensor of classes `(N,)`, of labels `(N, C)`, or of numbers `(N,)`.
        """

    def value(self, sums: Mapping[str, float]) -> float:
        """The metric of all examples that the sums are of; NaN where it has none."""


class Custom(Protocol):
    """An allowed metric as counts in a row."""

    size: int

    def count(self, scores: Any, targets: Any) -> Array: ...

    def value(self, sums: Array) -> float: ...


ALLOWED: dict[str, Custom] = {}


def allow(paths: Iterable[str]) -> None:
    """Allows these metrics in this process.

    Raises:
        CustomMetricError: one cannot be imported, or is no metric that can be summed.
    """
    for path in paths:
        ALLOWED[path] = _loaded(path)
        MEASURES[path] = Measure(ALLOWED[path].value)


def check_allowed(names: Iterable[str], whose: str) -> None:
    """Refuses a job's custom metrics that this process does not allow.

    Raises:
        CustomMetricError
    """
    for name in names:
        if is_custom(name) and name not in ALLOWED:
            allowed = f"it allows {', '.join(sorted(ALLOWED))}" if ALLOWED else "it allows none of other packages"
            raise CustomMetricError(
                f"evaluation.metrics: {name} is not allowed at {whose} ({allowed}); "
                "its operator adds it to the setting metrics, or the job leaves it out"
            )


def _loaded(path: str) -> Custom:
    try:
        found: Any = resolve(path)
        metric = found() if isinstance(found, type) else found
    except Exception as error:  # of somebody else's module
        raise CustomMetricError(
            f"metrics: {path} cannot be loaded ({type(error).__name__}: {error}); "
            "install its package here, or correct the name, which is package.module:NAME"
        ) from error
    if isinstance(metric, Countable):
        return _Named(path, metric)
    if hasattr(metric, "_reductions"):
        summed: Custom = resolve("fedgalore.measures.torch_metric:Summed")(path, metric)  # torch, where there is need
        return summed
    raise CustomMetricError(
        f"metrics: {path} is neither a torchmetrics.Metric nor an object with counts, count and value; correct the name"
    )


class _Named:
    """A `Countable`, its numbers in the order of `counts`."""

    def __init__(self, path: str, metric: Countable) -> None:
        self._path, self._metric = path, metric
        self.size = len(metric.counts)

    def count(self, scores: Any, targets: Any) -> Array:
        counted = self._metric.count(scores, targets)
        if set(counted) != set(self._metric.counts):
            raise CustomMetricError(
                f"evaluation.metrics: {self._path} counts {', '.join(counted)}, and its counts names "
                f"{', '.join(self._metric.counts)}; mend the metric, or leave it out"
            )
        return np.array([float(counted[name]) for name in self._metric.counts])

    def value(self, sums: Array) -> float:
        return float(self._metric.value(dict(zip(self._metric.counts, sums.tolist(), strict=True))))
