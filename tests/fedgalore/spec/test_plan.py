"""What of a model is trained, as the doors see it."""

import json

import pytest

from fedgalore.spec.plan import Dense, Target, TrainingPlan
from tests.builders import a_spec


def test_a_plan_survives_json():
    plan = TrainingPlan((Target("w", (3, 4), 2),), (Dense("b", (4,)), Dense("scalar", ())))
    assert TrainingPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_sizes_are_counted_in_bytes():
    plan = TrainingPlan((Target("w", (3, 4), 2),), (Dense("b", (5,)), Dense("scalar", ())))
    assert plan.dense_bytes() == 4 * (12 + 5 + 1)


@pytest.mark.parametrize(
    ("shape", "tall", "d", "k"), [((3, 4), False, 3, 4), ((4, 3), True, 3, 4), ((3, 3), False, 3, 3)]
)
def test_targets_are_oriented_to_the_smaller_side(shape, tall, d, k):
    target = Target("w", shape, 2)
    assert (target.tall, target.d, target.k) == (tall, d, k)


@pytest.mark.parametrize(
    ("pattern", "module", "rank"),
    [
        ({}, "bert.layer.0.query", 8),
        ({"query": 2}, "bert.layer.0.query", 2),
        ({"uery": 2}, "bert.layer.0.query", 8),
        ({"output.dense": 2, "attention.output.dense": 5}, "bert.layer.0.attention.output.dense", 5),
        ({"output.dense": 2, "attention.output.dense": 5}, "bert.layer.0.output.dense", 2),
    ],
)
def test_the_longest_suffix_gives_a_modules_rank(pattern, module, rank):
    for kind in ("fedgalore", "fedit"):
        assert a_spec(method={"kind": kind, "rank": 8, "rank_pattern": pattern}).method.rank_of_module(module) == rank
    assert a_spec(method={"kind": "fedavg"}).method.rank_of_module(module) == 0


def test_a_client_may_have_a_separate_rank():
    method = a_spec(method={"rank": 4, "client_ranks": {"small": 2}}).method
    target = Target("w", (30, 40), 4)
    assert [method.rank_at(target, client) for client in ("small", "other")] == [2, 4]
    assert a_spec(method={"kind": "fedavg"}).method.rank_at(target, "small") == 0
