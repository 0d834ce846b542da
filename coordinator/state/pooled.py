"""What the clients of a round measured of its model, as one test set of all of them would show it."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.state.round_state import EvaluationResult, Round
from fedgalore import pooling


def pooled(round: Round) -> dict[str, float]:
    """Metrics, by name, of the version that the round started from; empty where nobody evaluated it."""
    return pool(each.evaluation for each in round.participants.values() if each.evaluation is not None)


def pool(results: Iterable[EvaluationResult]) -> dict[str, float]:
    """The metrics that every result has, pooled; empty where there are no examples."""
    return pooling.pool([(result.examples, result.metrics) for result in results])
