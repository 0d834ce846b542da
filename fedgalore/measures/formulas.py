"""The formulas of metrics: what sums of counts make, in numpy. `fedgalore.measures.values` says what the counts are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedgalore.spec.metrics import BINS

Array = NDArray[np.float64]

_REACH = 64.0  # log-odds; whatever is beyond lies in the last bin
_CROWDED = 0.5  # share of pairs of scores that lie in one bin, at most


class Undefined(ValueError):
    """A metric has no value on these counts; the message says why."""


# --- sums of scores ---------------------------------------------------------------------------------------------------


def mean(sums: Array) -> float:
    """`sum / n`."""
    total, count = sums
    if count <= 0:
        raise Undefined("nothing was counted")
    return float(total / count)


def perplexity(sums: Array) -> float:
    """`exp` of the mean loss of a token."""
    return float(np.exp(mean(sums)))


# --- classes ----------------------------------------------------------------------------------------------------------


def _ratios(over: Array, under: Array) -> list[float | None]:
    return [float(a / b) if b > 0 else None for a, b in zip(over, under, strict=True)]


def precisions(sums: Array) -> list[float | None]:
    """By class, `right / predicted`; None for a class that was never predicted."""
    right, predicted, _ = sums.reshape(3, -1)
    return _ratios(right, predicted)


def recalls(sums: Array) -> list[float | None]:
    """By class, `right / true`; None for a class without examples."""
    right, _, true = sums.reshape(3, -1)
    return _ratios(right, true)


def f1s(sums: Array) -> list[float | None]:
    """By class, `2 right / (predicted + true)`; None for a class that is neither predicted nor true."""
    right, predicted, true = sums.reshape(3, -1)
    return _ratios(2 * right, predicted + true)


def macro(by_class: Callable[[Array], list[float | None]]) -> Callable[[Array], float]:
    """The plain mean over the classes that are predicted or true; what such a class lacks counts as 0."""

    def value(sums: Array) -> float:
        _, predicted, true = sums.reshape(3, -1)
        occur = predicted + true > 0
        if not occur.any():
            raise Undefined("no class is predicted or true")
        return sum(one or 0.0 for one, there in zip(by_class(sums), occur, strict=True) if there) / int(occur.sum())

    return value


def micro(by_class: Callable[[Array], list[float | None]]) -> Callable[[Array], float]:
    """Of all classes as if they were one."""

    def value(sums: Array) -> float:
        one = by_class(sums.reshape(3, -1).sum(1))[0]
        if one is None:
            raise Undefined("nothing is predicted or true that it could count")
        return one

    return value


def f1_weighted(sums: Array) -> float:
    """The mean of the classes' F1, weighted by their examples."""
    true = sums.reshape(3, -1)[2]
    if true.sum() <= 0:
        raise Undefined("no class is true")
    return sum(float(n) * (one or 0.0) for n, one in zip(true, f1s(sums), strict=True)) / float(true.sum())


def mcc(sums: Array) -> float:
    """Matthews' correlation coefficient of several classes (Gorodkin 2004)."""
    right, predicted, true = sums.reshape(3, -1)
    n = true.sum()
    spread = (n * n - predicted @ predicted) * (n * n - true @ true)
    if not spread > 0:
        raise Undefined("all examples are of one class, or all predictions are")
    return float((right.sum() * n - predicted @ true) / np.sqrt(spread))


def bins_of(log_odds: Array) -> NDArray[np.int64]:
    """The bin of each score. Bins are equal on the scale `asinh(log-odds)`: fine around 1/2 and near 0 and 1 alike."""
    reach = math.asinh(_REACH)
    share = (np.arcsinh(np.nan_to_num(log_odds, nan=0.0)) + reach) / (2 * reach)
    return np.clip((share * BINS).astype(np.int64), 0, BINS - 1)


def aurocs(sums: Array) -> list[float | None]:
    """By class, the chance that one of its examples scores above another example; equal bins count half.

    None for a class that no example or every example belongs to. Two scores that share a bin count as equal: it is off
    by at most half of the share of such pairs. None where this is more than `_CROWDED`.
    """
    values: list[float | None] = []
    for others, own in sums.reshape(-1, 2, BINS):
        pairs = others.sum() * own.sum()
        below = np.cumsum(others) - others / 2
        tells = pairs > 0 and own @ others <= _CROWDED * pairs
        values.append(float(own @ below / pairs) if tells else None)
    return values


