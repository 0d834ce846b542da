"""The change that a job trained, as a PEFT LoRA adapter in a tar: a folder for `peft.PeftModel.from_pretrained`.

The adapter holds, of every trained matrix, the best approximation of the requested rank of its change since version 0.
It is computed matrix by matrix, while the tar is sent, also when only its end is asked for. Ranks and shapes are known
before, and so is the size. `coordinator.models.peft_adapter` says which modules are sent whole, and writes PEFT's
configuration.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np

from coordinator.models.archive import (
    CARD,
    Archive,
    ArchiveError,
    ByteSource,
    Converted,
    Held,
    Joined,
    Piece,
    behind,
    card,
    whole_weights,
)
from coordinator.models.checkpoint import StoredAs, StoredTensor, header_of, model_tensors
from coordinator.models.peft_adapter import (
    adapter_config,
    is_below,
    layer_biases,
    module_of,
    modules_to_save,
    readme,
    saved_modules,
)
from coordinator.state.errors import NoAdapter, NotReady
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore
from coordinator.store.numbers import WIDTHS, as_stored
from fedgalore.maths.low_rank import low_rank
from fedgalore.spec.dtypes import Dtype, exported
from fedgalore.spec.plan import Target, TrainingPlan, adapter_shapes

DEFAULT_RANK = 16
_PROCESS = secrets.token_hex(8)  # another machine, or another number of threads, may round otherwise


@dataclass
class _Shares:
    """Squared norms of the changes and of their approximations, by matrix. Filled while the archive is read."""

    total: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)

    def of(self, names: list[str]) -> float:
        """Share of the changes' energy that the adapter keeps; 1 where nothing has changed."""
        total = sum(self.total.get(name, 0.0) for name in names)
        # Six digits, so that the longest text of a share is known.
        return round(min(1.0, sum(self.kept.get(name, 0.0) for name in names) / total), 6) if total else 1.0


@dataclass(frozen=True)
class _Adapter:
    """`lora_A` and `lora_B` of a matrix, as the bytes of a checkpoint. They are computed when they are read."""

    target: Target
    rank: int
    before: StoredTensor
    after: StoredTensor
    dtype: str  # safetensors' name of the factors' format
    shares: _Shares

    @property
    def tensors(self) -> dict[str, StoredAs]:
        return {
            f"{module_of(self.target.name)}.{suffix}.weight": StoredAs(
                self.dtype, shape, WIDTHS[self.dtype] * prod(shape)
            )
            for suffix, shape in adapter_shapes(self.target, self.rank).items()
        }

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    def read(self, skip: int = 0) -> Iterator[bytes]:
        return behind(self._computed(), skip)

    def _computed(self) -> Iterator[bytes]:
        change = (self.after.floats() - self.before.floats()).reshape(self.target.shape)
        lora_b, lora_a, kept = low_rank(change.T if self.target.fan_in_fan_out else change, self.rank)
        self.shares.total[self.target.name] = float(np.einsum("ij,ij->", change, change, dtype=np.float64))
        self.shares.kept[self.target.name] = kept
        yield as_stored(lora_a, self.dtype)
        yield as_stored(lora_b, self.dtype)


@dataclass(frozen=True)
class _Card:
    """`fedgalore.json`. Its size is known before the shares in it are, because its text is padded with spaces."""

    card: Mapping[str, Any]
    adapters: list[_Adapter]
    shares: _Shares

    @property
    def size_bytes(self) -> int:
        return len(self._text(0.123456))

    def read(self, skip: int = 0) -> Iterator[bytes]:
        yield self._text(None).ljust(self.size_bytes)[skip:]

    def _text(self, share: float | None) -> bytes:
        """`share` stands in for every share; None means the measured shares."""
        names = [adapter.target.name for adapter in self.adapters]
        matrices = {
            adapter.target.name: {
                "rank": adapter.rank,
                "energy_kept": self.shares.of([adapter.target.name]) if share is None else share,
            }
            for adapter in self.adapters
        }
        whole = self.shares.of(names) if share is None else share
        return json.dumps({**self.card, "energy_kept": whole, "matrices": matrices}, indent=2).encode() + b"\n"


