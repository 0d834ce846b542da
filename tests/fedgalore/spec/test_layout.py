"""The lists that the doors check uploads against, compared with what clients and server really make of a real model."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fedgalore.aggregation import first_version
from fedgalore.maths.client_optim import ClientGaLoreAdamW
from fedgalore.methods.fedgalore.client import SubspaceTraining, subspace_config
from fedgalore.methods.fedgalore.layout import bases_per_round
from fedgalore.model.task import TaskModel
from fedgalore.rounds import LocalRound, Start
from fedgalore.spec.layout import (
    aggregate_tensors,
    cut_rank,
    residue_tensors,
    state_tensors,
    update_tensors,
    weights_tensors,
)
from fedgalore.spec.plan import Target, TrainingPlan, factors_are_smaller
from tests.builders import a_spec
from tests.fedgalore.conftest import questions, sentences
from tests.fedgalore.rounds import a_round, aggregated, an_update, clients_of, specs_of

CASES = {
    "plain": {},
    "exact": {"complement": 0},
    "basis changes inside a round": {"update_proj_gap": 2},
    "basis changes inside a round, exact": {"update_proj_gap": 2, "complement": 0},
    "a basis for every step, exact": {"update_proj_gap": 1, "complement": 0},
    "cut up and down": {"wire": {"up_rank": 2, "down_rank": 3}},
    "cuts above the smaller side": {"wire": {"up_rank": 64, "down_rank": 64}},
    "down exactly": {"wire": {"down_rank": 0}},
    "8 bits": {"wire": {"bits": 8}},
    "16 bits, aligned": {"state_sync": "ajive", "wire": {"bits": 16}},
    "exact numbers": {"wire": {"bits": 32}},
    "no states": {"state_sync": "reset"},
    "full rank": {"rank": 32},
    "states of each client's own": {"state_sync": "local"},
    "mean states": {"state_sync": "average"},
    "one basis for all": {"basis": "shared"},
    "one basis, no states": {"basis": "shared", "state_sync": "reset"},
    "ranks by module": {"rank_pattern": {"0.attention.output.dense": 2, "query": 7}},
    "ranks by client": {"client_ranks": {"b": 7}},
    "ranks by client, exact": {"client_ranks": {"b": 7}, "complement": 0},
    "ranks below the reference's": {"rank": 6, "state_sync": "average", "wire": {"up_rank": 2}},
    "no momentum": {"global_momentum": 0},
    "no momentum, exact": {"global_momentum": 0, "complement": 0},
    "one basis for all, momentum": {"basis": "shared", "global_momentum": 0.5},
    "fedavg": {"kind": "fedavg"},
    "fedavg, momentum": {"kind": "fedavg", "global_momentum": 0.5},
    "fedit": {"kind": "fedit"},
    "fedit, ranks by module": {"kind": "fedit", "rank_pattern": {"query": 7}},
    "ffa_lora": {"kind": "ffa_lora"},
    "flora": {"kind": "flora"},
    "flora, ranks by client": {"kind": "flora", "client_ranks": {"b": 7}},
    "flora, momentum": {"kind": "flora", "global_momentum": 0.5},
    "fedex_lora": {"kind": "fedex_lora"},
    "fedex_lora, high rank": {"kind": "fedex_lora", "rank": 20},
    "frlora": {"kind": "frlora"},
    "fedsvd": {"kind": "fedsvd"},
}


# its matrices lie the other way round, and its loss is of tokens; what a method sends does not hang on that
OF_GPT2 = ("plain", "exact", "cut up and down", "ranks by module", "one basis for all", "fedavg", "fedit", "flora")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "case"), [("bert", case) for case in CASES] + [("gpt2", case) for case in OF_GPT2])
def test_lists_are_what_rounds_of_a_real_model_produce(case, kind, tiny_bert, tiny_gpt2):
    method = {**CASES[case]} if case.startswith("fedavg") else {"rank": 4, **CASES[case]}
    if kind == "gpt2" and "rank_pattern" in method:
        method["rank_pattern"] = {"c_attn": 7, "1.mlp.c_proj": 2}
    model = {"task": "causal-lm", "num_labels": None} if kind == "gpt2" else {"num_labels": 3}
    wire = method.pop("wire", {})
    spec = a_spec(model=model, method=method, wire=wire, local={"steps": 3, "batch_size": 4, "weight_decay": 0.1})
    task = TaskModel.load(spec, tiny_bert if kind == "bert" else tiny_gpt2)
    plan, weights = task.plan, first_version(task)
    assert {t.tall for t in plan.targets} == {True, False}
    assert specs_of(weights) == weights_tensors(spec, plan, 0)
    state: dict[str, torch.Tensor] = {}
    residue: dict[str, torch.Tensor] = {}
    data = sentences if kind == "bert" else questions
    for number in (1, 2, 3):
        updates = {}
        for name in ("a", "b"):
            update = an_update(task, spec, data(8, sum(name.encode())), name, number, Start(weights, state))
            assert specs_of(update.tensors) == update_tensors(spec, plan, name, number)
            updates[name] = update
        result = aggregated(plan, a_round(spec, clients_of(updates), weights, state, residue, number))
        assert specs_of(result.aggregate) == aggregate_tensors(spec, plan, ["a", "b"], number)
        assert specs_of(result.state) == state_tensors(spec, plan, number)
        assert specs_of(result.residue) == residue_tensors(spec, plan)
        assert specs_of(result.weights) == weights_tensors(spec, plan, 1)
        sketched_only = number == 1 and method.get("basis") == "shared"
        assert sketched_only or any(not torch.equal(weights[name], result.weights[name]) for name in weights)
        weights, state, residue = result.weights, result.state, result.residue


def test_a_weight_that_saw_no_gradient_still_fills_its_place_in_the_update():
    plan = TrainingPlan((Target("used", (4, 6), 2), Target("unused", (6, 4), 2)), ())
    spec = a_spec(local={"steps": 5}, method={"update_proj_gap": 2, "complement": 0})
    weights = {target.name: nn.Parameter(torch.randn(target.shape)) for target in plan.targets}
    task: Any = SimpleNamespace(plan=plan, spec=spec)
    this = LocalRound(task, "a", 1, Start({}))
    targets = {name: (weight, 2) for name, weight in weights.items()}
    optimizer = ClientGaLoreAdamW(targets, subspace_config(this))
    with optimizer.step_in_backward():
        for _ in range(5):
            weights["used"].square().sum().backward()
            optimizer.step()
    training = SubspaceTraining(this, optimizer)
    sent = {target.name: training.packed(target).sent for target in plan.targets}
    tensors = {f"{name}/{suffix}": tensor for name, parts in sent.items() for suffix, tensor in parts.items()}
    assert specs_of(tensors) == update_tensors(spec, plan, "a", 1)
    assert all(not tensors[f"unused/factor.{j}"].any() for j in range(3))
    assert all(tensors[f"used/factor.{j}"].any() for j in range(3))


@pytest.mark.parametrize(("steps", "gap", "bases"), [(1, 200, 1), (10, 10, 1), (11, 10, 2), (10, 1, 10)])
def test_bases_of_a_round(steps, gap, bases):
    assert bases_per_round(a_spec(local={"steps": steps}, method={"update_proj_gap": gap})) == bases


def test_an_aggregate_goes_down_dense_from_the_rank_where_factors_are_no_smaller():
    assert factors_are_smaller(10, 10, 4)
    assert not factors_are_smaller(10, 10, 5)
    exactly = {"bits": 32, "up_rank": 2, "down_rank": 0}
    spec, plan = a_spec(wire=exactly), TrainingPlan((Target("w", (10, 10), 2),), ())
    assert set(aggregate_tensors(spec, plan, ["a", "b"], 1)) == {"w/left", "w/right"}
    assert set(aggregate_tensors(spec, plan, ["a", "b", "c"], 1)) == {"w/dense"}
    many = [str(i) for i in range(9)]
    assert set(aggregate_tensors(a_spec(wire={"down_rank": 1}), plan, many, 1)) == {"w/left", "w/right"}


@pytest.mark.parametrize(
    ("method", "wire", "rank"),
    [
        ({"rank": 8}, {}, 60),
        ({"rank": 3}, {}, 23),
        ({"rank": 64}, {}, 384),
        ({"rank": 64}, {"bits": 32}, None),  # as factors no smaller than the matrix
        ({"rank": 64}, {"bits": 16}, None),
        ({"rank": 8}, {"down_rank": 0}, None),
        ({"rank": 32}, {"down_rank": 40}, 40),
        ({"rank": 8, "complement": 0}, {}, None),
        ({"rank": 8, "basis": "shared"}, {}, None),
    ],
    ids=str,
)
def test_the_rank_that_an_aggregate_is_cut_to(method, wire, rank):
    assert cut_rank(a_spec(method=method, wire=wire), Target("w", (384, 384), method["rank"])) == rank
