"""What this machine has for a job: memory, and disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from client_agent.errors import CannotTrain
from client_agent.settings import AgentSettings
from fedgalore.process.memory import anonymous_bytes

Device = Literal["auto", "cpu", "cuda"]


if TYPE_CHECKING:
    from fedgalore.model.spread import Rooms  # with torch


@dataclass(frozen=True)
class Memory:
    """What a job's model may take, of all GPUs where `on_gpu`; None where the machine does not say."""

    size_bytes: int | None
    on_gpu: bool


def memory(settings: AgentSettings) -> Memory:
    """Where the agent would train now, what it holds of the last job included: it lets go of that. Loads torch.

    Raises:
        CannotTrain: it is to train on a GPU, and there is none.
    """
    gpus = rooms(settings.device, settings.memory_bytes)
    if gpus:
        return Memory(sum(gpus.values()), True)
    return Memory(anonymous_bytes() if settings.memory_bytes is None else settings.memory_bytes, False)


def rooms(device: Device, memory_bytes: int | None) -> Rooms:
    """What a job's model may take of each GPU, those that torch sees in their order; empty on a CPU.

    Args:
        memory_bytes: of all of them, which each has its part of; None: what is free, and what torch holds unused.

    Raises:
        CannotTrain: it is to train on a GPU, and there is none.
    """
    if not _has_gpu(device):
        return {}
    import torch

    free = {
        torch.device("cuda", index): torch.cuda.mem_get_info(index)[0] + torch.cuda.memory_reserved(index)
        for index in range(torch.cuda.device_count())
    }
    if memory_bytes is None:
        return free
    return {gpu: memory_bytes * each // max(1, sum(free.values())) for gpu, each in free.items()}


def _has_gpu(device: Device) -> bool:
    """Whether the agent trains on one.

    Raises:
        CannotTrain: it has to, and torch sees none.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise CannotTrain("device: cuda is set, but torch sees none here; set device: auto or cpu")
    return there and device != "cpu"