def auroc(sums: Array) -> float:
    """The plain mean over the classes, each against the rest, that some examples belong to and others do not."""
    held = sums.reshape(-1, 2, BINS).sum(2)
    values = [value for value, both in zip(aurocs(sums), held.min(1) > 0, strict=True) if both]
    if not values:
        raise Undefined("all examples are of one class")
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise Undefined("most scores of a class are equal, or nearer to each other than the histogram's bins can tell")
    return sum(known) / len(known)


# --- numbers ----------------------------------------------------------------------------------------------------------


def _merged_means(parts: Sequence[tuple[float, Array, Array]]) -> tuple[float, Array, Array]:
    """Counts, means and sums of (co-)squares of several sets as those of one (Chan, Golub and LeVeque 1979).

    Each part: `n`; means `(v,)`; sums of products of differences from the means `(v, v)`.
    """
    n, means, products = parts[0]
    for more, their_means, their_products in parts[1:]:
        total = n + more
        if total <= 0:
            continue
        away = their_means - means
        products = products + their_products + np.outer(away, away) * (n * more / total)
        means = means + away * (more / total)
        n = total
    return n, means, products


def r2(sums: Array) -> float:
    """`1 - (squared errors) / (squared differences of the targets from their mean)`."""
    errors, _, _, spread = sums
    if not spread > 0:
        raise Undefined("all targets are equal")
    return float(1 - errors / spread)


def pooled_r2(parts: Sequence[Array]) -> Array:
    n, means, products = _merged_means([(part[1], part[2:3], part[3:4, None]) for part in parts])
    return np.array([sum(part[0] for part in parts), n, means[0], products[0, 0]])


def pearson(sums: Array) -> float:
    """Pearson's correlation of predictions and targets."""
    _, _, _, predicted, true, together = sums
    if not (predicted > 0 and true > 0):
        raise Undefined("all predictions are equal, or all targets are")
    return float(np.clip(together / np.sqrt(predicted) / np.sqrt(true), -1, 1))


def pooled_pearson(parts: Sequence[Array]) -> Array:
    def unpacked(part: Array) -> tuple[float, Array, Array]:
        n, mean_p, mean_t, m2_p, m2_t, together = part
        return n, np.array([mean_p, mean_t]), np.array([[m2_p, together], [together, m2_t]])

    n, means, products = _merged_means([unpacked(part) for part in parts])
    return np.array([n, *means, products[0, 0], products[1, 1], products[0, 1]])


_ROUNDED_AWAY = 1e-4  # of the variance, at most


def spearman(sums: Array) -> float:
    """Pearson's correlation of the ranks, where equal values share their mean rank; of values rounded by the sites."""
    cells = sums[2:].reshape(-1, 3)
    counts = cells[:, 2]
    n, ranks = counts.sum(), []
    for column, lost in enumerate(sums[:2]):
        values, place = np.unique(cells[:, column], return_inverse=True)
        spread = counts @ (cells[:, column] - counts @ cells[:, column] / n) ** 2
        if len(values) < 2 or lost > _ROUNDED_AWAY * spread:
            raise Undefined("the predictions, or the targets, are equal or nearer to each other than 16 bits can tell")
        held = np.bincount(place, counts)
        ranks.append((np.cumsum(held) - held / 2)[place] - n / 2)
    x, y = ranks
    return float(np.clip((counts * x) @ y / np.sqrt((counts * x) @ x) / np.sqrt((counts * y) @ y), -1, 1))


def pooled_cells(parts: Sequence[Array]) -> Array:
    """A cell of several parts is one cell; cells are in the order of their values."""
    cells = np.concatenate([part[2:].reshape(-1, 3) for part in parts])
    pairs, place = np.unique(cells[:, :2], axis=0, return_inverse=True)
    held = np.bincount(place.ravel(), cells[:, 2])
    lost = np.sum([part[:2] for part in parts], axis=0)
    return np.concatenate([lost, np.column_stack([pairs, held]).ravel()])
