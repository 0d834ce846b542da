"""Activation checkpointing: a layer's inner values are not kept for the backward pass, but computed again there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedgalore.model.inputs import TaskError
from fedgalore.model.precision import again_in
from fedgalore.model.task import TaskModel


@contextmanager
def checkpointed(task: TaskModel) -> Iterator[None]:
    """Inside, the model trains with `local.activation_checkpointing`, if the job asks for it; to the same bits.

    Raises:
        TaskError: the model cannot.
    """
    local, model = task.spec.local, task.model
    if not local.activation_checkpointing:
        yield
        return
    name, otherwise = type(model).__name__, "leave it out, or lower local.micro_batch_size in its place"
    if task.plan.buffers:
        raise TaskError(
            f"local.activation_checkpointing: each pass changes {task.plan.buffers[0].name} of {name}, and a layer "
            f"that is computed twice would change it twice; {otherwise}"
        )
    transformer: Any = model
    try:
        transformer.activation_checkpointing_enable(
            {"use_reentrant": False, "context_fn": partial(_again_in, local.precision, task.device, _gpus(model))}
        )
    except ValueError as error:
        raise TaskError(
            f"local.activation_checkpointing: {name} of transformers does not support it; {otherwise}"
        ) from error
    # It makes embeddings ask for gradients, and then every loss seems to depend on what is trained.
    transformer.disable_input_require_grads()
    try:
        yield
    finally:
        transformer.activation_checkpointing_disable()


def _gpus(model: nn.Module) -> list[torch.device]:
    """Those that the model is spread over; none where it is on one device."""
    gpus = [*{parameter.device: None for parameter in model.parameters() if parameter.is_cuda}]
    return gpus if len(gpus) > 1 else []


def _again_in(
    precision: str, device: torch.device, gpus: Sequence[torch.device]
) -> tuple[AbstractContextManager[None], AbstractContextManager[Any]]:
    """As `again_in`, with the same random numbers on all GPUs.

    Torch sees to those of the devices of a layer's inputs, which may come from another GPU than the layer's.
    """
    first, again = again_in(precision, device)
    states = {gpu: torch.cuda.get_rng_state(gpu) for gpu in gpus}
    return first, _drawing(states, again) if states else again


@contextmanager
def _drawing(states: Mapping[torch.device, Tensor], inner: AbstractContextManager[Any]) -> Iterator[None]:
    with torch.random.fork_rng(list(states)), inner:
        for gpu, state in states.items():
            torch.cuda.set_rng_state(state, gpu)
        yield
