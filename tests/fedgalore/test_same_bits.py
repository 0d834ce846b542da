"""The bits of a version hang on no number of threads: of the server, of an agent that replays, of a simulation."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fedgalore.maths.compression import rounded
from fedgalore.replay import Aggregate, Replayed, apply_aggregate
from fedgalore.rounds import ClientTensors
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import update_tensors, weights_tensors
from fedgalore.spec.plan import Dense, Target, TensorSpec, TrainingPlan
from tests.builders import a_spec
from tests.fedgalore.rounds import Aggregated, a_round, aggregated

# so large that LAPACK's threads would share the work: from 96 rows on
PLAN = TrainingPlan((Target("wide", (100, 110), 12), Target("tall", (110, 100), 12)), (Dense("head", (2, 9)),))
METHODS = {
    "cut, with states": {"method": {"kind": "fedgalore", "rank": 12, "state_sync": "average"}},
    "exact": {"method": {"kind": "fedgalore", "rank": 12}, "wire": {"down_rank": 0}},
    "a median, cut": {"method": {"kind": "fedgalore", "rank": 12}, "server": {"aggregation": "median", "drop_norm": 9}},
}


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(specs: dict[str, TensorSpec], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: s.quantization.shape if s.quantization else s.shape for n, s in specs.items()}
    values = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    positive = {n: v.abs() if n.endswith(("rms", "residual")) else v for n, v in values.items()}
    return {n: rounded(value, specs[n].quantization).wire for n, value in positive.items()}


def a_version(spec: JobSpec) -> tuple[dict[str, Tensor], Aggregated]:
    """Version 0, and the next one of two clients of different weight."""
    weights = drawn(weights_tensors(spec, PLAN, 0), 0)
    clients = [
        ClientTensors(name, examples, 0.99, drawn(update_tensors(spec, PLAN, name, 1), examples).__getitem__)
        for name, examples in (("a", 1), ("b", 7))
    ]
    return weights, aggregated(PLAN, a_round(spec, clients, weights))


@pytest.mark.parametrize("name", METHODS)
def test_a_version_has_the_same_bits_with_any_number_of_threads(name: str, threads: None) -> None:
    spec, versions = a_spec(**METHODS[name]), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        weights, made = a_version(spec)
        steps = [Aggregate(made.aggregate, made.decay)] * 2
        at_once = dict(Replayed(weights, steps, PLAN, spec).items())  # as the server makes a checkpoint
        one_by_one = apply_aggregate(made.weights, made.aggregate, made.decay, PLAN, spec)  # as agents go on
        assert all(torch.equal(at_once[name], one_by_one[name]) for name in at_once)
        versions.append(made.aggregate | made.state | {f"kept {n}": t for n, t in made.residue.items()} | one_by_one)
        assert torch.get_num_threads() == count
    first, *others = versions
    for other in others:
        assert other.keys() == first.keys()
        assert [name for name in first if not torch.equal(first[name], other[name])] == []
