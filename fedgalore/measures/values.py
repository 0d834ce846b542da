"""What sums of counts are worth: pure functions in numpy. The coordinator's doors use them, so they do without torch.

`Counts`: by metric, numbers in float64 that sites may send and that can be pooled. With `C` classes:

| metrics                                               | counts                                                   |
|-------------------------------------------------------|----------------------------------------------------------|
| `loss`, `perplexity`, `mse`, `mae`                    | sum of losses or errors, how many                        |
| `accuracy`, `exact_match`, `rouge1`, `rouge2`, `rougeL` | sum of scores from 0 to 1, how many                    |
| `f1`, `f1_micro`, `f1_weighted`, `precision`, `recall`, `mcc`, `entity_*` | `(3, C)`: right, predicted, true     |
| `confusion_matrix`                                    | `(C, C)`: true class by predicted class                  |
| `auroc`                                               | `(C, 2, BINS)`: scores of the others and of the class    |
| `r2`                                                  | squared errors, how many; mean and M2 of the targets     |
| `pearson`                                             | how many; both means; both M2; co-moment                 |
| `spearman`                                            | squares lost by rounding, of predictions and of targets; |
|                                                       | `(prediction, target, how many)`, again and again        |

M2 is the sum of squared differences from the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedgalore.measures import formulas
from fedgalore.measures.formulas import Array, Undefined
from fedgalore.spec.metrics import is_custom

Counts = Mapping[str, Sequence[float] | Array]

CONFUSION = "confusion_matrix"


@dataclass(frozen=True)
class Measured:
    """Metrics of one test set.

    `metrics`: one number a metric. `per_class`: by metric, a value for each class, None where it has none.
    `confusion_matrix`: rows are true classes, columns predicted ones. `undefined`: why a metric has no value.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    confusion_matrix: list[list[int]] | None = None
    undefined: dict[str, str] = field(default_factory=dict)


def _added(parts: Sequence[Array]) -> Array:
    return np.sum(parts, axis=0)


@dataclass(frozen=True)
class Measure:
    """A metric: its value, what it says of each class, and how counts of several sites become one."""

    value: Callable[[Array], float]
    by_class: Callable[[Array], list[float | None]] | None = None
    pooled: Callable[[Sequence[Array]], Array] = _added


def pool(parts: Sequence[Counts]) -> dict[str, Array]:
    """The counts of one test set that holds the examples of all parts, in this order.

    Raises:
        ValueError: the parts count different metrics, or with different numbers of classes.
    """
    names = list(parts[0]) if parts else []
    for part in parts:
        if set(part) != set(names):
            raise ValueError(f"counts of {', '.join(sorted(set(part) ^ set(names)))} are not in every part")
    for name in names:
        if len({np.size(part[name]) for part in parts}) > 1 and name != "spearman":
            raise ValueError(f"counts of {name} are not of one size")
    with np.errstate(all="ignore"):  # what overflows has no value, and `measured` says so
        return {name: _pooling(name)([np.asarray(part[name], np.float64) for part in parts]) for name in names}


def measured(counts: Counts) -> Measured:
    """What the counts of one test set are worth. Raises nothing for counts of the right size, whatever they hold."""
    numbers: dict[str, float] = {}
    per_class: dict[str, list[float | None]] = {}
    undefined: dict[str, str] = {}
    arrays = {name: np.asarray(given, np.float64) for name, given in counts.items()}
    matrix = arrays.pop(CONFUSION, None)
    with np.errstate(all="ignore"):
        for name, sums in arrays.items():
            metric = MEASURES.get(name, _UNKNOWN)
            try:
                numbers[name] = _finite(metric.value(sums))
            except Undefined as reason:
                undefined[name] = str(reason)
            except Exception as error:  # of a metric of another package
                if not is_custom(name):
                    raise
                undefined[name] = f"the metric fails on the counts ({type(error).__name__}: {error})"
            if metric.by_class is not None:
                per_class[name] = [_finite_or_none(value) for value in metric.by_class(sums)]
    return Measured(numbers, per_class, None if matrix is None else _square(matrix), undefined)


def _square(sums: Array) -> list[list[int]]:
    side = math.isqrt(sums.size)
    return [[int(cell) for cell in row] for row in sums.reshape(side, side)]


def _pooling(name: str) -> Callable[[Sequence[Array]], Array]:
    return MEASURES[name].pooled if name in MEASURES else _added


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Undefined("it has no value on these examples, or one that no number can hold")
    return float(value)


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _unknown(sums: Array) -> float:
    raise Undefined("it is not among the metrics that are allowed here (setting metrics)")


_UNKNOWN = Measure(_unknown)
_MEAN = Measure(formulas.mean)
MEASURES: dict[str, Measure] = {
    **dict.fromkeys(("loss", "accuracy", "exact_match", "rouge1", "rouge2", "rougeL", "mse", "mae"), _MEAN),
    "perplexity": Measure(formulas.perplexity),
    "f1": Measure(formulas.macro(formulas.f1s), formulas.f1s),
    "f1_micro": Measure(formulas.micro(formulas.f1s)),
    "f1_weighted": Measure(formulas.f1_weighted),
    "precision": Measure(formulas.macro(formulas.precisions), formulas.precisions),
    "recall": Measure(formulas.macro(formulas.recalls), formulas.recalls),
    "mcc": Measure(formulas.mcc),
    "entity_f1": Measure(formulas.micro(formulas.f1s), formulas.f1s),
    "entity_precision": Measure(formulas.micro(formulas.precisions), formulas.precisions),
    "entity_recall": Measure(formulas.micro(formulas.recalls), formulas.recalls),
    "auroc": Measure(formulas.auroc, formulas.aurocs),
    "r2": Measure(formulas.r2, pooled=formulas.pooled_r2),
    "pearson": Measure(formulas.pearson, pooled=formulas.pooled_pearson),
    "spearman": Measure(formulas.spearman, pooled=formulas.pooled_cells),
}
