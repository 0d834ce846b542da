"""What a job taught a model, as a PEFT LoRA adapter in a tar: a folder that `peft.PeftModel.from_pretrained` loads.

Of every trained matrix the change since version 0 goes along as its best approximation of the rank asked for, computed
while it is sent: one matrix at a time, from memory maps. Ranks and shapes are known before, so the tar's size is, too.
What goes along whole, and what PEFT is told: `coordinator.models.peft_adapter`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.models.archive import CARD, CHUNK_BYTES, Archive, ArchiveError, Held, Piece, card
from coordinator.models.checkpoint import Stored, read_checkpoints
from coordinator.models.low_rank import low_rank
from coordinator.models.peft_adapter import adapter_config, is_below, module_of, modules_to_save, readme, saved_modules
from coordinator.state.errors import NoAdapter, NotReady
from coordinator.state.job_state import Job
from coordinator.state.round_state import BlobRef, ModelVersion
from coordinator.store.blob_store import BlobStore
from fedgalore.spec.layout import adapter_shapes
from fedgalore.spec.plan import Target, TrainingPlan
from protos.codec import LENGTH_BYTES, open_update

DEFAULT_RANK = 16

Float32 = npt.NDArray[np.float32]


@dataclass
class _Shares:
    """Squared norms of the changes, and of what is kept of them, by matrix; filled while an archive is read."""

    total: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)

    def of(self, names: list[str]) -> float:
        """Share of the change's energy that the adapter keeps; 1 where nothing has changed."""
        total = sum(self.total.get(name, 0.0) for name in names)
        # Six digits: written as text it has a known greatest length.
        return round(min(1.0, sum(self.kept.get(name, 0.0) for name in names) / total), 6) if total else 1.0


@dataclass(frozen=True)
class _Adapter:
    """`lora_A` and `lora_B` of one matrix, as the bytes of a checkpoint; computed when they are read."""

    target: Target
    rank: int
    before: Stored
    after: Float32
    shares: _Shares

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            f"{module_of(self.target.name)}.{suffix}.weight": shape
            for suffix, shape in adapter_shapes(self.target, self.rank).items()
        }

    @property
    def size_bytes(self) -> int:
        return sum(4 * prod(shape) for shape in self.shapes.values())

    def read(self) -> Iterator[bytes]:
        start = self.before.floats()
        assert start is not None
        change = self.after - start.reshape(self.target.shape)
        lora_b, lora_a, kept = low_rank(change.T if self.target.fan_in_fan_out else change, self.rank)
        self.shares.total[self.target.name] = float(np.einsum("ij,ij->", change, change, dtype=np.float64))
        self.shares.kept[self.target.name] = kept
        yield lora_a.tobytes()
        yield lora_b.tobytes()


@dataclass(frozen=True)
class _Mapped:
    """The bytes of a tensor in a memory map."""

    data: npt.NDArray[np.uint8]

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self) -> Iterator[bytes]:
        for start in range(0, len(self.data), CHUNK_BYTES):
            yield self.data[start : start + CHUNK_BYTES].tobytes()


@dataclass(frozen=True)
class _Card:
    """`fedgalore.json`, of a size known before the shares that it tells are: the text ends in spaces."""

    told: Mapping[str, Any]
    adapters: list[_Adapter]
    shares: _Shares

    @property
    def size_bytes(self) -> int:
        return len(self._text(0.123456))

    def read(self) -> Iterator[bytes]:
        yield self._text(None).ljust(self.size_bytes)

    def _text(self, share: float | None) -> bytes:
        """`share`: stands for all of them; None: those measured."""
        names = [adapter.target.name for adapter in self.adapters]
        matrices = {
            adapter.target.name: {
                "rank": adapter.rank,
                "energy_kept": self.shares.of([adapter.target.name]) if share is None else share,
            }
            for adapter in self.adapters
        }
        whole = self.shares.of(names) if share is None else share
        return json.dumps({**self.told, "energy_kept": whole, "matrices": matrices}, indent=2).encode() + b"\n"


