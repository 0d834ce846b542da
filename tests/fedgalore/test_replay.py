"""Weights of later versions from those of an earlier one and the aggregates since."""

import pytest
import torch

from fedgalore.maths.compression import rounded
from fedgalore.replay import Aggregate, Replayed, apply_aggregate
from fedgalore.spec.layout import aggregate_tensors, weights_tensors
from fedgalore.spec.plan import Buffer, Dense, Target, TrainingPlan
from tests.builders import a_spec

PLAN = TrainingPlan(
    (Target("wide.weight", (4, 9), 2), Target("tall.weight", (9, 4), 2)),
    (Dense("head.weight", (3, 4), True),),
    (Buffer("variance", (3,), not_negative=True),),
)
KINDS = ["fedgalore", "fedavg", "fedit", "ffa_lora", "flora", "fedex_lora", "frlora", "fedsvd"]


def drawn(specs, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: s.quantization.shape if s.quantization else s.shape for n, s in specs.items()}
    values = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    return {n: rounded(value, specs[n].quantization).wire for n, value in values.items()}


@pytest.fixture(params=KINDS)
def story(request):
    """A job, its first weights and three aggregates."""
    method = {"kind": request.param} | ({} if request.param == "fedavg" else {"rank": 2})
    spec = a_spec(method=method)
    steps = [Aggregate(drawn(aggregate_tensors(spec, PLAN, ["a", "b"], n), n), 1 - n / 10) for n in (1, 2, 3)]
    return spec, drawn(weights_tensors(spec, PLAN, 0), 0), steps


def test_a_replay_has_the_bits_of_one_step_after_the_other(story):
    spec, first, steps = story
    held = first
    for step in steps:
        held = apply_aggregate(held, step.tensors, step.decay, PLAN, spec)
    replayed = Replayed(first, steps, PLAN, spec)
    assert set(replayed) == held.keys() == weights_tensors(spec, PLAN, 3).keys()
    for name in sorted(held, reverse=True):  # in whatever order they are asked for
        assert torch.equal(replayed[name], held[name]), name
        assert "/" in name or not torch.equal(held[name], first[name])
    assert (held["variance"] >= 0).all()


def test_without_aggregates_the_weights_are_those_before(story):
    spec, first, _ = story
    assert {name: id(tensor) for name, tensor in Replayed(first, [], PLAN, spec).items()} == {
        name: id(first[name]) for name in first
    }


def test_only_what_is_asked_for_is_read_and_a_target_is_computed_once(story):
    spec, first, steps = story
    read = []

    class Weights(dict):
        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    replayed = Replayed(Weights(first), steps, PLAN, spec)
    assert read == []
    asked = [name for name in replayed if name.startswith("tall.weight")]
    assert all(replayed[name].isfinite().all() for name in asked)
    assert set(read) == {name for name in asked if name in first}
    assert read.count("tall.weight") == 1
