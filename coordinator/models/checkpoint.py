"""Blobs that hold tensors: read by their headers, or mapped into memory where they lie on this machine.

There are two kinds. Files that agents and the aggregator write follow `protos.codec`, which is strict. A model's files
are safetensors of any dtypes, as transformers reads and writes them. They are trusted, because the aggregator wrote
them, or transformers loaded them there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from coordinator.store.blob_store import BlobStore
from coordinator.store.numbers import FLOATS, WIDTHS, as_float32
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.ranges import RangeReader, read_all
from fedgalore.spec.plan import TensorSpec
from protos.codec import LENGTH_BYTES, Float32, TensorFile, open_ranges, open_update


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
    """A tensor of a model's file, which is open: bytes `start` to `stop` of it."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    file: RangeReader
    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        return self.stop - self.start

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.dtype, self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def floats(self, start: int = 0, stop: int | None = None) -> Float32:
        """Values `start` to `stop` of the flat tensor as float32.

        Raises:
            ValueError: it holds no floating point numbers.
            OSError: the file cannot be read.
        """
        if not self.is_float:
            raise ValueError(f"a tensor of dtype {self.dtype} has no floating point numbers")
        width = WIDTHS[self.dtype]
        last = self.size_bytes if stop is None else min(stop * width, self.size_bytes)
        data = read_all(self.file, self.start + start * width, last - start * width)
        return as_float32(np.frombuffer(data, np.uint8), self.dtype)


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


def model_tensors(
    open_blob: Callable[[str], RangeReader], files: Iterable[tuple[str, BlobRef]]
) -> dict[str, StoredTensor]:
    """The tensors of a model by name. They may lie in several of the model's files.

    Args:
        open_blob: opens a blob, for as long as the tensors are read.

    Raises:
        BlobNotFound: the store lacks a file of the model.
        OSError: a file cannot be read.
    """
    tensors: dict[str, StoredTensor] = {}
    for name, blob in files:
        if name.endswith(".safetensors"):
            file = open_blob(blob.sha256)
            for tensor, place in read_places(file).items():
                tensors[tensor] = StoredTensor(place.dtype, place.shape, file, place.start, place.stop)
    return tensors


def map_tensors(blobs: BlobStore, sha256: str) -> TensorFile:
    """A file of `protos.codec`, which stays readable when the blob is swept.

    Raises:
        BlobNotFound: the store lacks the blob.
        CodecError: the blob is not a file that the codec reads.
        OSError: the blob cannot be read.
    """
    file = blobs.open(sha256)
    if file.path is None:
        return open_ranges(file)
    with closing(file):
        return open_update(file.path)
