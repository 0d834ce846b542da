"""Which weights of a model a job trains, and what else its training changes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from math import inf, prod, sqrt
from statistics import median

import torch
from torch import nn

from fedgalore.model.buffers import UnsavedStateError, moving_buffers
from fedgalore.model.inputs import TaskError
from fedgalore.model.layers import Weight, weights_of
from fedgalore.model.shape import shape_of
from fedgalore.model.tasks.registry import task_of
from fedgalore.spec.census import LEAST_SHARE, Census
from fedgalore.spec.job import JobSpec
from fedgalore.spec.method import MethodSpec
from fedgalore.spec.plan import Buffer, Dense, Target, TrainingPlan, ends_in
from fedgalore.spec.registry import methods

_ALSO = {"embedding": "embeddings", "norm": "norms", "bias": "biases"}  # kinds of layers, as `train_also` names them
_ONE_OF_MANY = re.compile(r"\[\d+\]$|(^|\.)\d+(\.|$)")  # as whoever means one expert writes it


def training_plan(model: nn.Module, spec: JobSpec, new: Collection[str] = ()) -> TrainingPlan:
    """Which weights a job trains.

    Targets: the matrices of the model's backbone that the job's method can train. Each expert of a stacked parameter is
    one, and so is a convolution's kernel, flattened. Dense: everything in the head of a classifier, the part of the
    model that the backbone does not hold; and whatever else a method that trains everything finds. Buffers: what
    `moving_buffers` finds, whatever is trained. `method.target_modules` chooses among the backbone's. What
    `method.train_also` adds are targets where a method trains matrices of any layer, and else dense, as PEFT's
    `modules_to_save` are. `new` names the tensors that were drawn anew.

    Raises:
        TaskError: `target_modules`, `rank_pattern` or a name of `train_also` matches nothing, less than half of a
            backbone would be trained and the job does not say so, or the model has state that this job cannot have.
    """
    method, trains = spec.method, methods()[spec.method.kind].trains
    weights = list(weights_of(model))
    targets: list[Target] = []
    dense: list[Dense] = []
    for weight in weights:
        chosen = method.target_modules is None or _is_named(weight.name, method.target_modules)
        is_head, also = weight.kind == "head", _is_also(weight, method.train_also)
        if (chosen and _is_target(weight, trains)) or (also and trains == "matrices" and _is_matrix(weight)):
            targets += _targets_of(weight, method)
        elif also or (chosen and trains == "everything") or (is_head and task_of(spec).has_head):
            dense.append(Dense(weight.name, tuple(weight.parameter.shape), head=is_head))
    if absent := [name for name in method.train_also if not any(_is_also(weight, [name]) for weight in weights)]:
        raise TaskError(f"method.train_also: {type(model).__name__} has no {absent[0]}; leave {absent[0]} out")
    census = _census(weights, targets, dense, method)
    if not targets and (trains != "everything" or all(item.head for item in dense)):
        raise TaskError(_nothing_to_train(spec, trains, census))
    names = _parameters(targets, dense)
    widths = [prod(item.shape[1:]) for item in dense if item.name in new and len(item.shape) > 1]
    plan = TrainingPlan(
        tuple(targets),
        tuple(dense),
        _buffers(model, spec),
        census,
        shared=tuple(weight.name for weight in weights if weight.is_shared and weight.name in names),
        shape=shape_of(model),
        size=_size(weights, targets) if targets and spec.local.learning_rate is None else None,
        new_head_width=max(widths, default=None),
    )
    try:
        method.check_patterns(sorted({_layer(target) for target in targets}))
    except ValueError as error:
        raise TaskError(str(error)) from None
    if method.target_modules is None and plan.census.backbone_share < LEAST_SHARE:
        raise TaskError(_too_little(plan.census, spec))
    return plan


def idle_names(plan: TrainingPlan, spec: JobSpec) -> str | None:
    """In words, which of `target_modules` name nothing that is trained; None where all do."""
    trained = _parameters(plan.targets, plan.dense)
    idle = [end for end in spec.method.target_modules or () if not any(_is_named(name, [end]) for name in trained)]
    if not idle:
        return None
    return f"method.target_modules: nothing that is trained ends in {', '.join(idle)}{_of_experts(idle, plan.census)}"


def _parameters(targets: Sequence[Target], dense: Sequence[Dense]) -> set[str]:
    return {target.parameter for target in targets} | {item.name for item in dense}


def _is_named(parameter: str, ends: Sequence[str]) -> bool:
    """Whether a job names it: the parameter, its layer, or the module that holds it."""
    names = (parameter, parameter.removesuffix(".weight"), parameter.rpartition(".")[0])
    return any(ends_in(name, end) for name in names for end in ends)


def _of_experts(names: Sequence[str], census: Census) -> str:
    """What whoever names one expert has to know."""
    if "experts" not in census.parameters or not any(map(_ONE_OF_MANY.search, names)):
        return ""
    return (
        "; the experts of a layer are one parameter of this model and are trained together, so name it without a number"
    )


def _is_target(weight: Weight, trains: str) -> bool:
    if trains != "matrices":
        return weight.is_wrappable or (trains == "everything" and weight.kind == "linear")
    return weight.kind in ("linear", "conv1d", "experts") or (
        weight.kind in ("convolution", "other") and _is_matrix(weight)
    )


def _is_matrix(weight: Weight) -> bool:
    shape = weight.parameter.shape
    return len(shape) > 1 and min(shape[0], prod(shape[1:])) > 1


def _is_also(weight: Weight, named: Collection[str]) -> bool:
    """Whether it is of what `train_also` names; a tied output layer is of the embeddings as well."""
    return _ALSO.get(weight.kind) in named or (weight.is_output and "output" in named)


def one_for_two(model: nn.Module, spec: JobSpec) -> str | None:
    """In words, that what `train_also` names is a tied weight; None where it is not."""
    tied = [weight for weight in weights_of(model) if weight.is_output and weight.kind == "embedding"]
    if not tied or not {"embeddings", "output"} & set(spec.method.train_also):
        return None
    return (
        f"method.train_also: embeddings and output layer of this model are one parameter, {tied[0].name}, and what one "
        "of them learns moves the other"
    )


def _targets_of(weight: Weight, method: MethodSpec) -> list[Target]:
    whole = tuple(weight.parameter.shape)
    if weight.kind == "experts":
        rows, columns = whole[1:]
        rank = min(method.rank_of_module(weight.layer), rows, columns)
        return [
            Target(f"{weight.name}[{i}]", (rows, columns), rank, part_of=weight.name, whole=whole, is_wrappable=False)
            for i in range(whole[0])
        ]
    rows, columns = whole[0], prod(whole[1:])
    rank = min(method.rank_of_module(weight.layer), rows, columns)
    target = Target(weight.name, (rows, columns), rank, weight.kind == "conv1d", is_wrappable=weight.is_wrappable)
    return [target if len(whole) == 2 else replace(target, whole=whole)]


def _size(weights: Sequence[Weight], targets: Sequence[Target]) -> float:
    """The root mean square of a target's entries, the median over the targets."""
    names = {target.parameter for target in targets}
    matrices = [weight.parameter.detach() for weight in weights if weight.name in names]
    size = median(
        float(torch.linalg.vector_norm(matrix, dtype=torch.float32)) / sqrt(matrix.numel()) for matrix in matrices
    )
    if not 0 < size < inf:
        raise TaskError(
            f"local.learning_rate: half of this model's matrices have the size {size:g}, which no rate can follow; "
            "name one, such as 1.0e-3"
        )
    return size


