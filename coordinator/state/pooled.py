"""What the clients of a round measured of its model, as one test set of all of them would show it."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from coordinator.state.round_state import EvaluationResult, Round


def pooled(round: Round) -> dict[str, float]:
    """Metrics, by name, of the version that the round started from; empty where nobody evaluated it."""
    return pool([each.evaluation for each in round.participants.values() if each.evaluation is not None])


def pool(results: Sequence[EvaluationResult]) -> dict[str, float]:
    """Means, weighted by examples, of the metrics that every result has; empty where there are no examples."""
    total = sum(result.examples for result in results)
    if total == 0:
        return {}
    names = sorted(set.intersection(*(set(result.metrics) for result in results)))
    return {name: fsum(result.examples * result.metrics[name] for result in results) / total for name in names}
