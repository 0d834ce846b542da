"""A model version as a tar, streamed: a folder that `from_pretrained` loads, never held in memory.

The folder is the model as `save_pretrained` wrote it at version 0, with the trained tensors' bytes replaced by those of
the weights file of the version asked for. Offsets do not change, so the size is known before the first byte is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.models.archive import CARD, Archive, ArchiveError, Held, Piece, card
from coordinator.models.checkpoint import read_checkpoint
from coordinator.state.errors import NotReady
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore
from fedgalore.spec.plan import TrainingPlan
from protos.codec import Header, read_header


class ModelArchive(Archive):
    """The tar of one version of a job's model: its size, and its bytes chunk by chunk."""

    def __init__(self, job: Job, version: ModelVersion, evaluation: dict[str, Any] | None, blobs: BlobStore) -> None:
        """Reads headers only.

        Args:
            evaluation: what is known of the version's quality, put into `fedgalore.json`.

        Raises:
            NotReady: the job has no model yet.
            BlobNotFound: a file of the version is gone from the store.
            ArchiveError: a trained tensor has no place in the template.
        """
        if job.prepared is None:
            raise NotReady(f"job {job.id} is {job.status}: its model is not prepared yet; ask again once it runs")
        super().__init__(job, f"{job.parsed.name}-v{version.version}.tar")
        text = json.dumps(card(job, version) | {"evaluation": evaluation}, indent=2)
        self._add(CARD, Held(text.encode() + b"\n"))
        weights_path = blobs.path(version.weights.sha256)
        weights, trained = read_header(weights_path), self._open(weights_path)
        # Other tensors of the weights file, such as adapters that go on from round to round, are no part of the model.
        missing = set(TrainingPlan.from_dict(job.prepared.plan).weights())
        for name, blob in job.prepared.export:
            path = blobs.path(blob.sha256)
            template = Piece(self._open(path), 0, blob.size_bytes)
            if name.endswith(".safetensors"):
                self._add(name, *_patched(path, template, trained, weights, missing))
            else:
                self._add(name, template)
        if missing:
            raise ArchiveError(f"the model's files have no place for: {', '.join(sorted(missing))}")


def _patched(path: Path, template: Piece, trained: int, weights: Header, missing: set[str]) -> Iterator[Piece]:
    """The template's bytes, with the tensors of `missing` taken from the weights; takes their names off it.

    Args:
        path: of the template's file.
        trained: descriptor of the file that `weights` describes.
    """
    position = 0
    tensors = read_checkpoint(path)
    for name in sorted(missing & tensors.keys(), key=lambda name: tensors[name].offset):
        stored = tensors[name]
        if name not in weights.tensors:
            raise ArchiveError(f"{name} is not in the version's weights")
        entry = weights.tensors[name]
        if (stored.dtype, stored.shape) != (entry.spec.dtype, entry.spec.shape):
            raise ArchiveError(
                f"{name} is {stored.dtype} {list(stored.shape)} in the model's files, {entry.spec} in the weights"
            )
        if stored.offset > position:
            yield replace(template, offset=position, size_bytes=stored.offset - position)
        yield Piece(trained, weights.data_start + entry.start, entry.spec.size_bytes)
        position = stored.offset + entry.spec.size_bytes
        missing.discard(name)
    if template.size_bytes > position:
        yield replace(template, offset=position, size_bytes=template.size_bytes - position)
