"""Tensors on disk: safetensors files, read and written without holding a whole file in memory.

A file is 8 bytes of little-endian header length `n`, `n` bytes of JSON, then the tensors' bytes. This codec is stricter
than the format. Tensors must cover the data without gap, overlap or rest, so that a file has a single meaning. Dtypes
are those of `fedgalore.spec.plan.DTYPE_BYTES`. The data starts at a multiple of 8, and every tensor at a multiple of
its items' size, so that arrays are aligned in a memory map.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from fedgalore.process.ranges import FileRanges, RangeReader, read_all
from fedgalore.spec.plan import DTYPE_BYTES, TensorSpec

LENGTH_BYTES = 8  # of the field in front of the header
MAX_HEADER_BYTES = 16 * 2**20
ALIGNMENT = 8
BLOCK_BYTES = 2**18  # written at once; from 2 MiB on, a kernel may take huge pages, at ten times the cost
_NUMPY: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "U8": np.dtype("u1")}

Float32 = npt.NDArray[np.float32]
Numbers = Float32 | npt.NDArray[np.float16] | npt.NDArray[np.uint8]


class CodecError(ValueError):
    """A file, or bytes of a file, that this codec refuses. The message says what is wrong with which tensor."""


class Entry(NamedTuple):
    """A tensor's place: bytes `start` to `stop` of the file's data section."""

    spec: TensorSpec
    start: int
    stop: int


class Header(NamedTuple):
    tensors: dict[str, Entry]  # in the order of their bytes
    metadata: dict[str, str]
    data_start: int  # offset of the data section in the file

    @property
    def size_bytes(self) -> int:
        """Bytes that the whole file must have."""
        return self.data_start + max((entry.stop for entry in self.tensors.values()), default=0)


def header_length(prefix: bytes) -> int:
    """Bytes of JSON that the first 8 bytes of a file announce.

    Raises:
        CodecError: the length cannot be that of a header.
    """
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if len(prefix) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise CodecError(
            f"not a safetensors file: its header would have {length} bytes (2 to {MAX_HEADER_BYTES} are allowed)"
        )
    if (LENGTH_BYTES + length) % ALIGNMENT:
        raise CodecError(f"the header has {length} bytes; pad it with spaces to a multiple of {ALIGNMENT}")
    return length


def read_header(file: RangeReader) -> Header:
    """The header of a file, whose size must be the one that the header describes.

    Raises:
        CodecError: not a file that this codec reads.
        OSError: the file cannot be read.
    """
    length = header_length(file.read(0, LENGTH_BYTES))
    header = parse_header(file.read(0, LENGTH_BYTES + length))
    if file.size_bytes != header.size_bytes:
        raise CodecError(f"the file has {file.size_bytes} bytes but its header describes {header.size_bytes}")
    return header


def parse_header(data: bytes) -> Header:
    """The header in the first bytes of a file. The caller compares `Header.size_bytes` with the file's size.

    Args:
        data: at least the whole header.

    Raises:
        CodecError: not the start of a file that this codec reads.
    """
    length = header_length(data)
    text = data[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(text) < length:
        raise CodecError(f"the header is cut off after {len(text)} of {length} bytes")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except CodecError:
        raise
    except (ValueError, RecursionError) as error:
        raise CodecError(f"the header is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise CodecError("the header is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CodecError("__metadata__ must map names to strings")
    entries = sorted(((name, _entry(name, item)) for name, item in document.items()), key=lambda pair: pair[1].start)
    position = 0
    for name, entry in entries:
        if entry.start != position:
            raise CodecError(
                f"tensor {name!r} starts at byte {entry.start} of the data instead of {position}: gap or overlap"
            )
        if position % DTYPE_BYTES[entry.spec.dtype]:
            raise CodecError(f"tensor {name!r} of dtype {entry.spec.dtype} lies unaligned; put larger items first")
        position = entry.stop
    return Header(dict(entries), metadata, LENGTH_BYTES + length)


def _entry(name: str, item: Any) -> Entry:
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise CodecError(f"tensor {name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CodecError(f"tensor {name!r} has dtype {dtype!r}; send one of {', '.join(DTYPE_BYTES)}")
    if not _whole_numbers(shape) or not all(shape):
        raise CodecError(f"tensor {name!r}: shape must be a list of positive whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise CodecError(f"tensor {name!r}: data_offsets must be two whole numbers")
    spec = TensorSpec(dtype, tuple(shape))
    if offsets[1] - offsets[0] != spec.size_bytes:
        raise CodecError(
            f"tensor {name!r}: data_offsets span {offsets[1] - offsets[0]} bytes, its shape {spec.size_bytes}"
        )
    return Entry(spec, offsets[0], offsets[1])


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise CodecError("the header names a key twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise CodecError(f"the header holds {name}, which is not JSON")


def encode_header(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Length field and JSON of a file whose tensors lie in the order of `specs`. The same input gives the same bytes.

    Raises:
        CodecError: the header is longer than `MAX_HEADER_BYTES`.
    """
    document: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, spec in specs.items():
        stop = position + spec.size_bytes
        document[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise CodecError(f"the header has {len(text)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


class SafetensorsWriter:
    """Writes a file tensor by tensor, in any order; a context manager.

    When the block ends, every tensor must have been written exactly once. Otherwise, or when the block raises, the file
    is deleted. The file is written, not mapped, so that a full disk is an `OSError` and not a signal that ends the
    process.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> None:
        """Writes nothing yet.

        Raises:
            CodecError: the reader would refuse the header of these tensors.
        """
        self._path = path
        encoded = encode_header(specs, metadata)
        self._header = parse_header(encoded)
        self._encoded = encoded
        self._missing = set(specs)
        self._file: BinaryIO | None = None

    def __enter__(self) -> SafetensorsWriter:
        self._file = self._path.open("wb")
        self._file.write(self._encoded)
        return self

    def write(self, name: str, array: Numbers) -> None:
        """Writes a tensor at its place.

        Raises:
            CodecError: the tensor is unknown, written already, or not of the announced dtype and shape.
            OSError: the disk refuses.
            RuntimeError: the writer's block has not begun.
        """
        if self._file is None:
            raise RuntimeError("write() was called before the writer's block began")
        if name not in self._missing:
            raise CodecError(
                f"tensor {name!r} is {'written already' if name in self._header.tensors else 'not in the header'}"
            )
        entry = self._header.tensors[name]
        if array.shape != entry.spec.shape or array.dtype != _NUMPY[entry.spec.dtype]:
            raise CodecError(
                f"tensor {name!r} is {array.dtype} {array.shape}; announced {entry.spec.dtype} {entry.spec.shape}"
            )
        self._file.seek(self._header.data_start + entry.start)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for start in range(0, len(data), BLOCK_BYTES):
            self._file.write(data[start : start + BLOCK_BYTES])
        self._missing.remove(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None and not self._missing:
            return
        self._path.unlink()
        if kind is None:
            raise CodecError(f"these tensors were never written: {', '.join(sorted(self._missing))}")


class TensorFile:
    """A file's tensors, each read when it is asked for."""

    def __init__(self, header: Header, data: Callable[[int, int], npt.NDArray[np.uint8]]) -> None:
        """`data`: bytes of the file from a first to before a last one."""
        self.header = header
        self._data = data

    @property
    def metadata(self) -> dict[str, str]:
        return self.header.metadata

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.header.tensors)

    def tensor(self, name: str) -> Numbers:
        """The tensor: a view into the file's memory map, which keeps the map alive, or read from a file without one.

        Raises:
            CodecError: the file has no such tensor.
        """
        entry = self.header.tensors.get(name)
        if entry is None:
            raise CodecError(f"the file has no tensor {name!r}")
        first = self.header.data_start
        view: Numbers = self._data(first + entry.start, first + entry.stop).view(_NUMPY[entry.spec.dtype])
        return view.reshape(entry.spec.shape)


def open_update(path: Path) -> TensorFile:
    """Maps an update, or any other file of this codec: weights, aggregate, state.

    Raises:
        CodecError: not a file that this codec reads.
        OSError: the path cannot be read.
    """
    with FileRanges(path) as file:
        header = read_header(file)
    # Copy-on-write: torch.from_numpy accepts such an array without a warning, and the file never changes.
    data = np.memmap(path, dtype=np.uint8, mode="c")
    return TensorFile(header, lambda start, stop: data[start:stop])


def open_ranges(file: RangeReader) -> TensorFile:
    """As `open_update`, of a file that cannot be mapped. It is closed when the result is collected.

    Raises:
        CodecError, OSError: as `open_update`.
    """

    def data(start: int, stop: int) -> npt.NDArray[np.uint8]:
        return np.frombuffer(bytearray(read_all(file, start, stop - start)), np.uint8)

    opened = TensorFile(read_header(file), data)
    weakref.finalize(opened, file.close)
    return opened
