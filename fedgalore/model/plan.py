"""Which weights of a model a job trains, and what else its training changes."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from fedgalore.model.buffers import UnsavedStateError, moving_buffers
from fedgalore.model.inputs import TaskError
from fedgalore.model.tasks.registry import task_of
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Buffer, Dense, Target, TrainingPlan, ends_in


def training_plan(model: nn.Module, spec: JobSpec) -> TrainingPlan:
    """Which weights a job trains.

    Targets: matrices of linear layers in the model's backbone, or those whose module name ends in one of
    `method.target_modules`. Dense: everything in the head of a classifier, the part of the model that the backbone does
    not hold.

    Buffers: what `moving_buffers` finds, whatever is trained.

    Raises:
        TaskError: `target_modules` or `rank_pattern` matches nothing, a rank exceeds a target's smaller side, or the
            model has state that this job cannot have.
    """
    prefix = getattr(model, "base_model_prefix", "")
    backbone = getattr(model, prefix, model) if prefix else model
    in_backbone = {id(parameter) for parameter in backbone.parameters()}
    layers = {id(module) for module in backbone.modules()}
    own = {name for name, _ in model.named_parameters()}  # without further names of shared ones
    wanted = spec.method.target_modules
    targets, dense, seen = [], [], set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or id(module.weight) in seen:
            continue
        if wanted is not None and not any(ends_in(name, suffix) for suffix in wanted):
            continue
        if id(module) not in layers or f"{name}.weight" not in own:  # an output layer may share the embeddings' weight
            continue
        seen.add(id(module.weight))
        rows, columns = module.weight.shape
        for field, rank in spec.method.ranks_asked(name):
            if rank > min(rows, columns):
                raise TaskError(
                    f"{field}: {rank} exceeds the smaller side of {name}.weight ({rows} x {columns}); "
                    f"take at most {min(rows, columns)}, or leave that layer out by method.target_modules"
                )
        rank = spec.method.rank_of_module(name)
        targets.append(Target(f"{name}.weight", (rows, columns), rank, isinstance(module, Conv1D)))
    if not targets:
        raise TaskError(
            f"method.target_modules: no linear layer of this model's backbone ends in {', '.join(wanted)}"
            if wanted
            else "model.source: this model has no linear layer that could be trained in a subspace"
        )
    try:
        spec.method.check_patterns([target.name.removesuffix(".weight") for target in targets])
    except ValueError as error:
        raise TaskError(str(error)) from None
    if task_of(spec).has_head:
        for name, parameter in model.named_parameters():
            if id(parameter) not in in_backbone:
                dense.append(Dense(name, tuple(parameter.shape)))
    return TrainingPlan(tuple(targets), tuple(dense), _buffers(model, spec))


def _buffers(model: nn.Module, spec: JobSpec) -> tuple[Buffer, ...]:
    try:
        buffers = tuple(moving_buffers(model))
    except UnsavedStateError as error:
        raise TaskError(
            f"model.source: training changes {error} of {type(model).__name__}, which is not saved with the model, so "
            "that a download would behave otherwise; take another model"
        ) from None
    if buffers and spec.privacy is not None:
        named = buffers[0].name if len(buffers) == 1 else f"{buffers[0].name} and {len(buffers) - 1} more"
        raise TaskError(
            f"privacy: {named} of {type(model).__name__} are statistics of the clients' data, which no noise covers; "
            "take a model without batch normalisation, or leave privacy out"
        )
    return buffers
