"""What a job taught a model, as a PEFT LoRA adapter in a tar: a folder that `peft.PeftModel.from_pretrained` loads.

Of every trained matrix the change since version 0 goes along as its best approximation of the rank asked for, computed
while it is sent: one matrix at a time, from memory maps. Ranks and shapes are known before, so the tar's size is, too.

Modules that no change of low rank describes go along whole, by PEFT's `modules_to_save`: the head, and what is not in
the base model's files. A user's `from_pretrained(base)` would draw such weights anew (a pooler, say), other ones than
this job has drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.archive import CARD, CHUNK_BYTES, Archive, ArchiveError, Held, Piece, card
from coordinator.blob_store import BlobStore
from coordinator.checkpoint import Stored, read_checkpoints
from coordinator.errors import NoAdapter, NotReady
from coordinator.job import BlobRef, Job, ModelVersion
from coordinator.low_rank import low_rank
from fedgalore.job_spec import JobSpec
from fedgalore.layout import adapter_shapes
from fedgalore.plan import Target, TrainingPlan
from protos.codec import LENGTH_BYTES, open_update

DEFAULT_RANK = 16
SAMPLES = 256  # values by which a tensor is known again in other files
# PEFT has no task for images; without one its model passes on whatever it is called with.
TASK_TYPES = {"sequence-classification": "SEQ_CLS", "causal-lm": "CAUSAL_LM", "image-classification": None}
AUTO_CLASSES = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
}
PEFTS_OWN = {"SEQ_CLS": ("classifier", "score")}  # what PEFT adds to `modules_to_save` by itself

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
            f"{_module_of(self.target.name)}.{suffix}.weight": shape
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

        task_type = TASK_TYPES[job.parsed.model.task]
        named = _whole_modules(plan, first, base)
        whole = _that_peft_saves(named, first, task_type)
        shares = _Shares()
        adapters = [
            _Adapter(one, min(rank, one.d), first[one.name], trained.tensor(one.name), shares)
            for one in plan.targets
            if not _is_below(_module_of(one.name), whole)
        ]
        if not adapters:
            raise NoAdapter("all that this job trains is new to the base model; download the whole model instead")
        saved = {name: tensor for name, tensor in first.items() if _is_below(_module_of(name), whole)}
        header = _header(adapters, saved)
        bodies = [
            _Mapped(trained.tensor(name).reshape(-1).view(np.uint8) if name in weights else tensor.data)
            for name, tensor in saved.items()
        ]

        config = _config(job.parsed, adapters, rank, named, task_type)
        self._add("adapter_config.json", Held(json.dumps(config, indent=2).encode() + b"\n"))
        self._add("README.md", Held(_readme(job.parsed, version, rank).encode()))
        for name, blob in job.prepared.export:  # the configuration with the labels, the tokenizer or image processor
            if not name.endswith((".safetensors", ".safetensors.index.json")):
                self._add(name, Piece(self._open(blobs.path(blob.sha256)), 0, blob.size_bytes))
        self._add("adapter_model.safetensors", Held(header), *adapters, *bodies)
        told = card(job, version) | {"rank": rank, "evaluation_of_the_full_model": evaluation}
        self._add(CARD, _Card(told, adapters, shares))  # last: only then it is known what was kept


def _module_of(name: str) -> str:
    """The module that owns a weight; empty for a weight of the model itself."""
    return name.rpartition(".")[0]


def _whole_modules(plan: TrainingPlan, first: Mapping[str, Stored], base: Mapping[str, Stored]) -> list[str]:
    """Names for `modules_to_save`: the parts of the head, and modules with weights that the base model's files lack.

    Names in the two may differ by prefixes and by a library's version, so a weight is known by its shape and values.

    Raises:
        NoAdapter: such a weight is in no module.
    """
    head = {item.name for item in plan.dense}
    known = {_sample(tensor) for tensor in base.values()}
    new = {name for name, tensor in first.items() if name not in head and _sample(tensor) not in {*known, None}}
    if loose := sorted(name for name in head | new if "." not in name):
        raise NoAdapter(
            f"{', '.join(loose)} belongs to no module of the model, so that PEFT can not carry it; "
            "download the whole model instead"
        )
    modules = {name.partition(".")[0] for name in head} | {_module_of(name) for name in new}
    return sorted(name for name in modules if not _is_below(_module_of(name), modules))


def _config(
    spec: JobSpec, adapters: list[_Adapter], rank: int, whole: list[str], task_type: str | None
) -> dict[str, Any]:
    """`adapter_config.json` as PEFT reads it. Each alpha equals its rank: the factors go in as they are."""
    own_rank = {_module_of(one.target.name): one.rank for one in adapters if one.rank != rank}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": spec.model.source,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": own_rank,
        "alpha_pattern": own_rank,
        "target_modules": [_module_of(one.target.name) for one in adapters],
        "modules_to_save": whole or None,
        "fan_in_fan_out": any(one.target.fan_in_fan_out for one in adapters),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def _tensors(files: tuple[tuple[str, BlobRef], ...], blobs: BlobStore) -> dict[str, Stored]:
    return read_checkpoints(blobs.path(blob.sha256) for name, blob in files if name.endswith(".safetensors"))


def _sample(tensor: Stored) -> tuple[tuple[int, ...], bytes] | None:
    """What tells one weight from another, whatever their dtypes: shape and some values from the middle.

    None for a buffer of whole numbers, which is never drawn.
    """
    middle = prod(tensor.shape) // 2
    values = tensor.floats(middle, middle + SAMPLES)
    return None if values is None else (tensor.shape, values.tobytes())


def _is_below(module: str, modules: set[str]) -> bool:
    """Whether one of `modules` is, or holds, this one."""
    return any(module == one or module.startswith(f"{one}.") for one in modules)


def _that_peft_saves(named: list[str], tensors: Mapping[str, Stored], task_type: str | None) -> set[str]:
    """The modules that PEFT takes `named` to mean, which are all whose path ends so; it wants every one's weights."""
    ends = (*named, *PEFTS_OWN.get(task_type or "", ()))
    modules = {_module_of(name) for name in tensors}
    modules |= {".".join(parts[:end]) for parts in (one.split(".") for one in modules) for end in range(1, len(parts))}
    return {module for module in modules if module.endswith(ends)}


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


def _readme(spec: JobSpec, version: ModelVersion, rank: int) -> str:
    auto = AUTO_CLASSES[spec.model.task]
    head = "" if spec.model.task == "causal-lm" else ", ignore_mismatched_sizes=True"
    return f"""# {spec.name}: LoRA adapter of rank {rank}

What {version.version} rounds of federated training ({spec.method.kind}) changed in the base model, cut to rank {rank}.
`fedgalore.json` says how much of the change that keeps.

```python
from peft import PeftModel
from transformers import AutoConfig, {auto}

adapter = "."  # this folder
base = {spec.model.source!r}  # the model that the job started from, wherever you have it
model = {auto}.from_pretrained(base, config=AutoConfig.from_pretrained(adapter){head})
model = PeftModel.from_pretrained(model, adapter)
```
"""
