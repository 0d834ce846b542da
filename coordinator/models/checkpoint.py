"""Blobs that hold tensors: read by their headers, or mapped into memory.

There are two kinds. Files that agents and the aggregator write follow `protos.codec`, which is strict. A model's files
are safetensors of any dtypes, as transformers reads and writes them. They are trusted, because the aggregator wrote
them, or transformers loaded them there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coordinator.models.numbers import FLOATS, WIDTHS, as_float32
from coordinator.store.blob_store import BlobStore
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.ranges import FileRanges, RangeReader
from protos.codec import LENGTH_BYTES, Float32, TensorFile, open_update


class TensorPlace(NamedTuple):
    """A tensor of a model's file: bytes `start` to `stop` of the file."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    start: int
    stop: int


class StoredAs(NamedTuple):
    """How a tensor stands in a model's file that is being made."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a model's file: `data` are its bytes in the memory map."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def floats(self, start: int = 0, stop: int | None = None) -> Float32:
        """Values `start` to `stop` of the flat tensor as float32.

        Raises:
            ValueError: it holds no floating point numbers.
        """
        if not self.is_float:
            raise ValueError(f"a tensor of dtype {self.dtype} has no floating point numbers")
        width = WIDTHS[self.dtype]
        return as_float32(self.data[start * width : None if stop is None else stop * width], self.dtype)


def read_places(file: RangeReader) -> dict[str, TensorPlace]:
    """Where the tensors of a model's file lie, by name.

    Raises:
        OSError: the file cannot be read.
    """
    start = LENGTH_BYTES + int.from_bytes(file.read(0, LENGTH_BYTES), "little")
    header = json.loads(file.read(LENGTH_BYTES, start - LENGTH_BYTES))
    header.pop("__metadata__", None)
    places = {}
    for name, item in header.items():
        first, last = item["data_offsets"]
        places[name] = TensorPlace(item["dtype"], tuple(item["shape"]), start + first, start + last)
    return places


def header_of(tensors: Mapping[str, StoredAs]) -> bytes:
    """Length field and JSON of a model's file that holds these tensors, one after the other."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape, size) in tensors.items():
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def map_checkpoint(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a model's file by name, in a memory map.

    Raises:
        OSError: the file cannot be read.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    with FileRanges(path) as file:
        places = read_places(file)
    return {
        name: StoredTensor(place.dtype, place.shape, data[place.start : place.stop]) for name, place in places.items()
    }


def map_model(blobs: BlobStore, files: Iterable[tuple[str, BlobRef]]) -> dict[str, StoredTensor]:
    """The tensors of a model by name, in memory maps. They may lie in several of the model's files.

    Raises:
        BlobNotFound: the store lacks a file of the model.
        OSError: a file cannot be read.
    """
    tensors: dict[str, StoredTensor] = {}
    for name, blob in files:
        if name.endswith(".safetensors"):
            with blobs.on_disk(blob.sha256) as path:
                tensors |= map_checkpoint(path)
    return tensors


def map_tensors(blobs: BlobStore, sha256: str) -> TensorFile:
    """A file of `protos.codec` in a memory map, which stays readable when the blob is swept.

    Raises:
        BlobNotFound: the store lacks the blob.
        CodecError: the blob is not a file that the codec reads.
        OSError: the blob cannot be read.
    """
    with blobs.on_disk(sha256) as path:
        return open_update(path)
