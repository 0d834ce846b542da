"""Model folders into version 0, and a round's updates into the next version: from blobs to blobs.

Memory: one group of equal matrices of all clients at a time, read from memory maps and written straight to disk. The
same updates give the same bits, in whatever order they arrived.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from coordinator.models.source import SourceError, fetched_folder
from coordinator.state.errors import BlobLost
from coordinator.state.job_state import Job, Prepared
from coordinator.state.round_state import BlobRef, ModelVersion
from coordinator.store.blob_store import BlobStore
from fedgalore.aggregation import aggregate_group, groups, screened, spent
from fedgalore.methods import method_of
from fedgalore.methods.base import ClientTensors, GroupResult, Lookup, Reader, Round, nothing
from fedgalore.model import folder as model_folder
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.process.faults import Fault, reach
from fedgalore.spec import layout
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TensorSpec, TrainingPlan
from protos.codec import SafetensorsWriter, TensorFile, open_update


class PreparationError(ValueError):
    """The job's model cannot be used; the message names the field and the remedy."""


class UpdatesDamaged(Exception):
    """Updates of these clients are missing, or had another content than they came with and are gone from the store."""

    def __init__(self, clients: list[str]) -> None:
        super().__init__(f"updates of {', '.join(clients)} are damaged")
        self.clients = clients


@dataclass(frozen=True)
class Aggregated:
    """What a round became. `timings` in seconds; `statistics` are means over the target matrices."""

    model: ModelVersion
    timings: dict[str, float]
    statistics: dict[str, float]
    dropped: dict[str, str] = field(default_factory=dict)  # whose update is not in it, and why


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare(spec: JobSpec, blobs: BlobStore, allow_pickle: bool = False) -> Prepared:
    """Reads `model.source`, draws its new weights and stores what agents and downloads need.

    Raises:
        PreparationError: the source is missing, is no model of this task, or does not fit the method.
    """
    try:
        source = fetched_folder(spec.model.source)
        task = TaskModel.load(spec, source, allow_pickle=allow_pickle)
    except SourceError as error:
        raise PreparationError(f"model.source: {error}") from error
    except TaskError as error:
        raise PreparationError(str(error)) from error
    with blobs.scratch_folder() as folder:
        export = folder / "export"
        task.save(export)
        _check_export(export, task.plan)
        weights = folder / "weights.safetensors"
        tensors = layout.weights_tensors(spec, task.plan)
        carried = method_of(spec).carried(spec, task.plan)
        with SafetensorsWriter(weights, tensors, {"format": layout.WEIGHTS_FORMAT, "version": "0"}) as writer:
            for name in tensors:
                writer.write(name, (carried[name] if name in carried else task.weight(name)).numpy())
        reach(Fault.MODEL_EXPORTED)
        prepared = Prepared(
            plan=task.plan.to_dict(),
            # No site is sent a pickle: the model as it was read takes its place.
            base_model=_store_folder(source if model_folder.has_safetensors(source) else export, blobs),
            export=_store_folder(export, blobs),
            model=ModelVersion(version=0, weights=blobs.put_file(weights, move=True)),
        )
    reach(Fault.MODEL_STORED)
    return prepared


def _store_folder(folder: Path, blobs: BlobStore) -> tuple[tuple[str, BlobRef], ...]:
    return tuple((path.name, blobs.put_file(path)) for path in model_folder.files(folder))


def _check_export(export: Path, plan: TrainingPlan) -> None:
    """The trained weights must stand in the saved model under their own names, or a download could not hold them."""
    saved: dict[str, tuple[int, ...]] = {}
    for path in export.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            names = file.keys()  # no mapping, whatever it looks like
            saved.update({name: tuple(file.get_slice(name).get_shape()) for name in names})
    for name, spec in plan.weights().items():
        if saved.get(name) != spec.shape:
            raise PreparationError(
                f"model.source: transformers saves {name} under another name or shape; "
                "this architecture is not supported"
            )