def _layer(target: Target) -> str:
    return target.parameter.removesuffix(".weight")


def _census(weights: Sequence[Weight], targets: Sequence[Target], dense: Sequence[Dense], method: MethodSpec) -> Census:
    names = _parameters(targets, dense)
    trained: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for weight in weights:
        total[weight.kind] += weight.parameter.numel()
        trained[weight.kind] += weight.parameter.numel() if weight.name in names else 0
    lowered = {_layer(target): target.d for target in targets if method.highest_rank(_layer(target)) > target.d}
    return Census({kind: count for kind, count in trained.items() if count}, dict(total), lowered)


def _nothing_to_train(spec: JobSpec, trains: str, census: Census) -> str:
    wanted, what = spec.method.target_modules, "linear layer" if trains == "linear" else "matrix"
    if wanted is not None:
        more = _of_experts(wanted, census) if trains != "linear" else ""
        return f"method.target_modules: no {what} of this model's backbone ends in {', '.join(wanted)}{more}"
    ways = "fedavg, or fedgalore, which trains all matrices" if trains == "linear" else "fedavg"
    return f"model.source: {spec.method.kind} finds no {what} in this model; take method.kind: {ways}"


def _too_little(census: Census, spec: JobSpec) -> str:
    share, kind = census.backbone_share, spec.method.kind
    frozen = [f"{count:,} {name}" for name, count in census.frozen().items() if name not in ("embedding", "head")]
    return (
        f"method.kind: {kind} would train {100 * share:.0f} % of this model's backbone, its embeddings left out, and "
        f"freeze {', '.join(frozen[:3])} parameters; take method.kind: fedavg, which trains all layers, "
        f"{'or fedgalore, which trains all matrices, ' if methods()[kind].trains == 'linear' else ''}"
        "or name the modules to train in method.target_modules"
    )


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
