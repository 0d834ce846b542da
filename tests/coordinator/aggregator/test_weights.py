"""Whole weights from a chain of files; a file of it that is damaged or gone is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coordinator.aggregator.compute import whole_weights
from coordinator.aggregator.weights import ChainBroken, check_held, weights_of
from coordinator.state.job_state import Job, Prepared
from coordinator.state.round_state import ModelVersion
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.chain import Chain, Cut
from fedgalore.maths.bounds import OutOfBounds
from fedgalore.maths.compression import rounded
from fedgalore.process.blob_ref import BlobRef
from fedgalore.replay import apply_aggregate
from fedgalore.spec.layout import AGGREGATE_FORMAT, WEIGHTS_FORMAT, aggregate_tensors, weights_tensors
from fedgalore.spec.plan import TensorSpec
from protos.codec import SafetensorsWriter
from tests.builders import a_job, a_plan, a_prepared, blob_path

SPEC, PLAN = a_job().parsed, a_plan()


class House:
    """A version that is two cuts behind its checkpoint, in real files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs = folder, DirectoryBlobStore(folder / "blobs")
        self.first = self.drawn(weights_tensors(SPEC, PLAN, 0), 0)
        self.cuts = [self.drawn(aggregate_tensors(SPEC, PLAN, ["a"], number), number) for number in (1, 2)]
        version_0 = ModelVersion.first(self.put(weights_tensors(SPEC, PLAN, 0), self.first, WEIGHTS_FORMAT, 0))
        chain = version_0.chain
        for number, tensors in enumerate(self.cuts, start=1):
            specs = aggregate_tensors(SPEC, PLAN, ["a"], number)
            chain = chain.then(Cut(number, self.put(specs, tensors, AGGREGATE_FORMAT, number)))
        self.model = ModelVersion(2, chain)
        prepared = Prepared(PLAN.to_dict(), a_prepared().base_model, a_prepared().export, version_0)
        self.job: Job = replace(a_job(), prepared=prepared, model=self.model)

    def drawn(self, specs: dict[str, TensorSpec], seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = {n: s.quantization.shape if s.quantization else s.shape for n, s in specs.items()}
        values = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
        return {n: rounded(value, specs[n].quantization).wire for n, value in values.items()}

    def put(self, specs: dict[str, TensorSpec], tensors: dict[str, torch.Tensor], format: str, version: int) -> BlobRef:
        path, metadata = self.folder / "file", {"format": format, "version": str(version), "decay": "0.9"}
        with SafetensorsWriter(path, specs, metadata) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor.numpy())
        return self.blobs.put_file(path, move=True)

    def path(self, number: int) -> Path:
        """Of a file of the chain: the checkpoint's, then the cuts'."""
        return blob_path(self.blobs, self.model.chain.blobs[number].sha256)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_whole_weights_have_the_bits_of_a_client_that_saw_each_cut(house: House) -> None:
    held = house.first
    for tensors in house.cuts:
        held = apply_aggregate(held, tensors, 0.9, PLAN, SPEC)
    stored = whole_weights(house.job, house.model, house.blobs)
    loaded = load_file(blob_path(house.blobs, stored.sha256))
    assert loaded.keys() == held.keys()
    assert all(torch.equal(loaded[name], held[name]) for name in held)
    assert whole_weights(house.job, house.model, house.blobs) == stored
    house.path(1).unlink()
    weights = weights_of(replace(house.model, weights=stored), PLAN, SPEC, house.blobs)  # needs its chain no more
    assert all(torch.equal(weights[name], held[name]) for name in held)


@pytest.mark.parametrize("value", [torch.nan, 1e6])
def test_whole_weights_that_a_cut_makes_unfit_are_not_stored(house: House, value: float) -> None:
    cut = house.cuts[1] | {"head.weight/delta": torch.full_like(house.cuts[1]["head.weight/delta"], value)}
    blob = house.put(aggregate_tensors(SPEC, PLAN, ["a"], 2), cut, AGGREGATE_FORMAT, 2)
    chain = Chain(house.model.chain.checkpoint, (house.model.chain.cuts[0], Cut(2, blob)))
    with pytest.raises(OutOfBounds, match="^head.weight holds"):
        whole_weights(house.job, replace(house.model, chain=chain), house.blobs)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("damage", ["a bit", "gone"])
def test_a_damaged_file_of_the_chain_is_named_with_its_version(house: House, number: int, damage: str) -> None:
    path = house.path(number)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    if damage == "a bit":
        path.write_bytes(content)
        check_held(house.model.chain, house.blobs)  # it is there, and of its size
    else:
        with pytest.raises(ChainBroken):
            check_held(house.model.chain, house.blobs)
    words = f"blob {path.name}, which version {number} is made of, is missing or damaged"
    with pytest.raises(ChainBroken, match=words) as caught:
        whole_weights(house.job, house.model, house.blobs)
    assert caught.value.version == number
