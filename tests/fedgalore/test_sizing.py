"""What a job takes, counted by hand for a plan of two matrices and a head."""

from __future__ import annotations

from typing import Any

import pytest

from fedgalore import sizing
from fedgalore.sizing import SiteMemory, TextMemory, coordinator_needs, site_needs, tokens_in_a_pass
from fedgalore.spec.layout import aggregate_tensors, size_bytes, state_tensors, update_tensors
from fedgalore.spec.plan import Dense, Target, TrainingPlan
from fedgalore.spec.shape import ModelShape
from tests.builders import a_spec

SHAPE = ModelShape(parameters=10_000, inner=250, blocks=5, between=20, outputs=300)
PLAN = TrainingPlan((Target("wide", (20, 80), 2), Target("tall", (70, 30), 2)), (Dense("head", (4, 30)),), shape=SHAPE)
TRAINED = 20 * 80 + 70 * 30 + 4 * 30
HEAD = 2 * 4 * 30  # AdamW's moments
WRITES = {"task": "causal-lm", "num_labels": None}


def memory(**sections: Any) -> dict[str, int]:
    return dict(site_needs(a_spec(**sections), PLAN, 1000).memory)


def test_the_model_and_one_gradient_of_its_largest_matrix_are_what_a_step_holds() -> None:
    found = memory(method={"kind": "fedgalore", "rank": 2})
    assert found.keys() == {
        "Python and torch",
        "weights",
        "optimizer's states",
        "gradients",
        "a gradient and a step",
        "activations",
    }
    assert found["gradients"] == sizing.weight_bytes(a_spec()) * 4 * 30  # of the head: it steps behind the others
    assert found["weights"] == sizing.weight_bytes(a_spec()) * 10_000
    assert found["optimizer's states"] == 4 * (HEAD + sum(2 * 2 * d + 4 * 2 * k for d, k in ((20, 80), (30, 70))))
    assert found["a gradient and a step"] == 4 * sizing.SCRATCH * 70 * 30
    narrow = memory(local={"weights": "bfloat16", "precision": "bfloat16"})
    assert narrow["weights"] == 2 * 10_000 + 2 * 4 * 30  # the head stays in float32
    assert narrow["optimizer's states"] == found["optimizer's states"]


@pytest.mark.parametrize(
    ("method", "numbers"),
    [
        ({"kind": "fedavg"}, 2 * TRAINED),
        ({"kind": "fedit", "rank": 2}, HEAD + 4 * 2 * (20 + 80 + 70 + 30)),
    ],
)
def test_states_follow_the_method(method: dict[str, Any], numbers: int) -> None:
    plan = PLAN if "rank" in method else TrainingPlan(
        tuple(Target(t.name, t.shape, 0) for t in PLAN.targets), PLAN.dense, shape=SHAPE
    )  # fmt: skip
    assert site_needs(a_spec(method=method), plan, 0).memory["optimizer's states"] == 4 * numbers


@pytest.mark.parametrize("local", [{"batch_size": 4, "micro_batch_size": 2}, {"max_grad_norm": 1.0}])
def test_gradients_that_wait_for_each_other_are_all_held(local: dict[str, Any]) -> None:
    assert memory(local=local)["gradients"] == sizing.weight_bytes(a_spec()) * TRAINED


def test_texts_count_by_their_tokens_up_to_what_is_cut() -> None:
    spec = a_spec(model=WRITES, local={"batch_size": 8, "micro_batch_size": 3}, data={"max_length": 100})
    assert [tokens_in_a_pass(spec, longest) for longest in (0, 10, 50, 1000)] == [300, 60, 300, 300]
    packed = a_spec(model=WRITES, local={"batch_size": 3, "packing": True}, data={"max_length": 100})
    assert tokens_in_a_pass(packed, 10) == 300
    logits = 4 * sizing.LOGITS * 300
    assert TextMemory.of(spec, PLAN).trained == round(4 * sizing.KEPT * 250 + logits)
    again = a_spec(model=WRITES, local={"activation_checkpointing": True})
    assert TextMemory.of(again, PLAN).trained == round(4 * (5 * 20 + sizing.BLOCK * 50) + logits)
    half = a_spec(model=WRITES, local={"precision": "bfloat16"})
    assert TextMemory.of(half, PLAN).trained == round(2 * sizing.KEPT * 250 + logits)
    images = {"task": "image-classification", "num_labels": 2}
    assert TextMemory.of(a_spec(model=images), PLAN) == TextMemory()


def test_an_evaluation_of_texts_that_are_written_takes_the_rows_of_training() -> None:
    local = {"batch_size": 8, "micro_batch_size": 3}
    assert a_spec(model=WRITES, local=local).rows_of_an_evaluation == 3
    assert a_spec(model=WRITES, local={"batch_size": 8}).rows_of_an_evaluation == 8
    assert a_spec(local=local).rows_of_an_evaluation == 64
    assert a_spec(model=WRITES, evaluation={"batch_size": 5}).rows_of_an_evaluation == 5


def test_an_evaluation_of_many_rows_may_take_the_most() -> None:
    spec = a_spec(model=WRITES, evaluation={"batch_size": 64}, local={"batch_size": 1})
    found = TextMemory.of(spec, PLAN)
    assert found.passes(spec, 0)[0] == ("evaluating", 64, found.evaluated * 128)
    memory = SiteMemory.of(spec, PLAN)
    problem = memory.problem(spec, 0, memory.cpu + 5 * 128 * found.evaluated, on_gpu=False)
    assert problem is not None
    assert "set evaluation.batch_size: 5 (now 64) or data.max_length below 128" in problem
    problem = memory.problem(spec, 0, memory.cpu + 100, on_gpu=False)
    assert problem is not None
    assert "set data.max_length below 128 in the job" in problem
    problem = memory.problem(spec, 0, memory.cpu - 100, on_gpu=False)
    assert problem is not None
    assert "set local.weights: bfloat16 with local.precision: bfloat16 in the job" in problem


def test_what_fits_is_no_problem_and_a_gpu_needs_little_of_its_host() -> None:
    spec = a_spec()
    for on_gpu in (False, True):
        needs = site_needs(spec, PLAN, 0, on_gpu=on_gpu)
        enough = sum(needs.memory.values())
        assert SiteMemory.of(spec, PLAN).problem(spec, 0, enough, on_gpu=on_gpu) is None
        problem = SiteMemory.of(spec, PLAN).problem(spec, 0, enough - 10**8, on_gpu=on_gpu)
        assert problem is not None
        assert problem.startswith("memory: the job needs about ")
    assert needs.host == {"Python, torch, CUDA": sizing.CUDA_HOST, "a matrix": 4 * 70 * 30}


def test_bytes_on_the_line_are_those_of_the_files() -> None:
    spec = a_spec(method={"kind": "fedgalore", "rank": 2, "state_sync": "ajive"})
    site, server = site_needs(spec, PLAN, 1000), coordinator_needs(spec, PLAN, 1000, 3)
    up = size_bytes(update_tensors(spec, PLAN, "a", 2))
    down = size_bytes(aggregate_tensors(spec, PLAN, ["a", "b", "c"], 2)) + size_bytes(state_tensors(spec, PLAN, 2))
    assert (site.download, site.up, server.up, server.down) == (1000, up, 3 * up, 3 * down)
    assert site.disk["base model"] == 1000
    assert site.disk["the version"] >= 4 * TRAINED  # and the last step, in fewer bits
    assert server.seconds == TRAINED * (sizing.AGGREGATION_S + 3 * sizing.CLIENT_S)
