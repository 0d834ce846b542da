"""Settings of a sweep, what they are compared by, and their refusals."""

from __future__ import annotations

from typing import Any

import pytest

from fedgalore.spec.job import JobSpec, parse
from fedgalore.sweep import Goal, Summary, SweepError, axis, goal_of, grid, score, with_values
from tests.builders import job_document


def a_spec(**sections: Any) -> JobSpec:
    return parse(job_document(**sections))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("method.rank=4,8", [4, 8]),
        ("local.learning_rate=1e-3,2.0e-3,null", [1e-3, 2e-3, None]),
        ("method={kind: fedavg},{kind: fedgalore, rank: 8}", [{"kind": "fedavg"}, {"kind": "fedgalore", "rank": 8}]),
        ("evaluation.metrics=[f1],[]", [["f1"], []]),
    ],
)
def test_values_are_yaml(text: str, values: list[Any]) -> None:
    assert axis(text) == (text.partition("=")[0], values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method.rank", "is no field with values; write path=value,value"),
        ("method..rank=4", "is no field with values"),
        ("method.rank=", "has no values"),
        ("method.rank=4,4", "has a value twice"),
        ("method.rank=4,]", "the values are not valid YAML"),
    ],
)
def test_what_is_no_axis_is_refused(text: str, words: str) -> None:
    with pytest.raises(SweepError, match=words):
        axis(text)


def test_every_combination_is_a_setting_and_the_rest_stays() -> None:
    settings = grid(a_spec(), [("method.rank", [4, 8]), ("server.clip_norm", [1.0]), ("local.steps", [1, 2])])
    assert [str(each) for each in settings] == [
        f"method.rank={rank}, server.clip_norm=1.0, local.steps={steps}" for rank in (4, 8) for steps in (1, 2)
    ]
    assert (settings[-1].spec.server.clip_norm, settings[-1].spec.local.steps) == (1.0, 2)
    assert [spec.seed for spec in settings[0].seeded(3)] == [0, 1, 2]
    assert {**settings[0].spec.model_dump(), "method": 0, "local": 0, "server": 0} == {
        **a_spec().model_dump(),
        "method": 0,
        "local": 0,
        "server": 0,
    }
    (alone,) = grid(a_spec(), [])
    assert alone.spec == a_spec()


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([("method.rnk", [4])], r"--sweep method.rnk=4: method.rnk: .*rank"),
        (
            [("method.rank", [4, 0, -1])],
            r"--sweep method.rank=0: method.rank: .*; --sweep method.rank=-1: method.rank: ",
        ),
        ([("nosuch.field", [1])], "--sweep nosuch.field=1: nosuch: "),
        ([("name.deep", [1])], "--sweep name.deep=1: name.deep: name is '.*' and holds no deep"),
        ([("seed", [1, 2])], "--sweep seed: is what each setting is repeated with; say how often by --seeds"),
        ([("local.steps", [1]), ("local.steps", [2])], "--sweep local.steps: is there twice"),
    ],
)
def test_settings_that_are_no_jobs_are_named_with_the_words_of_the_document(axes: Any, words: str) -> None:
    with pytest.raises(SweepError, match=words):
        grid(a_spec(), axes)


def test_settings_are_compared_by_what_the_job_keeps_or_by_its_first_metric() -> None:
    keep = a_spec(evaluation={"keep": {"metric": "loss"}})
    assert goal_of([keep]) == Goal("loss", "min")
    assert goal_of([keep], "accuracy") == goal_of([a_spec()]) == Goal("accuracy", "max")
    numbers = with_values(a_spec(), [("model.num_labels", 1), ("model.problem", "regression")])
    assert goal_of([numbers]) == Goal("mse", "min")
    with pytest.raises(SweepError, match="--metric: f1 is not measured in every setting; take one of loss, accuracy"):
        goal_of([a_spec(), a_spec(evaluation={"metrics": ["f1"]})], "f1")
    assert Goal("loss", "min").is_better(1.0, 2.0) and not Goal("accuracy", "max").is_better(1.0, 2.0)


def test_mean_and_spread_are_over_seeds() -> None:
    assert Summary.of([1.0, 3.0]) == Summary(2, 2.0, pytest.approx(2**0.5))
    assert Summary.of([1.0]) == Summary(1, 1.0, None)
    assert Summary.of([]) == Summary(0, None, None)
    with pytest.raises(SweepError, match="accuracy has no value; give the clients test examples"):
        score(Goal("accuracy", "max"), {"loss": 1.0})
