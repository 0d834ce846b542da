"""A model version as a tar, streamed: a folder that `from_pretrained` loads. It is never held in memory.

The folder is the model as `save_pretrained` wrote it at version 0. The bytes of trained tensors are replaced by those
of the requested version's weights file. Offsets do not change, so that the tar's size is known before its first byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from coordinator.models.archive import CARD, Archive, ArchiveError, Held, Piece, card
from coordinator.models.checkpoint import read_places
from coordinator.state.errors import NotReady
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore
from fedgalore.process.ranges import RangeReader
from fedgalore.spec.plan import TrainingPlan
from protos.codec import Header, read_header


class ModelArchive(Archive):
    """The tar of a version of a job's model: its size, and its bytes chunk by chunk."""

    def __init__(self, job: Job, version: ModelVersion, evaluation: dict[str, Any] | None, blobs: BlobStore) -> None:
        """Reads headers only.

        Args:
            evaluation: what clients measured of the version; goes into `fedgalore.json`.

        Raises:
            NotReady: the job has no model yet.
            BlobNotFound: the store lacks a file of the version.
            ArchiveError: a trained tensor has no place in the template, or another shape or dtype there.
        """
        if job.prepared is None:
            raise NotReady(f"job {job.id} is {job.status}: its model is not prepared yet; ask again once it runs")
        super().__init__(job, f"{job.parsed.name}-v{version.version}.tar")
        text = json.dumps(card(job, version) | {"evaluation": evaluation}, indent=2)
        self._add(CARD, Held(text.encode() + b"\n"))
        trained = self._open(blobs, version.weights.sha256)
        weights = read_header(trained)
        # Other tensors of the weights file, such as adapters that go on from round to round, are not in the model.
        missing = set(TrainingPlan.from_dict(job.prepared.plan).weights())
        for name, blob in job.prepared.export:
            template = Piece(self._open(blobs, blob.sha256), 0, blob.size_bytes)
            if name.endswith(".safetensors"):
                self._add(name, *_patched(template, trained, weights, missing))
            else:
                self._add(name, template)
        if missing:
            raise ArchiveError(f"the model's files have no place for: {', '.join(sorted(missing))}")


def _patched(template: Piece, trained: RangeReader, weights: Header, missing: set[str]) -> Iterator[Piece]:
    """The template's bytes, with its tensors of `missing` taken from the weights. Removes their names from `missing`.

    Args:
        template: a whole file of the model.
        trained: the file that `weights` describes.
    """
    position = 0
    places = read_places(template.blob)
    for name in sorted(missing & places.keys(), key=lambda name: places[name].start):
        place = places[name]
        if name not in weights.tensors:
            raise ArchiveError(f"{name} is not in the version's weights")
        entry = weights.tensors[name]
        if (place.dtype, place.shape) != (entry.spec.dtype, entry.spec.shape):
            raise ArchiveError(
                f"{name} is {place.dtype} {list(place.shape)} in the model's files, {entry.spec} in the weights"
            )
        if place.start > position:
            yield replace(template, offset=position, size_bytes=place.start - position)
        yield Piece(trained, weights.data_start + entry.start, entry.spec.size_bytes)
        position = place.stop
        missing.discard(name)
    if template.size_bytes > position:
        yield replace(template, offset=position, size_bytes=template.size_bytes - position)
