"""A tensor that lies in a file, for whoever changes a model and has no memory for it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor


def in_file(path: Path, tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU in a new file, which is mapped: the system may put what is written on the disk.

    The file may be deleted; its room lasts as long as the copy.

    Raises:
        OSError: the disk has no room.
    """
    if not tensor.numel():
        return tensor.clone()
    with path.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, tensor.nbytes)  # a map of a full disk would end the process
    held = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype)
    return held.copy_(tensor.reshape(-1)).view(tensor.shape)
