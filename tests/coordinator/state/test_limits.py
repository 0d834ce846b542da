"""The limits for values of people and agents: the last value that is accepted and the first that is refused."""

from __future__ import annotations

import pytest

from coordinator.state.errors import InvalidAgent, InvalidRequest, InvalidUpdate
from coordinator.state.limits import (
    MAX_DATASETS,
    MAX_METRIC,
    MAX_METRIC_NAME,
    MAX_METRICS,
    MAX_REASON,
    MAX_TEXT,
    check_datasets,
    check_finite,
    check_metrics,
    check_name,
    check_text,
    shortened,
)

NAN, INFINITY = float("nan"), float("inf")


def test_metrics_up_to_the_limits_are_taken() -> None:
    check_metrics("metrics", {f"m{number}": 0.0 for number in range(MAX_METRICS)})
    check_metrics("metrics", {"m" * MAX_METRIC_NAME: -MAX_METRIC / 2})


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({f"m{number}": 0.0 for number in range(MAX_METRICS + 1)}, r"^metrics: has 101 entries; send at most 100$"),
        ({"m" * (MAX_METRIC_NAME + 1): 0.0}, r"^metrics\.m{64}: cannot be the name of a metric; use up to 200 letters"),
        ({"[/x]\x1b": 0.0}, r"^metrics\.\[/x\]\\x1b: cannot be the name of a metric"),
        ({"loss": NAN}, r"^metrics\.loss: is nan, not a finite number; a run that has diverged needs"),
        ({"loss": -INFINITY}, r"metrics\.loss: is -inf, not a finite number"),
        ({"loss": MAX_METRIC}, r"metrics\.loss: is 1e\+300, not a finite number"),
        ({"loss": 10**400}, r"metrics\.loss: is 10{63}, not a finite number"),
    ],
)
def test_metrics_beyond_a_limit_are_refused_by_name(metrics: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidUpdate, match=words):
        check_metrics("metrics", metrics)


def test_timings_and_statistics_have_to_be_finite() -> None:
    check_finite("timings", {"compute_s": 1e305})
    for value in (NAN, INFINITY):
        with pytest.raises(InvalidUpdate, match=r"timings\.compute_s: is (nan|inf), not a finite number"):
            check_finite("timings", {"compute_s": value})


def test_data_sets_have_names_and_examples_and_are_not_too_many() -> None:
    check_datasets({f"d{number}": 1 for number in range(MAX_DATASETS)})
    for datasets, words in (
        ({f"d{number}": 1 for number in range(MAX_DATASETS + 1)}, "datasets: has 1001 entries; offer at most 1000"),
        ({"reviews": 0}, r"datasets\.reviews: has no training examples"),
        ({"a/b": 1}, "datasets: 'a/b' cannot be a name"),
    ):
        with pytest.raises(InvalidAgent, match=words):
            check_datasets(datasets)
    with pytest.raises(InvalidAgent, match=f"client: '{'x' * 64}' cannot be a name"):
        check_name("client", "x" * 1000)


def test_texts_are_refused_and_reasons_are_shortened() -> None:
    check_text("stage", "x" * MAX_TEXT)
    with pytest.raises(InvalidRequest, match="stage: has 201 characters; send at most 200"):
        check_text("stage", "x" * (MAX_TEXT + 1))
    assert shortened("x" * MAX_REASON) == "x" * MAX_REASON
    assert shortened("x" * (MAX_REASON + 1)) == "x" * (MAX_REASON - 1) + "…"