class AdapterArchive(Archive):
    """The tar of a version of a job's model as an adapter: its size, and its bytes chunk by chunk.

    A matrix may be decomposed between two chunks, which takes seconds for a large matrix.
    """

    def __init__(
        self, job: Job, version: ModelVersion, rank: int, evaluation: dict[str, Any] | None, blobs: BlobStore
    ) -> None:
        """Reads headers, and a few values of each tensor.

        Args:
            rank: at least 1. A matrix whose smaller side is less than `rank` gets that side as its rank, by which
                nothing is lost.
            evaluation: what clients measured of the full model; goes into `fedgalore.json`.

        Raises:
            NotReady: the job has no model yet.
            BlobNotFound: the store lacks a file of the version or of the base model.
            NoAdapter: PEFT has no place for what this job trains.
            ArchiveError: the stored files do not fit together.
        """
        if job.prepared is None:
            raise NotReady(f"job {job.id} is {job.status}: its model is not prepared yet; ask again once it runs")
        super().__init__(job, f"{job.parsed.name}-v{version.version}-rank{rank}.tar")
        plan = TrainingPlan.from_dict(job.prepared.plan)
        if plan.shared:
            raise NoAdapter(
                f"{plan.shared[0]} is one weight of several layers of this model, of which PEFT changes one; "
                "download the whole model"
            )
        open_blob = partial(self._open, blobs)
        first = model_tensors(open_blob, job.prepared.export)
        base = model_tensors(open_blob, job.prepared.base_model)
        trained = model_tensors(open_blob, [("weights.safetensors", whole_weights(version))])
        weights, parts = plan.weights(), plan.parts()
        for name, place in plan.places().items():
            if place.parameter not in first or name not in trained:
                raise ArchiveError(f"{name} is not in the model's files, or not in the version's weights")
            if first[place.parameter].shape != place.shape or trained[name].spec != weights[name]:
                raise ArchiveError(f"{name} is not of shape {weights[name].shape} in the stored files")

        named = modules_to_save(plan, first, base)
        whole = saved_modules(job.parsed, named, first)
        choice = job.parsed.model.dtype
        shares = _Shares()
        adapters = [
            _Adapter(
                target,
                min(rank, target.d),
                first[target.name],
                trained[target.name],
                exported(first[target.name].dtype, choice),
                shares,
            )
            for target in plan.targets
            if target.is_wrappable and not is_below(module_of(target.name), whole)
        ]
        if not adapters:
            raise NoAdapter(
                "each linear layer that this job trains is new to the base model or part of a module that is saved "
                "whole; download the whole model"
            )
        saved = {name: name for name in first if is_below(module_of(name), whole)}
        layers = {module_of(adapter.target.name) for adapter in adapters}
        biases = sorted(name for name in layer_biases(plan) if module_of(name) in layers)
        saved |= {f"{module_of(name)}.base_layer.bias": name for name in biases}
        tensors = {name: tensor for adapter in adapters for name, tensor in adapter.tensors.items()}
        bodies: list[ByteSource] = []
        for key, name in saved.items():
            tensor = first[name]
            body = _body([trained[part] for part in parts.get(name, ())], tensor, choice)
            tensors[key] = StoredAs(exported(tensor.dtype, choice), tensor.shape, body.size_bytes)
            bodies.append(body)

        ranks = {adapter.target: adapter.rank for adapter in adapters}
        config = adapter_config(job.parsed, ranks, rank, named, bool(biases))
        self._add("adapter_config.json", Held(json.dumps(config, indent=2).encode() + b"\n"))
        self._add("README.md", Held(readme(job.parsed, job.rounds_behind(version.version), rank).encode()))
        for name, blob in job.prepared.export:  # the configuration with the labels, the tokenizer or image processor
            if not name.endswith((".safetensors", ".safetensors.index.json")):
                self._add(name, Piece(self._open(blobs, blob.sha256), 0, blob.size_bytes))
        self._add("adapter_model.safetensors", Held(_header(tensors)), *adapters, *bodies)
        facts = card(job, version) | {"rank": rank, "evaluation_of_the_full_model": evaluation}
        self._add(CARD, _Card(facts, adapters, shares))  # last, because the shares are measured by then
        self._note(facts, _PROCESS)

    def read(self, skip: int = 0) -> Iterator[bytes]:
        return behind(super().read(), skip)  # the card at the end tells of each matrix


def _body(trained: Sequence[StoredTensor], first: StoredTensor, choice: Dtype) -> ByteSource:
    """A tensor that is saved whole, as its parts were trained, or else as it was in the first version."""
    stored, wanted = "F32" if trained else first.dtype, exported(first.dtype, choice)
    body = Joined(tuple(Piece(part.file, part.start, part.size_bytes) for part in trained or (first,)))
    return body if stored == wanted else Converted(body, stored, wanted)


def _header(tensors: Mapping[str, StoredAs]) -> bytes:
    """Header of the adapter's file: first the factors, then the tensors that are saved whole."""
    return header_of({f"base_model.model.{name}": tensor for name, tensor in tensors.items()})
