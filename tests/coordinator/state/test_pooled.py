"""What a round's clients measured, taken together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.state import round as rounds
from coordinator.state.pooled import pool, pooled
from coordinator.state.round_state import EvaluationResult, Participant
from tests.builders import a_policy


def result(examples: int, **metrics: float) -> EvaluationResult:
    return EvaluationResult(0, examples, metrics)


def test_a_client_counts_with_its_examples() -> None:
    assert pool([result(30, accuracy=0.5), result(10, accuracy=1.0)]) == {"accuracy": pytest.approx(0.625)}


def test_a_metric_that_a_client_lacks_is_left_out() -> None:
    assert pool([result(1, loss=1.0, accuracy=0.5), result(3, loss=2.0)]) == {"loss": pytest.approx(1.75)}


def test_clients_without_an_evaluation_do_not_count() -> None:
    opened = rounds.open_round(1, "train", 0, True, 0.0, a_policy())
    assert pooled(opened) == {}
    parts = {"a": Participant(evaluation=result(2, loss=1.0)), "b": Participant()}
    assert pooled(replace(opened, participants=parts)) == {"loss": 1.0}
    assert pool([result(0, loss=1.0)]) == {}
