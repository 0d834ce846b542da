"""Sites that count apart have the metrics of one test set of all of them: scikit-learn and scipy are the judges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as judge

from fedgalore.measures.counting import COUNTERS, count
from fedgalore.measures.formulas import bins_of
from fedgalore.measures.values import Measured, measured, pool
from fedgalore.spec.metrics import BINS, METRICS

Sets = list[tuple[NDArray[np.float64], NDArray[np.int64]]]
CLOSE = {"rel": 1e-9, "abs": 1e-9}


def together(kind: str, names: Sequence[str], sites: Sets) -> Measured:
    """What the sites' counts are worth, with each site counting in batches of three."""
    parts = []
    for scores, targets in sites:
        batches = [slice(at, at + 3) for at in range(0, len(targets), 3)]
        parts.append(pool([count(kind, names, torch.tensor(scores[b]), torch.tensor(targets[b])) for b in batches]))
    return measured(pool(parts))


def whole(sites: Sets) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return np.concatenate([scores for scores, _ in sites]), np.concatenate([targets for _, targets in sites])


@st.composite
def classified(draw: st.DrawFn) -> tuple[int, Sets]:
    """Unequal sites: some see one class only, some one example; scores are few, so that many tie."""
    classes, seed = draw(st.integers(2, 6)), draw(st.integers(0, 2**32 - 1))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    chance = np.random.default_rng(seed)
    sites = []
    for size in sizes:
        seen = chance.choice(classes, chance.integers(1, classes + 1), replace=False)
        scores = chance.integers(-3, 4, (size, classes)) / 2 + chance.choice([0.0, 1e-3]) * chance.normal(size=classes)
        sites.append((scores, chance.choice(seen, size)))
    return classes, sites


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(classified())
def test_classes_of_unequal_sites_are_measured_as_one_test_set(case: tuple[int, Sets]) -> None:
    classes, sites = case
    names = [name for name in METRICS["classes"] if name != "auroc"]
    result = together("classes", names, sites)
    scores, targets = whole(sites)
    guesses = scores.argmax(1)
    expected = {
        "accuracy": judge.accuracy_score(targets, guesses),
        "f1": judge.f1_score(targets, guesses, average="macro", zero_division=0),
        "f1_micro": judge.f1_score(targets, guesses, average="micro", zero_division=0),
        "f1_weighted": judge.f1_score(targets, guesses, average="weighted", zero_division=0),
        "precision": judge.precision_score(targets, guesses, average="macro", zero_division=0),
        "recall": judge.recall_score(targets, guesses, average="macro", zero_division=0),
    }
    if len(set(targets)) > 1 and len(set(guesses)) > 1:
        expected["mcc"] = judge.matthews_corrcoef(targets, guesses)
    assert result.metrics == pytest.approx(expected, **CLOSE)
    assert set(result.undefined) == {"mcc"} - set(expected)
    labels = list(range(classes))
    assert result.confusion_matrix == judge.confusion_matrix(targets, guesses, labels=labels).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, _ = judge.precision_recall_fscore_support(
            targets, guesses, labels=labels, zero_division=np.nan
        )
    for name, by_class in (("precision", precision), ("recall", recall)):
        assert result.per_class[name] == [None if math.isnan(x) else pytest.approx(x) for x in by_class]
    occur = set(targets) | set(guesses)
    assert result.per_class["f1"] == [pytest.approx(f1[k]) if k in occur else None for k in labels]


def most_off(log_odds: NDArray[np.float64], is_class: NDArray[np.bool_]) -> float:
    """Half the share of pairs whose scores differ and lie in one bin: what the docstring of `aurocs` allows."""
    bins = bins_of(log_odds)
    own, others = (np.bincount(bins[which], minlength=BINS) for which in (is_class, ~is_class))
    return float(own @ others / own.sum() / others.sum() / 2)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(classified())
def test_the_area_under_the_curve_is_off_by_no_more_than_pairs_in_one_bin(case: tuple[int, Sets]) -> None:
    classes, sites = case
    result = together("classes", ["auroc"], sites)
    scores, targets = whole(sites)
    logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    values = []
    for k in range(classes):
        is_class, value = targets == k, result.per_class["auroc"][k]
        if is_class.all() or not is_class.any():
            assert value is None
            continue
        log_odds = logs[:, k] - np.log(-np.expm1(logs[:, k]))
        if most_off(log_odds, is_class) > 0.25:
            assert value is None
            assert "nearer to each other" in result.undefined["auroc"]
            continue
        right = judge.roc_auc_score(is_class, np.round(log_odds, 9))
        assert value == pytest.approx(right, abs=most_off(log_odds, is_class) + 1e-12)
        values.append(value)
    if values and not result.undefined:
        assert result.metrics["auroc"] == pytest.approx(np.mean(values))
    else:
        assert "auroc" in result.undefined


@pytest.mark.parametrize("classes", [2, 5])
def test_the_area_under_the_curve_is_right_to_three_digits(classes: int) -> None:
    """Of scores that do not tie: from hardly sure to as sure as a fine-tuned model."""
    chance = np.random.default_rng(1)
    for sure in (0.1, 1.0, 8.0):
        sites = []
        for size in (400, 37, 1):
            targets = chance.integers(0, classes, size)
            scores = sure * (chance.normal(size=(size, classes)) + np.eye(classes)[targets])
            sites.append((scores, targets))
        scores, targets = whole(sites)
        chances = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
        right = judge.roc_auc_score(targets, chances[:, 1] if classes == 2 else chances, multi_class="ovr")
        assert together("classes", ["auroc"], sites).metrics["auroc"] == pytest.approx(right, abs=1e-3)


