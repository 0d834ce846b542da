"""Activation checkpointing: a layer's inner values are not kept for the backward pass, but computed again there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

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
            {"use_reentrant": False, "context_fn": partial(again_in, local.precision, task.device)}
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
