"""The lists that the doors check uploads against, compared with what clients and server really make of a real model."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedgalore.methods.fedgalore import (
    ClientTensors,
    aggregate_group,
    groups,
    mean_decay,
    subspace_config,
    update_of,
)
from fedgalore.optim import GaLoreAdamW
from fedgalore.plan import (
    Dense,
    Target,
    TrainingPlan,
    aggregate_tensors,
    bases_per_round,
    factors_are_smaller,
    residue_tensors,
    state_tensors,
    update_tensors,
)
from fedgalore.tasks import TaskModel
from fedgalore.training import apply_aggregate, local_update
from tests.builders import a_spec
from tests.fedgalore.conftest import sentences

CASES = {
    "plain": {},
    "basis changes inside a round": {"update_proj_gap": 2},
    "a basis for every step": {"update_proj_gap": 1},
    "downlink cut": {"downlink_rank": 2},
    "downlink cut above the smaller side": {"downlink_rank": 64},
    "no states": {"state_sync": "reset"},
    "full rank": {"rank": 32},
}


def listed(expected):
    return {name: spec.shape for name, spec in expected.items()}


def made(tensors):
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors.values())
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("case", CASES)
def test_lists_are_what_a_round_of_a_real_model_produces(case, tiny_bert):
    spec = a_spec(
        model={"source": "m", "num_labels": 3},
        method={"rank": 4, **CASES[case]},
        local={"steps": 3, "batch_size": 4, "weight_decay": 0.1},
    )
    task = TaskModel.load(spec, tiny_bert)
    plan, weights = task.plan, task.weights()
    assert {t.tall for t in plan.targets} == {True, False}
    assert made(weights) == listed(plan.weights())
    state: dict[str, torch.Tensor] = {}
    residue: dict[str, torch.Tensor] = {}
    for number in range(2):
        clients = []
        for name in ("a", "b"):
            task.load_weights(weights)
            update = local_update(task, spec, sentences(8, sum(name.encode())), name, number, state)
            assert made(update.tensors) == listed(update_tensors(spec, plan))
            clients.append(ClientTensors(name, update.num_examples, update.decay, update.tensors.__getitem__))
        new, down, state, kept = {}, {}, {}, {}
        for group in groups(plan, 2, spec):
            reader = residue.__getitem__ if residue else None
            part = aggregate_group(group, clients, weights.__getitem__, reader, spec, number, torch.device("cpu"))
            new |= part.weights
            down |= part.aggregate
            state |= part.state
            kept |= part.residue
        assert made(down) == listed(aggregate_tensors(spec, plan, 2))
        assert made(state) == listed(state_tensors(spec, plan))
        assert made(kept) == listed(residue_tensors(spec, plan))
        assert made(new) == listed(plan.weights())
        applied = apply_aggregate(weights, down, mean_decay(clients, spec), plan)
        assert all(torch.equal(applied[name], new[name]) for name in new)
        assert any(not torch.equal(weights[name], new[name]) for name in new)
        weights, residue = new, kept


def test_a_weight_that_saw_no_gradient_still_fills_its_place_in_the_update():
    plan = TrainingPlan((Target("used", (4, 6), 2), Target("unused", (6, 4), 2)), ())
    spec = a_spec(local={"steps": 5}, method={"update_proj_gap": 2})
    weights = {target.name: nn.Parameter(torch.randn(target.shape)) for target in plan.targets}
    config = subspace_config(spec.method, spec.local)
    with GaLoreAdamW({name: (weight, 2) for name, weight in weights.items()}, [], config, 1e-3) as optimizer:
        for _ in range(5):
            weights["used"].square().sum().backward()
            optimizer.step()
    tensors = update_of(optimizer, plan, spec)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == listed(update_tensors(spec, plan))
    assert all(not tensors[f"unused/factor.{j}"].any() for j in range(3))
    assert all(tensors[f"used/factor.{j}"].any() for j in range(3))


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


@pytest.mark.parametrize(("steps", "gap", "bases"), [(1, 200, 1), (10, 10, 1), (11, 10, 2), (10, 1, 10)])
def test_bases_of_a_round(steps, gap, bases):
    assert bases_per_round(a_spec(local={"steps": steps}, method={"update_proj_gap": gap})) == bases


def test_an_aggregate_goes_down_dense_from_the_rank_where_factors_are_no_smaller():
    assert factors_are_smaller(10, 10, 4)
    assert not factors_are_smaller(10, 10, 5)
    spec, plan = a_spec(), TrainingPlan((Target("w", (10, 10), 2),), ())
    assert set(aggregate_tensors(spec, plan, 2)) == {"w/left", "w/right"}
    assert set(aggregate_tensors(spec, plan, 3)) == {"w/dense"}
    cut = replace(plan, targets=(Target("w", (10, 10), 2),))
    assert set(aggregate_tensors(a_spec(method={"downlink_rank": 1}), cut, 9)) == {"w/left", "w/right"}
