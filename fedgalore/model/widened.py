"""A model's folder with its weights in float32, for whoever computes in float32 and has no memory for a copy.

transformers maps the files of weights that it is to load as they are stored, so that they take no memory. Others it
converts, which takes 4 bytes a parameter.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from fedgalore.model import folder as model_folder
from fedgalore.model.export import weight_files

NARROW = ("BF16", "F16")
BLOCK = 2**20  # numbers that are converted at a time


def widened(folder: Path, to: Path) -> Path | None:
    """A new folder `to` with the folder's files, weights in 16 bits as float32; None where there are none.

    Raises:
        OSError, SafetensorError: a file cannot be read, or the disk refuses.
    """
    if not model_folder.has_safetensors(folder):
        return None
    files = weight_files(folder)
    if not any(stored in NARROW for path in files for stored in _formats(path)):
        return None
    to.mkdir()
    for path in model_folder.files(folder):
        if path in files:
            _widen(path, to / path.name)
        else:
            (to / path.name).symlink_to(path.resolve())
    return to


def _formats(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118, no mapping


def _widen(path: Path, to: Path) -> None:
    with safe_open(path, framework="pt") as file, to.open("wb") as target:
        header: dict[str, Any] = {"__metadata__": file.metadata() or {"format": "pt"}}
        offset = 0
        for name in (names := list(file.keys())):
            piece, tensor = file.get_slice(name), file.get_tensor(name)
            wide = piece.get_dtype() in NARROW
            size = prod(tensor.shape) * (4 if wide else tensor.itemsize)
            dtype = "F32" if wide else piece.get_dtype()
            header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        target.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            _write(file.get_tensor(name), target)


def _write(tensor: torch.Tensor, target: BinaryIO) -> None:
    for block in tensor.reshape(-1).split(BLOCK) if tensor.numel() else ():
        numbers = block.float() if block.dtype in (torch.bfloat16, torch.float16) else block
        target.write(numbers.view(torch.uint8).numpy().data)
