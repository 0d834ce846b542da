"""What a round's clients measured, taken together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from coordinator.state import round as rounds
from coordinator.state.errors import InvalidUpdate
from coordinator.state.pooled import by_version, check_counts, pool, pooled
from coordinator.state.round_state import EvaluationResult, Participant, Round
from fedgalore.spec.server import ServerSpec
from tests.builders import a_policy, a_result, a_spec

SERVER = ServerSpec()


def a_round(number: int = 1, **results: EvaluationResult) -> Round:
    opened = rounds.open_round(number, "train", 0, True, 0.0, a_policy())
    return replace(opened, participants={name: Participant(evaluation=result) for name, result in results.items()})


def test_a_client_counts_with_its_examples() -> None:
    measured = pool({"a": a_result(0, 30, accuracy=0.5), "b": a_result(0, 10, accuracy=1.0)}, SERVER)
    assert measured.metrics["accuracy"] == 0.625


def test_what_is_no_mean_is_of_the_sums() -> None:
    """Site a has seen class 0 alone, and is right; site b is wrong about most of class 1."""
    counts = {"a": (8.0, 0.0, 8.0, 0.0, 8.0, 0.0), "b": (0.0, 1.0, 3.0, 1.0, 0.0, 4.0)}
    results = {name: EvaluationResult(0, 8, {}, {"f1": numbers}) for name, numbers in counts.items()}
    assert pool(results, SERVER).metrics["f1"] == pytest.approx((16 / 19 + 2 / 5) / 2)


def test_clients_without_an_evaluation_do_not_count() -> None:
    assert pooled(a_round(), SERVER).metrics == {}
    half = a_round(a=a_result(0, 2, loss=1.0))
    both = replace(half, participants={**half.participants, "b": Participant()})
    assert pooled(both, SERVER).metrics == pooled(half, SERVER).metrics == {"loss": 1.0, "accuracy": 0.5}


def test_the_order_of_the_reports_changes_no_bit() -> None:
    results = {name: a_result(0, 7, loss=loss) for name, loss in (("a", 0.1), ("b", 1e9), ("c", 0.3))}
    assert pool(dict(reversed(results.items())), SERVER) == pool(results, SERVER)


def test_of_a_version_that_two_rounds_evaluated_a_client_counts_once() -> None:
    first, second = a_round(1, a=a_result(), b=a_result()), a_round(2, b=a_result(0, 4))
    found = by_version([first, second])
    assert {name: result.examples for name, result in found[0].items()} == {"a": 20, "b": 4}


def test_counts_are_stored_short_and_come_back_bit_for_bit() -> None:
    numbers = (0.1, -0.0, 1e300, *[0.0] * 100_000)
    before, adapter = a_round(a=EvaluationResult(0, 1, {}, {"auroc": numbers})), TypeAdapter(Round)
    stored = adapter.dump_json(before)
    assert len(stored) < 2000
    assert adapter.validate_json(stored) == before


def test_a_client_that_claims_any_number_of_examples_does_not_decide_alone() -> None:
    honest = {name: a_result(0, 20, accuracy=0.5) for name in "abc"}
    hostile = EvaluationResult(0, 20, {}, {"loss": (0.0, 1e15), "accuracy": (1e15, 1e15)})
    assert pool({**honest, "evil": hostile}, SERVER).metrics["accuracy"] == pytest.approx(0.75)
    believed = pool({**honest, "evil": hostile}, ServerSpec(max_weight=None))
    assert believed.metrics["accuracy"] == pytest.approx(1.0)


def test_counts_that_no_examples_make_are_refused() -> None:
    impossible = EvaluationResult(0, 20, {"loss": 1.0}, {"loss": (20.0, 20.0), "accuracy": (21.0, 20.0)})
    with pytest.raises(InvalidUpdate, match=r"evaluation.counts.accuracy: no examples are counted so"):
        check_counts(a_spec(), impossible)
