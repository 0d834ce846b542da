"""What this machine has for a job: memory, and disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client_agent.errors import CannotTrain
from client_agent.settings import AgentSettings
from fedgalore.process.memory import anonymous_bytes


@dataclass(frozen=True)
class Memory:
    """What a job's model may take, of the GPU where `on_gpu`; None where the machine does not say."""

    size_bytes: int | None
    on_gpu: bool


def memory(settings: AgentSettings) -> Memory:
    """Where the agent would train now, what it holds of the last job included: it lets go of that. Loads torch.

    Raises:
        CannotTrain: it is to train on a GPU, and there is none.
    """
    on_gpu = has_gpu(settings.device)
    if settings.memory_bytes is not None:
        return Memory(settings.memory_bytes, on_gpu)
    if on_gpu:
        import torch

        free, _ = torch.cuda.mem_get_info()
        return Memory(free + torch.cuda.memory_reserved(), on_gpu)
    return Memory(anonymous_bytes(), on_gpu)


def has_gpu(device: Literal["auto", "cpu", "cuda"]) -> bool:
    """Whether the agent trains on one.

    Raises:
        CannotTrain: it has to, and torch sees none.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise CannotTrain("device: cuda is set, but torch sees none here; set device: auto or cpu")
    return there and device != "cpu"


def free_bytes(folder: Path) -> int | None:
    """Of the disk that the folder is on, or will be, for this process; None where the system does not say."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        status = os.statvfs(there)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
