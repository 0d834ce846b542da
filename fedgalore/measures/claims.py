"""What a site says that it counted: of how many examples, whether any examples count so, and the same of fewer.

Nobody can check a site's counts. So a site weighs no more in an evaluation than the job lets it, whatever number it
claims, and counts that no examples make are refused. The counts themselves: `fedgalore.measures.values`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedgalore.measures.formulas import Array
from fedgalore.spec.metrics import BINS

_ROUNDING = 1e-6  # of sums in float64 and losses in float32


def _times(sums: Array, share: float) -> Array:
    return sums * share


@dataclass(frozen=True)
class Claim:
    """A layout of counts.

    `size`: how many examples (or tokens, or labels) they are of; `fits`: whether they can be; `shrunk`: those of a
    share of as many examples, at the same values.
    """

    size: Callable[[Array], float]
    fits: Callable[[Array], bool]
    shrunk: Callable[[Array, float], Array] = _times


def _count(sums: Array) -> float:
    return float(sums[1])


def _is_loss(sums: Array) -> bool:
    total, count = sums
    return bool(count >= 0 and total >= -_ROUNDING * count)


def _is_score(sums: Array) -> bool:
    total, count = sums
    return bool(0 <= total <= count * (1 + _ROUNDING))


def _of_classes(sums: Array) -> float:
    _, predicted, true = sums.reshape(3, -1)
    return float(max(predicted.sum(), true.sum()))


def _are_classes(sums: Array) -> bool:
    right, predicted, true = sums.reshape(3, -1)
    return bool((right >= 0).all() and (right <= np.minimum(predicted, true)).all())


def _of_histograms(sums: Array) -> float:
    return float(sums.reshape(-1, 2 * BINS).sum(1).max())


def _none_is_negative(sums: Array) -> bool:
    return bool((sums >= 0).all())


def _is_r2(sums: Array) -> bool:
    return _none_is_negative(sums[[0, 1, 3]])


def _is_pearson(sums: Array) -> bool:
    count, _, _, predicted, true, together = sums
    most = np.sqrt(max(predicted, 0)) * np.sqrt(max(true, 0)) * (1 + _ROUNDING)
    return bool(min(count, predicted, true) >= 0 and abs(together) <= most)


def _of_cells(sums: Array) -> float:
    return float(sums[4::3].sum())


def _are_cells(sums: Array) -> bool:
    return _none_is_negative(sums[:2]) and _none_is_negative(sums[4::3])


def _but(*means: int) -> Callable[[Array, float], Array]:
    """All but the means, which are the same of any number of examples."""

    def shrunk(sums: Array, share: float) -> Array:
        fewer = sums * share
        fewer[list(means)] = sums[list(means)]
        return fewer

    return shrunk


def _fewer_cells(sums: Array, share: float) -> Array:
    fewer = sums.copy()
    fewer[:2] *= share
    fewer[4::3] *= share
    return fewer


LOSSES = Claim(_count, _is_loss)
SCORES = Claim(_count, _is_score)
CLASSES = Claim(_of_classes, _are_classes)
TABLE = Claim(lambda sums: float(sums.sum()), _none_is_negative)
HISTOGRAMS = Claim(_of_histograms, _none_is_negative)
R2 = Claim(_count, _is_r2, _but(2))
PEARSON = Claim(lambda sums: float(sums[0]), _is_pearson, _but(1, 2))
CELLS = Claim(_of_cells, _are_cells, _fewer_cells)
