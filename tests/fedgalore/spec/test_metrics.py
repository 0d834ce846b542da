"""Which metrics a job may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from fedgalore.spec.job import SpecError
from tests.builders import a_spec

LANGUAGE = {"task": "causal-lm", "num_labels": None}


def test_a_job_measures_what_it_asks_for_after_what_every_job_measures() -> None:
    assert a_spec().measured == ("loss", "accuracy")
    asked = a_spec(evaluation={"metrics": ["mcc", "accuracy", "f1"]})
    assert asked.measured == ("loss", "accuracy", "mcc", "f1")
    writing = a_spec(model=LANGUAGE, evaluation={"metrics": ["perplexity"], "exact_match": "text"})
    assert writing.measured == ("loss", "accuracy", "perplexity", "exact_match")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"evaluation": {"metrics": ["f2"]}}, "'f2' does not fit sequence-classification.*accuracy, f1, f1_micro"),
        ({"evaluation": {"metrics": ["acuracy"]}}, r"as this job sets it \(did you mean accuracy\?\)"),
        ({"evaluation": {"metrics": ["loss"]}}, ".metrics: loss is always measured; leave it out"),
        ({"evaluation": {"metrics": ["mcc"]}, "model": LANGUAGE}, "'mcc' does not fit.*accuracy, perplexity"),
        (
            {"evaluation": {"metrics": ["f1", "auroc"]}, "model": {"num_labels": 200}},
            "f1, auroc of 200 classes are 410200 numbers, and a site sends at most 262144; leave auroc out",
        ),
        ({"evaluation": {"metrics": [""]}}, "metrics.0"),
        (
            {"evaluation": {"metrics": ["entity_f1"]}, "model": {"task": "token-classification", "num_labels": 3}},
            r"list the tags in model.label_names, such as \[O, B-PER, I-PER\]",
        ),
        (
            {
                "evaluation": {"metrics": ["entity_f1"]},
                "model": {"task": "token-classification", "num_labels": None, "label_names": ["O", "X-B", "X-I"]},
            },
            "such as B-PER and I-PER, and would take 'X-B' and 'X-I' for different types; rename them in",
        ),
        (
            {"evaluation": {"metrics": ["pearson"]}, "model": {"problem": "regression", "num_labels": 3}},
            "'pearson' does not fit.*take of mse, mae",
        ),
        ({"evaluation": {"metrics": ["mcc"]}, "model": {"problem": "multi_label"}}, "'mcc' does not fit"),
        ({"evaluation": {"metrics": ["f1"] * 51}}, "at most 50"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=f"evaluation.*{words}"):
        a_spec(**sections)
