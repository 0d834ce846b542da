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

from fedgalore.measures import claims, formulas
from fedgalore.measures.claims import Claim
from fedgalore.measures.formulas import Array, Undefined
from fedgalore.spec.metrics import is_custom
from fedgalore.spec.server import ServerSpec

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
    """A metric: its value, what its counts claim, what it says of each class, and how counts of several become one.

    `claim`: None of a metric of another package, whose counts can be anything.
    """

    value: Callable[[Array], float]
    claim: Claim | None = None
    by_class: Callable[[Array], list[float | None]] | None = None
    pooled: Callable[[Sequence[Array]], Array] = _added


def pool(parts: Sequence[Counts], bounded: Callable[[Sequence[float]], list[float]] | None = None) -> dict[str, Array]:
    """The counts of one test set that holds the examples of all parts, in this order.

    Args:
        bounded: of how many examples each part counts where they claim so many; a part that claims more counts as if
            it had fewer of the same. None: all that they claim.

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
        arrays = {name: [np.asarray(part[name], np.float64) for part in parts] for name in names}
        return {name: _pooling(name)(_within(name, each, bounded)) for name, each in arrays.items()}


def _within(name: str, parts: list[Array], bounded: Callable[[Sequence[float]], list[float]] | None) -> Sequence[Array]:
    """The parts, those that claim too many examples shrunk."""
    claim = MEASURES.get(name, _UNKNOWN).claim
    if bounded is None or claim is None:
        return parts
    sizes = [claim.size(part) for part in parts]
    claimed = [size for size in sizes if size > 0]
    counted = dict(zip(claimed, bounded(claimed), strict=True))
    return [
        part if counted.get(size, size) >= size else claim.shrunk(part, counted[size] / size)
        for part, size in zip(parts, sizes, strict=True)
    ]


Trained = tuple[int, Mapping[str, float]]  # how many examples a client claims to have trained on, and its metrics


def training_mean(server: ServerSpec, trained: Mapping[str, Trained]) -> dict[str, float]:
    """What clients measured while they trained, weighed as their changes are; summed in the order of their names.

    Those that lack a metric do not count in it.
    """
    clients = sorted(trained)
    weights = server.counted([trained[client][0] for client in clients])
    sums: dict[str, tuple[float, float]] = {}
    for client, weight in zip(clients, weights, strict=True):
        for metric, value in trained[client][1].items():
            total, of_all = sums.get(metric, (0.0, 0.0))
            sums[metric] = total + weight * value, of_all + weight
    return {metric: total / of_all for metric, (total, of_all) in sums.items() if of_all}


def fits(name: str, counts: Sequence[float]) -> bool:
    """Whether any examples are counted so; of finite numbers in the metric's size."""
    claim = MEASURES.get(name, _UNKNOWN).claim
    return claim is None or claim.fits(np.asarray(counts, np.float64))


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
_LOSS = Measure(formulas.mean, claims.LOSSES)
_SCORE = Measure(formulas.mean, claims.SCORES)


def _of_classes(
    value: Callable[[Array], float], by_class: Callable[[Array], list[float | None]] | None = None
) -> Measure:
    return Measure(value, claims.CLASSES, by_class)


MEASURES: dict[str, Measure] = {
    **dict.fromkeys(("loss", "mse", "mae"), _LOSS),
    **dict.fromkeys(("accuracy", "exact_match", "rouge1", "rouge2", "rougeL"), _SCORE),
    "perplexity": Measure(formulas.perplexity, claims.LOSSES),
    "f1": _of_classes(formulas.macro(formulas.f1s), formulas.f1s),
    "f1_micro": _of_classes(formulas.micro(formulas.f1s)),
    "f1_weighted": _of_classes(formulas.f1_weighted),
    "precision": _of_classes(formulas.macro(formulas.precisions), formulas.precisions),
    "recall": _of_classes(formulas.macro(formulas.recalls), formulas.recalls),
    "mcc": _of_classes(formulas.mcc),
    "entity_f1": _of_classes(formulas.micro(formulas.f1s), formulas.f1s),
    "entity_precision": _of_classes(formulas.micro(formulas.precisions), formulas.precisions),
    "entity_recall": _of_classes(formulas.micro(formulas.recalls), formulas.recalls),
    CONFUSION: Measure(_unknown, claims.TABLE),
    "auroc": Measure(formulas.auroc, claims.HISTOGRAMS, formulas.aurocs),
    "r2": Measure(formulas.r2, claims.R2, pooled=formulas.pooled_r2),
    "pearson": Measure(formulas.pearson, claims.PEARSON, pooled=formulas.pooled_pearson),
    "spearman": Measure(formulas.spearman, claims.CELLS, pooled=formulas.pooled_cells),
}
