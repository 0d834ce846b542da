"""Metrics of other packages: what is allowed, what they count, and what their sums are worth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sklearn import metrics as judge

from fedgalore.evaluation import evaluate
from fedgalore.measures import custom
from fedgalore.measures.custom import CustomMetricError, allow, check_allowed
from fedgalore.measures.values import MEASURES, measured, pool
from fedgalore.model.task import TaskModel
from fedgalore.preflight import Split, preflight
from tests.fedgalore.conftest import classifier, sentences, tiny_bert  # noqa: F401  # a fixture

HERE = "tests.fedgalore.measures.custom_metrics"
F_BETA, TOP_TWO = f"{HERE}:F_BETA", f"{HERE}:TopTwo"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What a test allows is allowed in that test alone."""
    yield
    for path in list(custom.ALLOWED):
        del custom.ALLOWED[path], MEASURES[path]


@pytest.mark.slow
def test_sites_count_a_custom_metric_as_one_test_set(tiny_bert: Path) -> None:  # noqa: F811
    allow([F_BETA, TOP_TWO])
    task = TaskModel.load(classifier(evaluation={"metrics": [F_BETA, TOP_TWO], "batch_size": 5}), tiny_bert)
    sites = [sentences(23, 1, ("weather",)), sentences(11, 2), sentences(1, 3)]
    pooled = measured(pool([evaluate(task, site).counts for site in sites])).metrics
    whole = [example for site in sites for example in site]
    with torch.no_grad():
        scores = task.outputs(task.collate(whole)).logits
    targets = [example["label"] for example in whole]
    expected = judge.fbeta_score(targets, scores.argmax(1), beta=2, average="macro")
    assert pooled[F_BETA] == pytest.approx(expected, rel=1e-5)
    assert pooled[TOP_TWO] == judge.top_k_accuracy_score(targets, scores, k=2, labels=[0, 1, 2])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_package.metrics:F", "cannot be loaded .*install its package here, or correct the name"),
        (f"{HERE}:MISSING", "cannot be loaded"),
        (f"{HERE}:NOTHING", "is neither a torchmetrics.Metric nor an object with counts"),
        (f"{HERE}:RANKS", "has the state preds, which is not summed over sites"),
    ],
)
def test_what_is_no_metric_that_can_be_summed_is_refused(path: str, words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of the memory that such a metric takes
        with pytest.raises(CustomMetricError, match=f"^metrics: {path} {words}"):
            allow([path])


def test_a_site_that_does_not_allow_a_metric_says_so_before_any_model_is_fetched() -> None:
    spec = classifier(evaluation={"metrics": ["f1", TOP_TWO]})
    found = preflight(spec, Split("train", sentences(6, 0)), None)
    assert found.problem is not None
    assert f"{TOP_TWO} is not allowed at this site (it allows none of other packages)" in found.problem
    allow([TOP_TWO])
    assert preflight(spec, Split("train", sentences(6, 0)), None).problem is None
    with pytest.raises(CustomMetricError, match=f"it allows {TOP_TWO}"):
        check_allowed([F_BETA], "the coordinator")


def test_a_metric_that_fails_has_no_value_and_takes_no_other_away() -> None:
    allow([f"{HERE}:Moody"])
    result = measured({"loss": [1.0, 2.0], f"{HERE}:Moody": [1.0, 2.0], f"{HERE}:Unknown": [3.0]})
    assert result.metrics == {"loss": 0.5}
    assert "RuntimeError: not today" in result.undefined[f"{HERE}:Moody"]
    assert "not among the metrics that are allowed here" in result.undefined[f"{HERE}:Unknown"]


def test_a_metric_that_counts_something_else_than_it_says_is_named() -> None:
    allow([f"{HERE}:Forgetful"])
    with pytest.raises(CustomMetricError, match="counts right, and its counts names right, all; mend the metric"):
        custom.ALLOWED[f"{HERE}:Forgetful"].count(torch.zeros(1, 3), torch.zeros(1))