def aggregate(job: Job, blobs: BlobStore, device: torch.device) -> Aggregated:
    """The next model version from the reports of the job's round, which is in AGGREGATION.

    Raises:
        UpdatesDamaged: some of them have to be sent again; nothing was aggregated.
        BlobLost: the version before is damaged.
        CodecError, OSError: a blob is damaged or missing, or the disk is full.
    """
    started = time.perf_counter()
    spec = JobSpec.model_validate(job.spec)
    assert job.prepared is not None
    assert job.model is not None
    assert job.round is not None
    plan = TrainingPlan.from_dict(job.prepared.plan)
    version = job.model.version + 1
    receipts = {name: one.receipt for name, one in sorted(job.round.participants.items()) if one.receipt is not None}
    # Whole, before any of it is used: damage in the middle of a file of numbers gives other numbers.
    if damaged := [name for name, receipt in receipts.items() if blobs.discard_damaged(receipt.blob.sha256)]:
        raise UpdatesDamaged(damaged)
    clients = []
    for name, receipt in receipts.items():
        update = open_update(blobs.path(receipt.blob.sha256))
        clients.append(ClientTensors(name, receipt.num_examples, float(update.metadata["decay"]), _reader(update)))
    model = job.model
    for part in (model.weights, model.state, model.residue, model.aggregate):
        if part is not None and not blobs.is_sound(part.sha256):
            raise BlobLost(f"blob {part.sha256} of version {model.version} is missing or damaged; restore it")
    this = Round(
        spec=spec,
        number=version,  # as the clients count: an abandoned round leaves no trace in those after it
        clients=clients,
        weights=_reader(open_update(blobs.path(model.weights.sha256))),
        state=_reader(open_update(blobs.path(model.state.sha256))) if model.state else None,
        residue=_reader(open_update(blobs.path(model.residue.sha256))) if model.residue else None,
        device=device,
        last=_lookup(open_update(blobs.path(model.aggregate.sha256)))
        if spec.method.momentum and model.aggregate
        else nothing,
        secret=job.secret,
    )
    this, dropped = screened(this, plan)
    summed = [client.client for client in this.clients]

    outputs: dict[str, tuple[str, Mapping[str, TensorSpec]]] = {
        "weights": (layout.WEIGHTS_FORMAT, layout.weights_tensors(spec, plan)),
        "aggregate": (layout.AGGREGATE_FORMAT, layout.aggregate_tensors(spec, plan, summed, version)),
        "state": (layout.STATE_FORMAT, layout.state_tensors(spec, plan, version)),
        "residue": (layout.RESIDUE_FORMAT, layout.residue_tensors(spec, plan)),
    }
    statistics = spent(spec, version)
    with blobs.scratch_folder() as folder:
        with ExitStack() as files:
            writers = {
                part: files.enter_context(
                    SafetensorsWriter(
                        folder / part, tensors, {"format": form, "version": str(version), "decay": repr(this.decay)}
                    )
                )
                for part, (form, tensors) in outputs.items()
                if tensors
            }
            for group in groups(plan, summed, spec):
                result = aggregate_group(group, this)
                _write(result, writers)
                reach(Fault.GROUP_WRITTEN)
                for key, values in result.statistics.items():
                    statistics.setdefault(key, []).extend(values)
        computed = time.perf_counter()
        reach(Fault.VERSION_WRITTEN)
        refs = {part: blobs.put_file(folder / part, move=True) for part in writers}
    reach(Fault.VERSION_STORED)
    made = ModelVersion(version, refs["weights"], refs["aggregate"], refs.get("state"), refs.get("residue"))
    timings = {"compute_s": computed - started, "store_s": time.perf_counter() - computed}
    means = {key: sum(values) / len(values) for key, values in statistics.items()}
    return Aggregated(made, timings, means, dropped)


def _reader(file: TensorFile) -> Reader:
    def read(name: str) -> Tensor:
        # a copy: products of differently aligned memory may round differently, and a map is aligned to 8 bytes only
        return torch.from_numpy(file.tensor(name)).clone()

    return read


def _lookup(file: TensorFile) -> Lookup:
    read = _reader(file)
    return lambda name: read(name) if name in file.header.tensors else None


def _write(result: GroupResult, writers: Mapping[str, SafetensorsWriter]) -> None:
    for part, tensors in (
        ("weights", result.weights),
        ("aggregate", result.aggregate),
        ("state", result.state),
        ("residue", result.residue),
    ):
        for name, tensor in tensors.items():
            writers[part].write(name, tensor.numpy())
