"""Which version is the best, and when no further round is worth while."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgalore.best import Best, best_of, describe, is_worn_out, no_best
from fedgalore.spec.job import JobSpec
from tests.builders import a_spec


def keeping(metric: str = "accuracy", **more: float) -> JobSpec:
    return a_spec(evaluation={"keep": {"metric": metric, **more}})


def by_central() -> JobSpec:
    return a_spec(evaluation={"central": "topics", "keep": {"metric": "accuracy", "by": "central"}})


def after(values: list[float], spec: JobSpec) -> Best | None:
    assert spec.evaluation.keep is not None
    best = None
    for version, value in enumerate(values):
        best = best_of(best, version, {"sites": {spec.evaluation.keep.metric: value}}, spec)
    return best


def test_a_job_that_keeps_none_has_none() -> None:
    spec = a_spec()
    assert best_of(None, 0, {"sites": {"loss": 1.0}}, spec) is None
    assert not is_worn_out(None, spec)
    assert describe(None, {}, spec) == ""
    assert no_best(None, {}, spec) is None


def test_why_no_version_is_the_best_is_said() -> None:
    nobody, none = "no client has measured accuracy", "accuracy has no value (one class alone)"
    for undefined, why in (({}, nobody), ({"accuracy": "one class alone"}, none), ({"f1": "x"}, nobody)):
        words = f"{why}, so no version is the best (evaluation.keep)"
        assert (
            describe(None, {"sites": undefined}, keeping()) == no_best(None, {"sites": undefined}, keeping()) == words
        )
    assert no_best(Best(1, 0.7, 0.7), {"sites": {"accuracy": "x"}}, keeping()) is None
    assert no_best(None, {"central": {"accuracy": "one class"}}, keeping()).startswith(
        "accuracy has no value (one class)"
    )
    assert no_best(None, {}, by_central()).startswith("accuracy has not been measured on evaluation.central, so no")


def test_of_equal_values_the_earlier_version_stays() -> None:
    assert after([0.5, 0.7, 0.7, 0.6], keeping()) == Best(1, 0.7, 0.7, since=2)
    assert after([0.5, 0.3, 0.3, 0.4], keeping("loss")) == Best(1, 0.3, 0.3, since=2)


def test_a_version_without_the_metric_changes_nothing() -> None:
    best = Best(1, 0.7, 0.7, since=2)
    assert best_of(best, 4, {"sites": {"loss": 0.1}}, keeping()) is best
    assert best_of(None, 4, {}, keeping()) is None


def test_the_held_out_set_decides_where_the_job_says_so() -> None:
    best = None
    for version, sites, central in ((0, 0.5, 0.9), (1, 0.8, 0.6)):
        told = {"sites": {"accuracy": sites}, "central": {"accuracy": central}}
        best = best_of(best, version, told, by_central())
    assert best == Best(0, 0.9, 0.9, since=1, by="central")
    assert best_of(best, 2, {"sites": {"accuracy": 1.0}}, by_central()) is best
    assert describe(best, {}, by_central()) == "version 0 is the best: accuracy 0.9 on the held-out set"


def test_who_measured_first_goes_on_to_decide() -> None:
    spec, both = keeping(), {"sites": {"accuracy": 0.5}, "central": {"accuracy": 0.9}}
    by_sites = best_of(None, 0, both, spec)
    assert by_sites == Best(0, 0.5, 0.5)
    assert best_of(by_sites, 1, {"central": {"accuracy": 0.9}}, spec) is by_sites
    held_out = best_of(None, 0, {"sites": {}, "central": {"accuracy": 0.4}}, spec)
    assert held_out == Best(0, 0.4, 0.4, by="central")
    assert best_of(held_out, 1, both, spec) == Best(1, 0.9, 0.9, by="central")


def test_small_steps_count_as_an_improvement_once_they_sum_up_to_min_delta() -> None:
    spec = keeping(patience=3, min_delta=0.1)
    best = after([0.5, 0.54, 0.58], spec)
    assert best == Best(2, 0.58, 0.5, since=2)  # the best for download, and yet no improvement for patience
    assert best_of(best, 3, {"sites": {"accuracy": 0.62}}, spec) == Best(3, 0.62, 0.62, since=0)
    worn = best_of(best, 3, {"sites": {"accuracy": 0.6}}, spec)
    assert is_worn_out(worn, spec)
    assert not is_worn_out(worn, keeping())  # without patience a job goes on to its end
    assert describe(worn, {}, spec) == (
        "ended early: no improvement by more than 0.1 in 3 evaluations (evaluation.keep.patience); "
        "version 3 is the best: accuracy 0.6"
    )


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    metric=st.sampled_from(["loss", "accuracy"]),
    patience=st.integers(1, 5),
)
def test_the_best_is_the_first_of_the_extreme_values(values: list[float], metric: str, patience: int) -> None:
    spec = keeping(metric, patience=patience)
    extreme = min(values) if metric == "loss" else max(values)
    first = values.index(extreme)
    assert after(values, spec) == Best(first, extreme, extreme, since=len(values) - 1 - first)
    assert is_worn_out(after(values, spec), spec) == (len(values) - 1 - first >= patience)


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        (
            {"keep": {"metric": "f1"}},
            "'f1' is not measured in this job; add it to evaluation.metrics, or take loss or acc",
        ),
        (
            {"keep": {"metric": "confusion_matrix"}, "metrics": ["confusion_matrix"]},
            "'confusion_matrix' is a table, and versions are compared by one number; take loss or accuracy, or add one",
        ),
        ({"keep": {"metric": "per_class"}}, "'per_class' is a table"),
        ({"keep": {"metric": "acuracy"}}, r"'acuracy' is no metric of this job \(did you mean accuracy\?\); take loss"),
        ({"keep": {"metric": "a.b:C"}}, "'a.b:C' is not measured in this job; add it to evaluation.metrics, or take"),
        ({"keep": {"metric": "exact_match"}}, "take loss or accuracy"),
        ({"keep": {"metric": "loss", "mode": "max"}}, "max would keep the worst loss; take min, or leave mode out"),
        ({"keep": {"metric": "accuracy", "mode": "min"}}, "take max, or leave mode out"),
        ({"every": 0, "keep": {"metric": "loss"}}, "set every to 1 or more"),
        ({"keep": {"metric": "loss", "by": "central"}}, "central goes by the set that evaluation.central names; name"),
        ({"keep": {"metric": "loss", "min_delta": 0.1}}, "set patience, or leave min_delta out"),
    ],
)
def test_what_could_not_be_kept_is_refused(evaluation: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("'", ".")):
        a_spec(evaluation=evaluation)
