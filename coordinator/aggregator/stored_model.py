"""A version of a job's model in memory, built from blobs as a site builds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from coordinator.aggregator.weights import weights_of
from coordinator.state.job_state import Prepared
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec


@contextmanager
def base_model(prepared: Prepared, blobs: BlobStore) -> Iterator[Path]:
    """The folder of the base model that sites are sent; its files are links, good until the block ends."""
    with blobs.scratch_folder() as scratch, ExitStack() as held:
        folder = scratch / "base"
        folder.mkdir()
        for name, blob in prepared.base_model:
            (folder / name).symlink_to(held.enter_context(blobs.on_disk(blob.sha256)))
        yield folder


def load_version(spec: JobSpec, base: Path, version: ModelVersion, blobs: BlobStore, device: torch.device) -> TaskModel:
    """The job's model with the weights of a version, which are read, or replayed, one by one.

    On a CPU the model is mapped from files, and takes no memory beside what they hold.

    Raises:
        ChainBroken, CodecError, OSError: what the weights are made of is damaged or missing, or the disk is full.
        TaskError: the base model cannot be loaded.
    """
    with blobs.scratch_folder() as scratch:  # whose files last as long as they are mapped
        on_cpu = device.type == "cpu"
        task = TaskModel.load(spec, base, device, scratch=scratch / "float32" if on_cpu else None)
        if on_cpu:
            task.hold_in(scratch / "trained")
    task.load_weights(weights_of(version, task.plan, spec, blobs))
    return task
