"""A job's download and adapter, loaded back as a user would load them, before the job says that it has ended well."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

from coordinator.aggregator.stored_model import base_model, load_version
from coordinator.models.adapter_archive import DEFAULT_RANK, AdapterArchive
from coordinator.models.archive import CARD
from coordinator.models.checkpoint import read_places
from coordinator.models.model_archive import ModelArchive
from coordinator.state.errors import NoAdapter
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.state.versions import with_weights
from coordinator.store.blob_store import BlobStore
from fedgalore.methods.lora.spec import LoRASpec
from fedgalore.model.culprits import short
from fedgalore.model.load_back import COARSE, TOLERANCE, Answers, answers, difference, far, logits_of
from fedgalore.model.widened import widened
from fedgalore.process.memory import is_short
from fedgalore.process.ranges import FileRanges

WHOLE = 0.9999  # share of the change's energy from which on an adapter answers as the model does


def differences(job: Job, blobs: BlobStore, device: torch.device) -> str | None:
    """How the newest version's download, or the adapter of a job that trains one, differs from what was trained.

    On a CPU a model is mapped from files, one at a time: memory is for layers in 16 bits, whose arithmetic is tried.

    Returns:
        A sentence; None where nothing differs.

    Raises:
        ChainBroken, BlobNotFound, CodecError, OSError: a blob is damaged or missing, or the disk is full.
        TaskError: the base model that the sites were sent cannot be loaded any more.
    """
    ready = job.ready()
    model = with_weights(job, ready.model)
    with base_model(ready.prepared, blobs) as base:
        expected = answers(load_version(job.parsed, base, model, blobs, device))
        if words := of_download(job, model, blobs, expected):
            return f"version {model.version} is downloaded, and {words}"
        if isinstance(job.parsed.method, LoRASpec) and (words := _of_adapter(job, model, base, blobs, expected)):
            return f"the adapter of version {model.version} is downloaded, and {words}"
    return None


def of_download(job: Job, version: ModelVersion, blobs: BlobStore, expected: Answers) -> str | None:
    """How the download of a version differs from the model with these answers."""
    with blobs.scratch_folder() as scratch:
        ModelArchive(job, version, None, blobs).unpack(folder := scratch / "download", with_card=True)
        return difference(folder, expected)


def _of_adapter(job: Job, model: ModelVersion, base: Path, blobs: BlobStore, expected: Answers) -> str | None:
    """The adapter of the method's rank, loaded as its README says. What it leaves out is no difference."""
    rank = getattr(job.parsed.method, "rank", DEFAULT_RANK)
    with blobs.scratch_folder() as scratch:
        folder = scratch / "adapter"
        try:
            AdapterArchive(job, model, rank, None, blobs).unpack(folder, with_card=True)
        except NoAdapter:
            return None
        try:
            logits = _adapted(widened(base, scratch / "float32") or base, folder, expected)
        except Exception as error:  # whatever its user would come upon
            if is_short(error):
                raise
            return f"PEFT does not load it ({short(error)})"
        with FileRanges(folder / "adapter_model.safetensors") as file:
            stored = {place.dtype for place in read_places(file).values()}
        tolerance = TOLERANCE if stored == {"F32"} else COARSE
        share = json.loads((folder / CARD).read_text(encoding="utf-8"))["energy_kept"]
        return far(logits, expected.logits, tolerance) if share >= WHOLE else None


def _adapted(base: Path, adapter: Path, expected: Answers) -> Tensor:
    from peft import PeftModel  # slow to import

    model = expected.auto_model.from_pretrained(
        str(base), config=AutoConfig.from_pretrained(str(adapter)), ignore_mismatched_sizes=True, dtype=torch.float32
    )
    model = model.to(next(iter(expected.batch.values())).device)
    return logits_of(PeftModel.from_pretrained(model, str(adapter)), expected.batch)
