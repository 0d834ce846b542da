"""A model version as a tar, streamed: a folder that `from_pretrained` loads. It is never held in memory.

The folder is the model as `save_pretrained` wrote it at version 0. Trained tensors are those of the requested version's
weights file, and each tensor is in the format that the job chose. Formats and shapes are known before, and so is the
tar's size.
"""

from __future__ import annotations

import json
from typing import Any

from coordinator.models.archive import (
    CARD,
    Archive,
    ArchiveError,
    ByteSource,
    Converted,
    Held,
    Joined,
    Piece,
    card,
    whole_weights,
)
from coordinator.models.checkpoint import StoredAs, TensorPlace, header_of, read_places
from coordinator.state.errors import NotReady
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore
from coordinator.store.numbers import WIDTHS
from fedgalore.process.ranges import RangeReader
from fedgalore.spec.dtypes import Dtype, exported
from fedgalore.spec.plan import TrainingPlan
from protos.codec import Header, read_header

INDEX = ".safetensors.index.json"


class ModelArchive(Archive):
    """The tar of a version of a job's model: its size, and its bytes chunk by chunk."""

    def __init__(self, job: Job, version: ModelVersion, evaluation: dict[str, Any] | None, blobs: BlobStore) -> None:
        """Reads headers only.

        Args:
            evaluation: what clients measured of the version; goes into `fedgalore.json`.

        Raises:
            NotReady: the job has no model yet.
            ArchiveError: the version's weights were not made whole.
            BlobNotFound: the store lacks a file of the version.
            ArchiveError: a trained tensor has no place in the template, or another shape there.
        """
        if job.prepared is None:
            raise NotReady(f"job {job.id} is {job.status}: its model is not prepared yet; ask again once it runs")
        super().__init__(job, f"{job.parsed.name}-v{version.version}.tar")
        text = json.dumps(card(job, version) | {"evaluation": evaluation}, indent=2)
        self._add(CARD, Held(text.encode() + b"\n"))
        # Other tensors of the weights file, such as adapters that go on from round to round, are not in the model.
        plan = TrainingPlan.from_dict(job.prepared.plan)
        trained = _Trained(self._open(blobs, whole_weights(version).sha256), plan)
        weights_bytes = 0
        for name, blob in job.prepared.export:
            template = self._open(blobs, blob.sha256)
            if name.endswith(".safetensors"):
                header, *bodies = _file_of(template, trained, job.parsed.model.dtype)
                weights_bytes += sum(body.size_bytes for body in bodies)
                self._add(name, header, *bodies)
            elif not name.endswith(INDEX):
                self._add(name, Piece(template, 0, blob.size_bytes))
        for name, blob in job.prepared.export:
            if name.endswith(INDEX):
                self._add(name, _index(self._open(blobs, blob.sha256), blob.size_bytes, weights_bytes))
        if trained.missing:
            raise ArchiveError(f"the model's files have no place for: {', '.join(sorted(trained.missing))}")


class _Trained:
    """A version's weights; `missing` are the model's tensors that no file of the template had a place for yet."""

    def __init__(self, file: RangeReader, plan: TrainingPlan) -> None:
        self._file = file
        self._header: Header = read_header(file)
        self._shapes = {place.parameter: place.shape for place in plan.places().values()}
        self._parts = plan.parts()
        self.missing = set(self._parts)

    def take(self, name: str, place: TensorPlace) -> ByteSource | None:
        """The bytes, float32, that belong into the template's place; None where nothing trained belongs there.

        Raises:
            ArchiveError: the weights file lacks it, or has it in another shape.
        """
        if name not in self.missing:
            return None
        parts = []
        for part, spec in self._parts[name].items():
            entry = self._header.tensors.get(part)
            if entry is None:
                raise ArchiveError(f"{part} is not in the version's weights")
            if entry.spec != spec or place.shape != self._shapes[name]:
                raise ArchiveError(
                    f"{part} is {place.dtype} {list(place.shape)} in the model's files, {entry.spec} in the weights"
                )
            parts.append(Piece(self._file, self._header.data_start + entry.start, entry.spec.size_bytes))
        self.missing.discard(name)
        return Joined(tuple(parts))


def _file_of(template: RangeReader, trained: _Trained, choice: Dtype) -> list[ByteSource]:
    """A file of the model: its header, then its tensors."""
    tensors: dict[str, StoredAs] = {}
    bodies: list[ByteSource] = []
    places = sorted(read_places(template).items(), key=lambda item: item[1].start)
    # Wide numbers first, so that all lie aligned.
    for name, place in sorted(places, key=lambda item: -WIDTHS.get(exported(item[1].dtype, choice), 1)):
        wanted = exported(place.dtype, choice)
        value = trained.take(name, place)
        stored = "F32" if value else place.dtype
        value = value or Piece(template, place.start, place.stop - place.start)
        body = value if stored == wanted else Converted(value, stored, wanted)
        tensors[name] = StoredAs(wanted, place.shape, body.size_bytes)
        bodies.append(body)
    return [Held(header_of(tensors)), *bodies]


def _index(file: RangeReader, size_bytes: int, weights_bytes: int) -> Held:
    """The index of a model in several files, which holds the bytes of all tensors."""
    document = json.loads(b"".join(Piece(file, 0, size_bytes).read()))
    document.setdefault("metadata", {})["total_size"] = weights_bytes
    return Held(json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")
