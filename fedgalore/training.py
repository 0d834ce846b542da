"""One round on one client: batches in, `Update` out; and the evaluation of a received model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgalore.aggregate import apply_dense, apply_factors
from fedgalore.job_spec import JobSpec
from fedgalore.methods.fedgalore import carried_state, orient_back, subspace_config, update_of
from fedgalore.optim import GaLoreAdamW
from fedgalore.plan import TrainingPlan
from fedgalore.projector import orient
from fedgalore.seeding import derive_seed
from fedgalore.tasks import Example, TaskModel, batches, check_examples


class TrainingError(RuntimeError):
    """Training can not go on; the message says why and what to change."""


class TrainingStopped(Exception):
    """The caller asked to stop; there is no update and no result."""


@dataclass(frozen=True)
class Update:
    """What a participant reports: `tensors` named as in `fedgalore.plan`, all float32, contiguous, on the CPU."""

    tensors: dict[str, Tensor]
    num_examples: int
    decay: float
    metrics: dict[str, float]


def local_update(
    task: TaskModel,
    spec: JobSpec,
    examples: Sequence[Example],
    client: str,
    round_number: int,
    state: Mapping[str, Tensor] | None,
    on_step: Callable[[int, float], bool] | None = None,
) -> Update:
    """`local.steps` steps of GaLoreAdamW from the weights that `task` holds; it holds the trained ones afterwards.

    Args:
        state: the aligned optimizer state of the round, as a state file holds it; None in the first round.
        on_step: called with (steps done, loss) after each step; training stops when it answers False.

    Raises:
        TaskError: examples that do not fit the job.
        TrainingError: the loss or a weight became infinite or NaN.
        TrainingStopped: `on_step` answered False.
    """
    check_examples(examples, spec)
    dense = task.dense()
    before = {name: parameter.detach().clone() for name, parameter in dense.items()}
    torch.manual_seed(derive_seed(spec.seed, "dropout", client, round_number))
    task.model.train()
    losses: list[float] = []
    right = predictions = 0
    on_device = {name: tensor.to(task.device) for name, tensor in (state or {}).items()}
    optimizer = GaLoreAdamW(
        task.targets(),
        dense.values(),
        subspace_config(spec.method, spec.local),
        spec.local.head_learning_rate or spec.local.learning_rate,
        carried_state(task.plan, on_device),
        derive_seed(spec.seed, "subspaces", client, round_number),
    )
    with optimizer:
        for step, chosen in enumerate(batches(examples, spec, client, round_number), start=1):
            loss, count, hits = task.loss(task.collate(chosen))
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the loss became {loss.item()} at step {step} of round {round_number}; lower local.learning_rate"
                )
            try:
                loss.backward()
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # no basis of such a gradient
                raise TrainingError(
                    f"a gradient became infinite or NaN at step {step} of round {round_number}; "
                    "lower local.learning_rate"
                ) from error
            optimizer.step()
            losses.append(loss.item())
            right, predictions = right + hits, predictions + count
            if on_step is not None and not on_step(step, losses[-1]):
                raise TrainingStopped
    tensors = update_of(optimizer, task.plan, spec)
    for name, parameter in dense.items():
        tensors[f"{name}/delta"] = parameter.detach() - before[name]
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"{name} became infinite or NaN in round {round_number}; lower local.learning_rate")
    metrics = {
        "train_loss": sum(losses) / len(losses),
        "last_loss": losses[-1],
        "train_accuracy": right / max(predictions, 1),
        "steps": float(len(losses)),
    }
    return Update(tensors, len(examples), optimizer.decay, metrics)


@torch.no_grad()
def evaluate(
    task: TaskModel, spec: JobSpec, examples: Sequence[Example], goes_on: Callable[[], bool] | None = None
) -> dict[str, float]:
    """Mean loss and accuracy of the weights that `task` holds: over examples, or over answer tokens.

    Args:
        goes_on: asked before each batch; the evaluation stops when it answers False.

    Raises:
        TaskError: examples that do not fit the job.
        TrainingStopped: `goes_on` answered False.
    """
    chosen = examples[: spec.evaluation.max_examples]
    check_examples(chosen, spec)
    task.model.eval()
    # like lengths together: less padding
    ordered = sorted(chosen, key=lambda e: len(e.get("text", "") or e.get("prompt", "")))
    total, right, predictions = 0.0, 0, 0
    for start in range(0, len(ordered), spec.evaluation.batch_size):
        if goes_on is not None and not goes_on():
            raise TrainingStopped
        loss, count, hits = task.loss(task.collate(ordered[start : start + spec.evaluation.batch_size]))
        total, right, predictions = total + loss.item() * count, right + hits, predictions + count
    return {"loss": total / max(predictions, 1), "accuracy": right / max(predictions, 1)}


def apply_aggregate(
    weights: Mapping[str, Tensor], aggregate: Mapping[str, Tensor], decay: float, plan: TrainingPlan
) -> dict[str, Tensor]:
    """The next global weights from the last ones and the aggregate, with the bits that the server has.

    Args:
        weights: all trained weights of the version before, float32 on the CPU.
        aggregate: tensors `W/left` and `W/right`, or `W/dense`, and `b/delta`.
        decay: what the target weights are multiplied by first; the file's metadata has it.
    """
    result: dict[str, Tensor] = {}
    for target in plan.targets:
        old = weights[target.name]
        if f"{target.name}/left" in aggregate:
            left, right = aggregate[f"{target.name}/left"], aggregate[f"{target.name}/right"]
            result[target.name] = orient_back(apply_factors(orient(old), decay, left, right), target)
        else:
            result[target.name] = apply_dense(old, decay, aggregate[f"{target.name}/dense"])
    for item in plan.dense:
        result[item.name] = apply_dense(weights[item.name], 1.0, aggregate[f"{item.name}/delta"])
    return result