class AdapterArchive(Archive):
    """The tar of one version of a job's model as an adapter: its size, and its bytes chunk by chunk.

    Between two chunks a matrix may be decomposed: seconds for the largest ones.
    """

    def __init__(
        self, job: Job, version: ModelVersion, rank: int, evaluation: dict[str, Any] | None, blobs: BlobStore
    ) -> None:
        """Reads headers, and a few values of each tensor.

        Args:
            rank: at least 1; a matrix whose smaller side is less gets that rank, with which nothing is lost.
            evaluation: what is known of the full model's quality, put into `fedgalore.json`.

        Raises:
            NotReady: the job has no model yet.
            BlobNotFound: a file of the version or of the base model is gone from the store.
            NoAdapter: PEFT has no place for what this job trains.
            ArchiveError: the stored files do not fit together.
        """
        if job.prepared is None:
            raise NotReady(f"job {job.id} is {job.status}: its model is not prepared yet; ask again once it runs")
        super().__init__(job, f"{job.parsed.name}-v{version.version}-rank{rank}.tar")
        plan = TrainingPlan.from_dict(job.prepared.plan)
        first = _tensors(job.prepared.export, blobs)
        base = _tensors(job.prepared.base_model, blobs)
        trained = open_update(blobs.path(version.weights.sha256))
        weights = plan.weights()
        for name, spec in weights.items():
            if name not in first or name not in trained.header.tensors or first[name].dtype != spec.dtype:
                raise ArchiveError(f"{name} is not in the model's files, or not as {spec.dtype}")
            if not first[name].shape == trained.header.tensors[name].spec.shape == spec.shape:
                raise ArchiveError(f"{name} is not of shape {spec.shape} in the stored files")

        named = modules_to_save(plan, first, base)
        whole = saved_modules(job.parsed, named, first)
        shares = _Shares()
        adapters = [
            _Adapter(
                one, min(rank, one.d), first[one.name], trained.tensor(one.name).astype(np.float32, copy=False), shares
            )
            for one in plan.targets
            if not is_below(module_of(one.name), whole)
        ]
        if not adapters:
            raise NoAdapter("all that this job trains is new to the base model; download the whole model instead")
        saved = {name: tensor for name, tensor in first.items() if is_below(module_of(name), whole)}
        header = _header(adapters, saved)
        bodies = [
            _Mapped(trained.tensor(name).reshape(-1).view(np.uint8) if name in weights else tensor.data)
            for name, tensor in saved.items()
        ]

        config = adapter_config(job.parsed, {one.target: one.rank for one in adapters}, rank, named)
        self._add("adapter_config.json", Held(json.dumps(config, indent=2).encode() + b"\n"))
        self._add("README.md", Held(readme(job.parsed, version, rank).encode()))
        for name, blob in job.prepared.export:  # the configuration with the labels, the tokenizer or image processor
            if not name.endswith((".safetensors", ".safetensors.index.json")):
                self._add(name, Piece(self._open(blobs.path(blob.sha256)), 0, blob.size_bytes))
        self._add("adapter_model.safetensors", Held(header), *adapters, *bodies)
        told = card(job, version) | {"rank": rank, "evaluation_of_the_full_model": evaluation}
        self._add(CARD, _Card(told, adapters, shares))  # last: only then it is known what was kept


def _tensors(files: tuple[tuple[str, BlobRef], ...], blobs: BlobStore) -> dict[str, Stored]:
    return read_checkpoints(blobs.path(blob.sha256) for name, blob in files if name.endswith(".safetensors"))


def _header(adapters: list[_Adapter], saved: Mapping[str, Stored]) -> bytes:
    """Length field and JSON of the adapter's file: first the factors, then what is saved whole."""
    shapes = {name: shape for adapter in adapters for name, shape in adapter.shapes.items()}
    entries = [(name, "F32", shape, 4 * prod(shape)) for name, shape in shapes.items()]
    entries += [(name, tensor.dtype, tensor.shape, tensor.data.nbytes) for name, tensor in saved.items()]
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape, size in entries:
        offsets = [position, position + size]
        document[f"base_model.model.{name}"] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        position += size
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