def test_scores_that_one_bin_holds_have_no_area_under_the_curve() -> None:
    """scikit-learn tells them apart, and they are right without exception: 1/2 would be wrong."""
    targets = np.array([0, 1] * 20)
    scores = np.stack([np.zeros(40), 0.303 + 1e-4 * targets], axis=1)
    result = together("classes", ["auroc"], [(scores, targets)])
    assert "nearer to each other" in result.undefined["auroc"]
    assert result.per_class["auroc"] == [None, None]


@st.composite
def labelled(draw: st.DrawFn) -> Sets:
    labels, seed = draw(st.integers(1, 5)), draw(st.integers(0, 2**32 - 1))
    chance = np.random.default_rng(seed)
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    low = draw(st.sampled_from([0.01, -2.0]))  # logits that all look like chances are logits still
    return [(chance.uniform(low, 1, (n, labels)), chance.integers(0, 2, (n, labels))) for n in sizes]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(labelled())
def test_several_labels_an_example_are_measured_as_one_test_set(sites: Sets) -> None:
    result = together("labels", METRICS["labels"], sites)
    scores, targets = whole(sites)
    guesses = (scores > 0).astype(int)
    occur = [k for k in range(targets.shape[1]) if targets[:, k].any() or guesses[:, k].any()]
    with_labels = {"labels": occur, "zero_division": 0}
    expected = {"accuracy": judge.accuracy_score(targets, guesses)}
    if occur:
        t, g = (a if a.shape[1] > 1 else np.column_stack([a, 0 * a]) for a in (targets, guesses))
        expected |= {
            "f1": judge.f1_score(t, g, average="macro", **with_labels),
            "f1_micro": judge.f1_score(t, g, average="micro", **with_labels),
            "precision": judge.precision_score(t, g, average="macro", **with_labels),
            "recall": judge.recall_score(t, g, average="macro", **with_labels),
        }
        if targets.any():
            expected["f1_weighted"] = judge.f1_score(t, g, average="weighted", **with_labels)
    result.metrics.pop("auroc", None)
    assert result.metrics == pytest.approx(expected, **CLOSE)


@st.composite
def valued(draw: st.DrawFn) -> Sets:
    """Numbers far from 0 and near, of few values and of many, at sites that need not look alike."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    offset, few = draw(st.sampled_from([0.0, 5.0, 2000.0])), draw(st.booleans())
    sites = []
    for size in draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)):
        values = chance.normal(scale=100, size=size) + chance.normal(scale=50)
        scores = values + chance.normal(scale=60, size=size)
        pair = [np.round(each / 50) * 50 if few else each for each in (scores, values)]
        sites.append((pair[0] + offset, pair[1] + offset))
    return sites


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(valued())
def test_numbers_of_unequal_sites_are_measured_as_one_test_set(sites: Sets) -> None:
    result = together("numbers", METRICS["numbers"], sites)
    scores, targets = whole(sites)
    expected = {
        "mse": judge.mean_squared_error(targets, scores),
        "mae": judge.mean_absolute_error(targets, scores),
    }
    if len(set(targets)) > 1:
        expected["r2"] = judge.r2_score(targets, scores)
        if len(set(scores)) > 1:
            expected["pearson"] = stats.pearsonr(scores, targets).statistic
    if "spearman" in result.metrics:
        expected["spearman"] = stats.spearmanr(rounded(scores), rounded(targets)).statistic
    assert result.metrics == pytest.approx(expected, **CLOSE)
    assert set(result.undefined) == {"r2", "pearson", "spearman"} - set(expected)


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """To 16 significant bits."""
    step = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(values), 1e-300))) - 15)
    return np.round(values / step) * step


def test_spearman_of_ratings_is_exact_and_of_many_numbers_right_to_three_digits() -> None:
    chance = np.random.default_rng(3)
    ratings = [(chance.integers(1, 6, n).astype(float), chance.integers(1, 6, n).astype(float)) for n in (90, 4, 1)]
    right = stats.spearmanr(*whole(ratings)).statistic
    assert together("numbers", ["spearman"], ratings).metrics["spearman"] == pytest.approx(right, **CLOSE)
    many = [(x + chance.normal(size=len(x)), x) for x in (chance.normal(size=n) for n in (900, 300))]
    right = stats.spearmanr(*whole(many)).statistic
    assert together("numbers", ["spearman"], many).metrics["spearman"] == pytest.approx(right, abs=1e-3)


def test_pearson_of_numbers_far_from_nought_keeps_its_digits() -> None:
    chance = np.random.default_rng(4)
    sites = [(x + chance.normal(size=len(x)), x) for x in (1e7 + chance.normal(size=n) for n in (60, 11, 1))]
    right = stats.pearsonr(*whole(sites)).statistic
    assert together("numbers", ["pearson"], sites).metrics["pearson"] == pytest.approx(right, rel=1e-7)


def test_numbers_that_rounding_would_mix_up_are_said_to_be_so() -> None:
    values = 1e6 + np.arange(40.0)
    assert "nearer to each other" in together("numbers", ["spearman"], [(values, values)]).undefined["spearman"]


def test_every_metric_that_a_job_may_name_is_counted() -> None:
    for kind in ("classes", "labels", "numbers"):
        assert set(COUNTERS[kind]) == set(METRICS[kind])
