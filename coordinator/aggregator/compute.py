"""Model folders into version 0, and a round's updates into the next version: from blobs to blobs.

Memory: one group of equal matrices of all clients at a time, read from memory maps and written straight to disk. The
same updates give the same bits, in whatever order they arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import structlog
import torch
from safetensors import safe_open
from torch import Tensor

from coordinator.aggregator.base_copies import BaseModel
from coordinator.aggregator.file_sink import FileSink
from coordinator.aggregator.load_back import of_download
from coordinator.aggregator.weights import (
    FileTensors,
    check_held,
    check_sound,
    replayed,
    store_weights,
    weights_of,
    write_weights,
)
from coordinator.models.checkpoint import map_tensors
from coordinator.models.model_archive import ModelArchive
from coordinator.models.source import SourceError, fetched_folder
from coordinator.state import job as jobs
from coordinator.state.job_state import Job, Prepared
from coordinator.state.round_state import ModelVersion, Round
from coordinator.store.blob_store import BlobStore
from fedgalore.aggregation import NextVersion, first_carried, next_version
from fedgalore.alignment import Alignment
from fedgalore.chain import Chain, Cut
from fedgalore.deltas import Lookup, nothing
from fedgalore.maths.bounds import OutOfBounds
from fedgalore.maths.parallel import in_order
from fedgalore.methods.halves import client_half
from fedgalore.model import folder as model_folder
from fedgalore.model.chat import has_template
from fedgalore.model.inputs import TaskError
from fedgalore.model.load_back import answers
from fedgalore.model.probe import probe, probe_narrow
from fedgalore.model.remarks import remarks
from fedgalore.model.task import TaskModel
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.faults import Fault, reach
from fedgalore.rounds import ClientTensors, Shelf
from fedgalore.sizing import SiteMemory
from fedgalore.soundness import without_the_unfit
from fedgalore.spec import layout
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TrainingPlan

log = structlog.get_logger("aggregator")


class PreparationError(ValueError):
    """The job's model cannot be used; the message names the field and the remedy."""


class UpdatesDamaged(Exception):
    """Updates of these clients are missing, or had another content than they came with and are gone from the store."""

    def __init__(self, clients: list[str]) -> None:
        super().__init__(f"updates of {', '.join(clients)} are damaged")
        self.clients = clients


@dataclass(frozen=True)
class StoredVersion:
    """The version that a round makes.

    `timings` in seconds; `statistics` are means over the target matrices; `alignment` by layer.
    """

    model: ModelVersion
    timings: dict[str, float]
    statistics: dict[str, float]
    dropped: dict[str, str] = field(default_factory=dict)  # whose update is not in it, and why
    alignment: dict[str, Alignment] = field(default_factory=dict)


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare_from(job: Job, version: ModelVersion, spec: JobSpec, blobs: BlobStore) -> Prepared:
    """As `prepare`, for a job that starts from what a download of this version of another job holds.

    Raises:
        PreparationError
        ChainBroken, BlobNotFound: a file of the version is gone.
    """
    if version.weights is None:
        version = replace(version, weights=whole_weights(job, version, blobs))
    with blobs.scratch_folder() as folder:
        ModelArchive(job, version, None, blobs).unpack(folder / "start")
        return prepare(spec, blobs, known=folder / "start")


