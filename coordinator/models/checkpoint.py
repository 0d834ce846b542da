"""Model files as transformers reads and writes them: safetensors of any dtypes, memory-mapped.

Not for what agents send: `protos.codec` is strict. These files were written by our aggregator, or transformers has
loaded them there, so they are trusted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.codec import LENGTH_BYTES

_FLOATS: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: `data` are its bytes in the memory map, from byte `offset` of the file on."""

    dtype: str  # safetensors' name
    shape: tuple[int, ...]
    offset: int
    data: npt.NDArray[np.uint8]

    def floats(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32] | None:
        """Values `start` to `stop` of the flat tensor as float32; None for what is no floating point number."""
        if self.dtype == "BF16":
            halves = self.data.view("<u2")[start:stop]
            return (halves.astype(np.uint32) << 16).view(np.float32)
        if self.dtype not in _FLOATS:
            return None
        return self.data.view(_FLOATS[self.dtype])[start:stop].astype(np.float32, copy=False)


def read_checkpoint(path: Path) -> dict[str, Stored]:
    """The tensors of one file by name.

    Raises:
        OSError: the file cannot be read.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES].tobytes(), "little")
    header = json.loads(data[LENGTH_BYTES:start].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, item in header.items():
        first, last = (start + offset for offset in item["data_offsets"])
        tensors[name] = Stored(item["dtype"], tuple(item["shape"]), first, data[first:last])
    return tensors


def read_checkpoints(paths: Iterable[Path]) -> dict[str, Stored]:
    """The tensors of a model that may lie in several files."""
    return {name: tensor for path in paths for name, tensor in read_checkpoint(path).items()}
