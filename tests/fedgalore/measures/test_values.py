"""What sums are worth where they say little, or come from a site that says anything."""

from __future__ import annotations

from math import isfinite

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgalore.measures.counting import entities
from fedgalore.measures.values import MEASURES, measured, pool
from fedgalore.spec.metrics import ALWAYS, METRICS, counts_of
from fedgalore.spec.model import ModelSpec

TAGS = ModelSpec(source="m", task="token-classification", label_names=("B-PER", "B-ORG"))
numbers = st.one_of(st.floats(-1e300, 1e300), st.integers(0, 9).map(float))


def test_a_class_that_is_never_predicted_has_no_precision_and_one_without_examples_no_recall() -> None:
    counts = {name: [1, 0, 0, 3, 0, 0, 1, 2, 0] for name in ("precision", "recall", "f1")}
    result = measured(counts)
    assert result.per_class == {
        "precision": [1 / 3, None, None],
        "recall": [1.0, 0.0, None],
        "f1": [0.5, 0.0, None],
    }
    assert result.metrics == pytest.approx({"precision": 1 / 6, "recall": 0.5, "f1": 0.25})


@pytest.mark.parametrize(
    ("name", "sums", "reason"),
    [
        ("loss", [0, 0], "nothing was counted"),
        ("perplexity", [1e6, 1], "no number can hold"),
        ("mcc", [0, 0, 2, 0, 1, 1], "of one class"),
        ("f1", [0, 0, 0, 0, 0, 0], "no class is predicted or true"),
        ("auroc", [1.0, *[0.0] * 4095], "of one class"),
        ("auroc", [1.0, *[0.0] * 1023, 1.0, *[0.0] * 3071], "nearer to each other"),
        ("r2", [1, 3, 5, 0], "all targets are equal"),
        ("pearson", [1, 2, 3, 0, 0, 0], "all targets are"),
        ("spearman", [0, 0, 1, 2, 5], "equal or nearer"),
    ],
)
def test_what_has_no_value_is_absent_and_says_why(name: str, sums: list[float], reason: str) -> None:
    result = measured({name: sums})
    assert result.metrics == {} and reason in result.undefined[name]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(set(MEASURES) - {"confusion_matrix"})), st.data())
def test_any_sums_of_the_right_size_give_a_finite_number_or_a_reason(name: str, data: st.DataObject) -> None:
    size = min(counts_of(name, TAGS), 8)
    if name == "auroc":
        sums = np.zeros(counts_of(name, TAGS))
        sums[data.draw(st.lists(st.integers(0, sums.size - 1), max_size=4))] = data.draw(numbers)
    else:
        sums = np.array(data.draw(st.lists(numbers, min_size=size, max_size=size)))
    result = measured(pool([{name: sums}, {name: sums}]))
    assert (name in result.metrics) != (name in result.undefined)
    values = [*result.metrics.values(), *(value for row in result.per_class.values() for value in row)]
    assert all(value is None or isfinite(value) for value in values)


def test_parts_that_count_other_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="f1"):
        pool([{"loss": [1, 2]}, {"loss": [1, 2], "f1": [1, 1, 1]}])


def test_every_metric_that_a_job_may_name_has_a_value() -> None:
    names = {name for table in (METRICS, ALWAYS) for row in table.values() for name in row}
    assert names - {"confusion_matrix"} <= set(MEASURES)


def test_an_entity_counts_when_it_is_found_whole() -> None:
    tags = ("O", "B-PER", "I-PER", "B-ORG")
    true = torch.tensor([1, 2, 0, 3, 1, 0])  # two texts, of four words and of two
    said = torch.tensor([1, 2, 3, 3, 1, 2])
    counts = entities(torch.nn.functional.one_hot(said, 4).float(), true, (4, 2), tags)
    assert counts.tolist() == [1, 1, 2, 2, 2, 1]
    result = measured(dict.fromkeys(("entity_f1", "entity_precision", "entity_recall"), counts))
    assert result.metrics == pytest.approx({"entity_precision": 2 / 4, "entity_recall": 2 / 3, "entity_f1": 4 / 7})
    assert result.per_class["entity_recall"] == [0.5, 1.0]