def prepare(spec: JobSpec, blobs: BlobStore, allow_pickle: bool = False, known: Path | None = None) -> Prepared:
    """Reads `model.source`, draws its new weights and stores what agents and downloads need.

    Args:
        known: the folder of the source, where it is none that `model.source` names.

    Raises:
        PreparationError: the source is missing, is no model of this task, does not fit the method, or its download
            would be another model.
    """
    try:
        source = known or fetched_folder(spec.model.source)
        with blobs.scratch_folder() as scratch:  # whose files last as long as they are mapped
            task = TaskModel.load(spec, source, allow_pickle=allow_pickle, scratch=scratch / "float32")
        client_half(spec).check(task)
        probe(task)
        if (words := task.inputs.shortening(spec.data.max_length)) is not None:
            log.warning("texts_cut", reason=words)
    except SourceError as error:
        raise PreparationError(f"model.source: {error}") from error
    except TaskError as error:
        raise PreparationError(str(error)) from error
    with blobs.scratch_folder() as folder:
        export = folder / "export"
        task.save(export, as_base=True)
        _check_export(export, task.plan)
        weights = folder / "weights.safetensors"
        names = layout.weights_tensors(spec, task.plan, 0)
        carried = first_carried(task)
        first = ((name, carried[name] if name in carried else task.weight(name)) for name in names)
        try:
            write_weights(weights, first, 0, task.plan, spec)
        except OutOfBounds as error:
            raise PreparationError(f"model.source: {error}; take another model") from error
        reach(Fault.MODEL_EXPORTED)
        # No site is sent a pickle: the model as it was read takes its place.
        base_model = _store_folder(source if model_folder.has_safetensors(source) else export, blobs)
        base = BaseModel(base_model, blobs) if blobs.composes else None
        prepared = Prepared(
            plan=task.plan.to_dict(),
            base_model=base_model,
            export=_store_folder(export, blobs, base),
            model=ModelVersion.first(
                blobs.put_file(weights, move=True, copies=base.copies_in_weights(weights, task.plan) if base else ())
            ),
            chat_template=has_template(task.inputs),
            notes=remarks(task),
            memory=SiteMemory.of(spec, task.plan),
        )
    reach(Fault.MODEL_STORED)
    expected = answers(task)
    del task  # one model in memory at a time
    if spec.local.weights == "bfloat16":
        try:
            probe_narrow(TaskModel.load(spec, source, allow_pickle=allow_pickle, narrow=True))
        except TaskError as error:
            raise PreparationError(str(error)) from error
    job = replace(jobs.create("", spec, 0), prepared=prepared)
    if words := of_download(job, prepared.model, blobs, expected):
        raise PreparationError(f"model.source: version 0 was loaded back as a download would be, and {words}")
    return prepared


def _store_folder(folder: Path, blobs: BlobStore, base: BaseModel | None = None) -> tuple[tuple[str, BlobRef], ...]:
    """A model's files; of those that hold tensors, what the base model lacks."""

    def put(path: Path) -> BlobRef:
        return blobs.put_file(path, copies=base.copies_in_file(path) if base and path.suffix == ".safetensors" else ())

    return tuple((path.name, put(path)) for path in model_folder.files(folder))


def _check_export(export: Path, plan: TrainingPlan) -> None:
    """The trained weights must stand in the saved model under their own names, or a download could not hold them."""
    saved: dict[str, tuple[int, ...]] = {}
    for path in export.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            names = file.keys()  # no mapping, whatever it looks like
            saved.update({name: tuple(file.get_slice(name).get_shape()) for name in names})
    for place in plan.places().values():
        if saved.get(place.parameter) != place.shape:
            raise PreparationError(
                f"model.source: transformers saves {place.parameter} under another name or shape; "
                "this architecture is not supported"
            )


def whole_weights(job: Job, model: ModelVersion, blobs: BlobStore) -> BlobRef:
    """Makes the whole weights of a version of the job.

    Raises:
        ChainBroken: what they are made of is damaged or missing.
        OSError: the disk is full.
    """
    plan = TrainingPlan.from_dict(job.ready().prepared.plan)
    weights = weights_of(model, plan, job.parsed, blobs)
    return store_weights(weights, model.version, plan, job.parsed, blobs)


