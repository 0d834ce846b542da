"""What of a prepared model the base model's files hold already, so that it is not stored a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from coordinator.models.checkpoint import TensorPlace, read_places
from coordinator.store.blob_store import BlobStore
from coordinator.store.composed import Copy
from coordinator.store.numbers import WIDTHS
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.ranges import FileRanges, RangeReader
from fedgalore.spec.plan import TrainingPlan
from protos.codec import read_header

SAMPLE_BYTES = 256


class _Home(NamedTuple):
    """Where a tensor lies."""

    blob: BlobRef
    place: TensorPlace


class BaseModel:
    """The stored files of a base model. What it names are guesses from a few bytes: the store compares them all."""

    def __init__(self, files: tuple[tuple[str, BlobRef], ...], blobs: BlobStore) -> None:
        """Reads the headers, and a few bytes of each tensor.

        Raises:
            BlobNotFound, OSError: a file cannot be read.
        """
        self._homes: dict[tuple[object, ...], _Home] = {}
        self._named: dict[str, _Home] = {}  # by the names of a file that `copies_in_file` has seen
        for name, blob in files:
            if name.endswith(".safetensors"):
                with closing(blobs.open(blob.sha256)) as file:
                    for place in read_places(file).values():
                        self._homes.setdefault(_looks_of(file, place), _Home(blob, place))

    def copies_in_file(self, path: Path) -> list[Copy]:
        """Tensors of another file of a model, whatever their names are there."""
        copies = []
        with FileRanges(path) as file:
            for name, place in read_places(file).items():
                if (home := self._homes.get(_looks_of(file, place))) is not None:
                    self._named[name] = home
                    size = place.stop - place.start
                    copies.append(Copy(place.start, size, home.blob, home.place.start, place.dtype, place.dtype))
        return copies

    def copies_in_weights(self, path: Path, plan: TrainingPlan) -> list[Copy]:
        """Tensors of a version's weights, which are float32, by the names of the files that were seen before."""
        with FileRanges(path) as file:
            header = read_header(file)
        return list(
            self._of_weights({name: entry.start + header.data_start for name, entry in header.tensors.items()}, plan)
        )

    def _of_weights(self, starts: dict[str, int], plan: TrainingPlan) -> Iterator[Copy]:
        for name, (parameter, _, first) in plan.places().items():
            home, spec = self._named.get(parameter), plan.weights()[name]
            if home is not None and (width := WIDTHS.get(home.place.dtype)):
                offset = home.place.start + first * width
                yield Copy(starts[name], spec.size_bytes, home.blob, offset, home.place.dtype, spec.dtype)


def _looks_of(file: RangeReader, place: TensorPlace) -> tuple[object, ...]:
    """Format, size and some bytes of a tensor: the first, those in the middle, the last."""
    size = place.stop - place.start
    offsets = (0, max(0, size // 2), max(0, size - SAMPLE_BYTES))
    samples = (file.read(place.start + offset, min(SAMPLE_BYTES, size - offset)) for offset in offsets)
    return (place.dtype, size, *samples)
