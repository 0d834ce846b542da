"""Tensors of stored files, and whole weights written to one: a target in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedgalore.replay import Aggregate, Replayed
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import WEIGHTS_FORMAT, weights_tensors
from fedgalore.spec.plan import TrainingPlan
from protos.codec import SafetensorsWriter, TensorFile


class FileTensors(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is asked for."""

    def __init__(self, file: TensorFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        # a copy: products of differently aligned memory may round differently, and a map is aligned to 8 bytes only
        return torch.from_numpy(self._file.tensor(name)).clone()

    def __contains__(self, name: object) -> bool:
        return name in self._file.header.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.names)

    def __len__(self) -> int:
        return len(self._file.names)


def replayed(weights: TensorFile, aggregates: Sequence[TensorFile], plan: TrainingPlan, spec: JobSpec) -> Replayed:
    """The weights of a version, from the file of those of an earlier one and the aggregates since."""
    steps = [Aggregate(FileTensors(file), float(file.metadata["decay"])) for file in aggregates]
    return Replayed(FileTensors(weights).__getitem__, steps, plan, spec)


def write_weights(
    path: Path, weights: Iterable[tuple[str, Tensor]], version: int, plan: TrainingPlan, spec: JobSpec
) -> None:
    """The file of a version's whole weights, which come in any order; the same weights give the same bytes.

    Raises:
        OSError: the disk refuses.
    """
    metadata = {"format": WEIGHTS_FORMAT, "version": str(version)}
    with SafetensorsWriter(path, weights_tensors(spec, plan), metadata) as writer:
        for name, tensor in weights:
            writer.write(name, tensor.numpy())
