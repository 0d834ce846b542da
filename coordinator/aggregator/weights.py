"""Tensors of stored files, and whole weights written to one: a target in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from coordinator.models.checkpoint import map_tensors
from coordinator.state.errors import BlobLost
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore
from fedgalore.aggregation import Part
from fedgalore.chain import Chain
from fedgalore.process.blob_ref import BlobRef
from fedgalore.replay import Aggregate, Replayed
from fedgalore.soundness import checked
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import STEP, WEIGHTS_FORMAT, weights_tensors
from fedgalore.spec.plan import TrainingPlan
from protos.codec import SafetensorsWriter, TensorFile

ADDED = ("/dense", "/delta", f"/{STEP}")  # ends of names


class ChainBroken(BlobLost):
    """A blob that a version is made of is lost; `version` came with it."""

    def __init__(self, blob: BlobRef, version: int) -> None:
        super().__init__(f"blob {blob.sha256}, which version {version} is made of, is missing or damaged")
        self.version = version


class FileTensors(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is asked for; not to be changed.

    What is a factor of a product is copied: products of differently aligned memory may round differently, and a map is
    aligned to 8 bytes only. What is added element by element is read where it lies.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.view(name)
        return tensor if name.endswith(ADDED) else tensor.clone()

    def view(self, name: str) -> Tensor:
        """The tensor where it lies in the mapped file."""
        if name not in self:
            raise KeyError(name)
        return torch.from_numpy(self._file.tensor(name))

    def __contains__(self, name: object) -> bool:
        return name in self._file.header.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.names)

    def __len__(self) -> int:
        return len(self._file.names)


def weights_of(model: ModelVersion, plan: TrainingPlan, spec: JobSpec, blobs: BlobStore) -> Mapping[str, Tensor]:
    """A version's weights, tensor by tensor: from their file, or replayed from its chain.

    Raises:
        ChainBroken: what they are made of is damaged or missing.
    """
    if model.weights is not None:
        check_sound(model.weights, model.version, blobs)
        return FileTensors(map_tensors(blobs, model.weights.sha256))
    return replayed(model.chain, plan, spec, blobs)


def replayed(chain: Chain, plan: TrainingPlan, spec: JobSpec, blobs: BlobStore) -> Replayed:
    """The weights at the end of a chain.

    Raises:
        ChainBroken: a blob of it is damaged or missing.
    """
    check_sound(chain.checkpoint.weights, chain.checkpoint.version, blobs)
    for cut in chain.cuts:
        check_sound(cut.blob, cut.version, blobs)
    first, *cuts = (map_tensors(blobs, blob.sha256) for blob in chain.blobs)
    steps = [Aggregate(FileTensors(file), float(file.metadata["decay"])) for file in cuts]
    return Replayed(FileTensors(first), steps, plan, spec)


def check_sound(blob: BlobRef, version: int, blobs: BlobStore) -> None:
    """Reads a blob that came with a version through.

    Raises:
        ChainBroken: it is damaged or missing.
    """
    if not blobs.is_sound(blob.sha256):
        raise ChainBroken(blob, version)


def check_held(chain: Chain, blobs: BlobStore) -> None:
    """Looks whether the blobs of a chain are there, without reading them: what is lost is told while an earlier version
    is kept still.

    Raises:
        ChainBroken: one is missing, or of another size.
    """
    versions = (chain.checkpoint.version, *(cut.version for cut in chain.cuts))
    for blob, version in zip(chain.blobs, versions, strict=True):
        if not blobs.holds(blob):
            raise ChainBroken(blob, version)


def store_weights(
    weights: Mapping[str, Tensor], version: int, plan: TrainingPlan, spec: JobSpec, blobs: BlobStore
) -> BlobRef:
    """The blob of a version's whole weights.

    Raises:
        OutOfBounds: some are not finite, or far too large.
        OSError: the disk refuses.
    """
    with blobs.scratch_folder() as folder:
        write_weights(folder / "weights", weights.items(), version, plan, spec)
        return blobs.put_file(folder / "weights", move=True)


def write_weights(
    path: Path, weights: Iterable[tuple[str, Tensor]], version: int, plan: TrainingPlan, spec: JobSpec
) -> None:
    """The file of a version's whole weights, which come in any order; the same weights give the same bytes.

    Raises:
        OutOfBounds: some are not finite, or far too large.
        OSError: the disk refuses.
    """
    part = weights_part(version, plan, spec)
    with SafetensorsWriter(path, part.tensors, part.metadata) as writer:
        for name, tensor in checked(weights, spec, plan):
            writer.write(name, tensor.numpy())


def weights_part(version: int, plan: TrainingPlan, spec: JobSpec) -> Part:
    """What the file of a version's whole weights holds."""
    return Part(weights_tensors(spec, plan, version), {"format": WEIGHTS_FORMAT, "version": str(version)})
