"""One round on one client: batches in, `Update` out; and the evaluation of a received model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedgalore.data.batches import batches
from fedgalore.data.examples import Example
from fedgalore.maths.seeding import derive_seed
from fedgalore.methods import method_of
from fedgalore.methods.base import Start, change_in
from fedgalore.model.exact_match import check_exact_match, count_matches
from fedgalore.model.inputs import check_examples
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class TrainingStopped(Exception):
    """The caller asked to stop; there is no update and no result."""


@dataclass(frozen=True)
class Update:
    """What a participant reports: `tensors` as `fedgalore.spec.layout` lists them, contiguous, on the CPU.

    `kept` stays with the client for its next round.
    """

    tensors: dict[str, Tensor]
    num_examples: int
    decay: float
    metrics: dict[str, float]
    kept: dict[str, Tensor] = field(default_factory=dict)


def local_update(
    task: TaskModel,
    spec: JobSpec,
    examples: Sequence[Example],
    client: str,
    round_number: int,
    start: Start,
    on_step: Callable[[int, float], bool] | None = None,
) -> Update:
    """`local.steps` steps of the job's method from `start`; `task` holds the trained weights afterwards.

    Args:
        on_step: called with (steps done, loss) after each step; training stops when it answers False.

    Raises:
        TaskError: examples or weights that do not fit the job.
        TrainingError: the loss or a weight became infinite or NaN.
        TrainingStopped: `on_step` answered False.
    """
    check_examples(examples, spec)
    task.load_weights(start.weights)
    torch.manual_seed(derive_seed(spec.seed, "dropout", client, round_number))
    task.model.train()
    losses: list[float] = []
    right = predictions = 0
    dense = task.dense()
    momentum = _momentum(task, spec, start)
    if momentum:
        spec = _at_rates(spec, 1 - spec.method.momentum)
    head = _dense_optimizer(dense, spec)
    with method_of(spec).train(task, spec, client, round_number, start) as training:
        for step, chosen in enumerate(batches(examples, spec, client, round_number), start=1):
            loss, count, hits = task.loss(task.collate(chosen))
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the loss became {loss.item()} at step {step} of round {round_number}; lower local.learning_rate"
                )
            with _diverged(f"a gradient became infinite or NaN at step {step} of round {round_number}"):
                loss.backward()
            training.step()
            if head is not None:
                head.step()
                head.zero_grad()
            _move(momentum, 1 / spec.local.steps)
            losses.append(loss.item())
            right, predictions = right + hits, predictions + count
            if on_step is not None and not on_step(step, losses[-1]):
                raise TrainingStopped
        _move(momentum, -1)  # all clients did, and the server knows it
        with _diverged(f"a weight became infinite or NaN in round {round_number}"):
            tensors, kept, decay = training.tensors(), training.kept(), training.decay
    for name, parameter in dense.items():
        tensors[f"{name}/delta"] = parameter.detach().cpu() - start.weights[name]
    tensors, kept = _settled(tensors), _settled(kept)
    for name, tensor in (tensors | kept).items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"{name} became infinite or NaN in round {round_number}; lower local.learning_rate")
    metrics = {
        "train_loss": sum(losses) / len(losses),
        "last_loss": losses[-1],
        "train_accuracy": right / max(predictions, 1),
        "steps": float(len(losses)),
    }
    return Update(tensors, len(examples), decay, metrics, kept)


def _momentum(task: TaskModel, spec: JobSpec, start: Start) -> list[tuple[Tensor, Tensor]]:
    """Trained weights, and what the last aggregate moves each by in this round, on the model's device."""
    share = spec.method.momentum
    if not share or not start.last:
        return []
    last = {target.name: change_in(target, start.last.get) for target in task.plan.targets}
    last |= {item.name: start.last.get(f"{item.name}/delta") for item in task.plan.dense}
    weights = {name: weight for name, (weight, _) in task.targets().items()} | task.dense()
    return [(weights[name], share * change.to(task.device)) for name, change in last.items() if change is not None]


@torch.no_grad()
def _move(momentum: Sequence[tuple[Tensor, Tensor]], share: float) -> None:
    for weight, change in momentum:
        weight.add_(change, alpha=share)


def _at_rates(spec: JobSpec, factor: float) -> JobSpec:
    """The job with its local learning rates multiplied."""
    rates = {"learning_rate": factor * spec.local.learning_rate}
    if spec.local.head_learning_rate is not None:
        rates["head_learning_rate"] = factor * spec.local.head_learning_rate
    return spec.model_copy(update={"local": spec.local.model_copy(update=rates)})


@contextmanager
def _diverged(what: str) -> Iterator[None]:
    """What is not finite has no singular vectors."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise TrainingError(f"{what}; lower local.learning_rate") from error


def _dense_optimizer(dense: Mapping[str, nn.Parameter], spec: JobSpec) -> torch.optim.AdamW | None:
    local = spec.local
    if not dense:
        return None
    return torch.optim.AdamW(
        dense.values(),
        lr=local.head_learning_rate or local.learning_rate,
        betas=local.betas,
        eps=local.eps,
        weight_decay=local.weight_decay,
    )


def _settled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def evaluate(
    task: TaskModel, spec: JobSpec, examples: Sequence[Example], goes_on: Callable[[], bool] | None = None
) -> dict[str, float]:
    """Mean `loss` and `accuracy` of the weights that `task` holds: over examples, or over answer tokens.

    With the job's `evaluation.exact_match` also the share of examples, 0 to 1, that the model answers right.

    Args:
        goes_on: asked before each batch; the evaluation stops when it answers False.

    Raises:
        TaskError: examples that do not fit the job.
        TrainingStopped: `goes_on` answered False.
    """
    chosen = examples[: spec.evaluation.max_examples]
    check_examples(chosen, spec)
    check_exact_match(task, spec, chosen)
    task.model.eval()
    # like lengths together: less padding
    ordered = sorted(chosen, key=lambda e: len(e.get("text", "") or e.get("prompt", "")))
    total, right, predictions, matched = 0.0, 0, 0, 0
    for start in range(0, len(ordered), spec.evaluation.batch_size):
        if goes_on is not None and not goes_on():
            raise TrainingStopped
        batch = ordered[start : start + spec.evaluation.batch_size]
        loss, count, hits = task.loss(task.collate(batch))
        total, right, predictions = total + loss.item() * count, right + hits, predictions + count
        if spec.evaluation.exact_match is not None:
            matched += count_matches(task, spec, batch)
    metrics = {"loss": total / max(predictions, 1), "accuracy": right / max(predictions, 1)}
    if spec.evaluation.exact_match is not None:
        metrics["exact_match"] = matched / len(chosen)
    return metrics