def aggregate(job: Job, blobs: BlobStore, device: torch.device) -> StoredVersion:
    """The next model version from the reports of the job's round, which is in AGGREGATION.

    It is a cut, and a checkpoint where one is due; or its weights alone, where a cut would be no smaller.

    Raises:
        UpdatesDamaged: some of them have to be sent again; nothing was aggregated.
        ChainBroken: the version before is damaged.
        TooFewLeft: too few of the updates can be taken.
        OutOfBounds: weights would not be finite, or far too large, whoever's update is left out.
        CodecError, OSError: a blob is damaged or missing, or the disk is full.
    """
    started = time.perf_counter()
    if job.prepared is None or job.model is None or job.round is None:
        raise ValueError(f"job {job.id} has no round in AGGREGATION")
    model, version = job.model, job.model.version + 1
    plan = TrainingPlan.from_dict(job.prepared.plan)
    updates = _updates(job.round, blobs)
    old = cache(lambda: weights_of(model, plan, job.parsed, blobs))
    with blobs.scratch_folder() as folder:
        shelf = _shelf(model, old, blobs)

        def make(left_out: Mapping[str, str]) -> tuple[NextVersion, list[str]]:
            with FileSink(folder, version, old, plan, job.parsed) as sink:
                # the version counts as the clients do: an abandoned round leaves no trace in those after it
                this = (job.parsed, plan, version, shelf, updates, sink)
                return next_version(*this, device=device, secret=job.secret, left_out=left_out), sink.parts

        result, parts = without_the_unfit(make)
        computed = time.perf_counter()
        reach(Fault.VERSION_WRITTEN)
        stored_ones = in_order(lambda part: blobs.put_file(folder / part, move=True), parts)  # disks sync side by side
        refs = dict(zip(parts, stored_ones, strict=True))
    stored = time.perf_counter()
    timings = {"compute_s": computed - started, "store_s": stored - computed}
    weights, cut = refs.get("weights"), refs.get("aggregate")
    if cut is not None:
        reach(Fault.CUT_STORED)
        chain = model.chain.then(Cut(version, cut))
        if chain.is_due:
            weights = store_weights(replayed(chain, plan, job.parsed, blobs), version, plan, job.parsed, blobs)
            chain = chain.ended(version, weights)
            timings["checkpoint_s"] = time.perf_counter() - stored
    else:
        chain = Chain.start(refs["weights"], version)
    reach(Fault.VERSION_STORED)
    made = ModelVersion(version, chain, weights, cut, refs.get("state"), refs.get("residue"))
    return StoredVersion(made, timings, result.statistics, result.dropped, result.alignment)


def _updates(round: Round, blobs: BlobStore) -> list[ClientTensors]:
    """The round's updates, memory-mapped.

    Raises:
        UpdatesDamaged
    """
    receipts = {name: part.receipt for name, part in sorted(round.participants.items()) if part.receipt is not None}
    # Whole, before any of it is used: damage in the middle of a file of numbers gives other numbers.
    gone = in_order(blobs.discard_damaged, [receipt.blob.sha256 for receipt in receipts.values()])
    if damaged := [name for name, is_gone in zip(receipts, gone, strict=True) if is_gone]:
        raise UpdatesDamaged(damaged)
    updates = []
    for name, receipt in receipts.items():
        file = map_tensors(blobs, receipt.blob.sha256)
        tensors, decay = FileTensors(file), float(file.metadata["decay"])
        updates.append(ClientTensors(name, receipt.num_examples, decay, tensors.__getitem__, tensors.view))
    return updates


def _shelf(model: ModelVersion, weights: Callable[[], Mapping[str, Tensor]], blobs: BlobStore) -> Shelf:
    """The version before. Its weights, which few methods read, are asked for when they are.

    Raises:
        ChainBroken: a part of it is damaged or missing, or will be missed when its weights are asked for.
    """
    check_held(model.chain, blobs)
    for part in (model.state, model.residue):
        if part is not None:
            check_sound(part, model.version, blobs)

    def lookup(blob: BlobRef | None) -> Lookup:
        return FileTensors(map_tensors(blobs, blob.sha256)).get if blob else nothing

    return Shelf(lambda name: weights()[name], lookup(model.state), lookup(model.residue))
