"""What several sites measured of a model, as one test set of all of them would show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum


def pool(parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Means, weighted by examples, of the metrics that every part has; empty where there are no examples.

    Args:
        parts: a site's number of evaluated examples, and its metrics by name.
    """
    total = sum(examples for examples, _ in parts)
    if total == 0:
        return {}
    names = sorted(set.intersection(*(set(metrics) for _, metrics in parts)))
    return {name: fsum(examples * metrics[name] for examples, metrics in parts) / total for name in names}
