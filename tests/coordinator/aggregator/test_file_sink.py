"""A version as files: its cut, or its weights where a cut would be no smaller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from coordinator.aggregator.file_sink import FileSink
from coordinator.aggregator.weights import ChainBroken, write_weights
from fedgalore.aggregation import TensorSink, next_version
from fedgalore.maths.bounds import LARGEST, OutOfBounds
from fedgalore.maths.compression import rounded
from fedgalore.process.blob_ref import BlobRef
from fedgalore.replay import apply_aggregate
from fedgalore.rounds import ClientTensors
from fedgalore.soundness import without_the_unfit
from fedgalore.spec.layout import update_tensors, weights_tensors
from fedgalore.spec.plan import Buffer, Dense, Target, TensorSpec, TrainingPlan
from tests.builders import a_spec

PLAN = TrainingPlan(
    (Target("wide.weight", (4, 9), 2), Target("tall.weight", (9, 4), 2), Target("also.weight", (4, 9), 2)),
    (Dense("head.weight", (3, 4)),),
    (Buffer("variance", (3,), not_negative=True),),
)
DENSE: dict[str, Any] = {"kind": "fedavg"}
CPU = torch.device("cpu")


def drawn(specs: dict[str, TensorSpec], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: s.quantization.shape if s.quantization else s.shape for n, s in specs.items()}
    values = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    return {n: rounded(value, specs[n].quantization).wire for n, value in values.items()}


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        (DENSE, ["weights"]),
        (DENSE | {"global_momentum": 0.5}, ["aggregate"]),  # a cut of half of the weights, which carry the step
        ({"kind": "fedit", "rank": 1}, ["aggregate"]),
        ({"kind": "fedgalore", "rank": 1}, ["aggregate", "residue"]),
    ],
    ids=str,
)
def test_weights_take_the_place_of_a_cut_that_is_no_smaller(
    method: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    spec = a_spec(method=method)
    old = drawn(weights_tensors(spec, PLAN, 0), 0)
    sent = {client: drawn(update_tensors(spec, PLAN, client, 1), seed) for seed, client in enumerate("ab")}
    updates = [ClientTensors(client, 3, 0.9, tensors.__getitem__) for client, tensors in sent.items()]
    in_memory = TensorSink()
    shelf = in_memory.shelf(old)
    made = next_version(spec, PLAN, 1, shelf, updates, in_memory, device=CPU)
    with FileSink(tmp_path, 1, lambda: old, PLAN, spec) as sink:
        next_version(spec, PLAN, 1, shelf, updates, sink, device=CPU)
    assert set(sink.parts) >= set(parts)
    assert ("weights" in sink.parts, "aggregate" in sink.parts) == ("weights" in parts, "aggregate" in parts)
    if "weights" in parts:  # the very file that a checkpoint after the cut would be
        weights = apply_aggregate(old, in_memory.aggregate, made.decay, PLAN, spec)
        write_weights(tmp_path / "checkpoint", weights.items(), 1, PLAN, spec)
        assert (tmp_path / "weights").read_bytes() == (tmp_path / "checkpoint").read_bytes()


@pytest.mark.parametrize("method", [DENSE, {"kind": "fedgalore", "rank": 1}], ids=str)
def test_a_version_without_those_that_are_not_fit_has_the_files_of_a_round_they_were_never_in(
    method: dict[str, Any], tmp_path: Path
) -> None:
    spec = a_spec(method=method)
    old = drawn(weights_tensors(spec, PLAN, 0), 0)
    sent = {client: drawn(update_tensors(spec, PLAN, client, 1), seed) for seed, client in enumerate("abc")}
    spoilt = {name: torch.full_like(tensor, 3e38) for name, tensor in sent["c"].items() if tensor.dtype != torch.uint8}
    sent["c"] |= spoilt

    def made(folder: Path, clients: str) -> dict[str, bytes]:
        updates = [ClientTensors(client, 3, 0.9, sent[client].__getitem__) for client in clients]
        folder.mkdir()

        def make(left_out: Mapping[str, str]) -> None:
            with FileSink(folder, 1, lambda: old, PLAN, spec) as sink:
                next_version(spec, PLAN, 1, TensorSink().shelf(old), updates, sink, device=CPU, left_out=left_out)

        without_the_unfit(make)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert spoilt
    assert made(tmp_path / "all", "abc") == made(tmp_path / "two", "ab")


def test_new_weights_that_are_not_fit_are_not_written(tmp_path: Path) -> None:
    spec = a_spec(method=DENSE)
    old = drawn(weights_tensors(spec, PLAN, 0), 0) | {"head.weight": torch.full((3, 4), LARGEST)}
    tensors = {name: torch.ones(file.shape) for name, file in update_tensors(spec, PLAN, "a", 1).items()}
    updates = [ClientTensors("a", 3, 1.0, tensors.__getitem__)]
    with pytest.raises(OutOfBounds, match="head.weight holds"), FileSink(tmp_path, 5, lambda: old, PLAN, spec) as sink:
        next_version(spec, PLAN, 5, TensorSink().shelf(old), updates, sink, device=CPU)
    assert list(tmp_path.iterdir()) == []


def test_damaged_weights_before_are_told_before_anything_is_written(tmp_path: Path) -> None:
    spec = a_spec(method=DENSE)

    def old() -> Any:
        raise ChainBroken(BlobRef("0" * 64, 1), 4)

    updates = [ClientTensors("a", 3, 1.0, drawn(update_tensors(spec, PLAN, "a", 1), 0).__getitem__)]
    shelf = TensorSink().shelf({})
    with pytest.raises(ChainBroken), FileSink(tmp_path, 5, old, PLAN, spec) as sink:
        next_version(spec, PLAN, 5, shelf, updates, sink, device=CPU)
    assert list(tmp_path.iterdir()) == []
