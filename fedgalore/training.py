"""One round on one client: batches in, `Update` out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedgalore.data.batches import batches
from fedgalore.data.examples import Example
from fedgalore.gradients import Gradients, LossNotFinite, NormNotFinite
from fedgalore.maths.compression import rounded, with_feedback
from fedgalore.maths.quantization import NotQuantizable, told_by
from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.halves import LocalTraining, Packed, client_half
from fedgalore.model.checkpointing import checkpointed
from fedgalore.model.divergence import words_of_loss
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import check_examples
from fedgalore.momentum import MomentumSteps
from fedgalore.rounds import ClientTensors, LocalRound
from fedgalore.site_noise import ChangeNotFinite, SiteNoise, cover
from fedgalore.spec.layout import delta, dense_residue
from fedgalore.spec.plan import Buffer, Dense, Target
from fedgalore.spec.rates import remedy


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change. `told`: as of a `TaskError`."""

    def __init__(self, words: str, told: str = "") -> None:
        super().__init__(words)
        self.told = told or words


class TrainingStopped(Exception):
    """The caller asked to stop; there is no update and no result."""


@dataclass(frozen=True)
class Update:
    """What a participant reports: `tensors` as `fedgalore.spec.layout` lists them, contiguous, on the CPU.

    `kept` stays with the client for its next round: `layout.kept_tensors`.
    """

    tensors: dict[str, Tensor]
    num_examples: int
    decay: float
    metrics: dict[str, float]
    kept: dict[str, Tensor] = field(default_factory=dict)

    def as_sent(self, client: str) -> ClientTensors:
        """The update as the server reads it."""
        return ClientTensors(client, self.num_examples, self.decay, self.tensors.__getitem__)


@dataclass(frozen=True)
class Trained:
    """A round of training that is over, before its update is made.

    `weights` makes it, a weight in memory at a time: tensors by their full names, contiguous, on the CPU. It raises
    `TrainingError` at a weight that became infinite or NaN.
    """

    num_examples: int
    decay: float
    metrics: dict[str, float]
    weights: Iterator[Packed]


def local_update(
    round: LocalRound,
    examples: Sequence[Example],
    on_step: Callable[[int, float], bool] | None = None,
    noise: SiteNoise | None = None,
) -> Update:
    """A round of `local_training` with its whole update in memory.

    Args:
        on_step, noise: as `local_training`.

    Raises:
        TaskError, TrainingError, TrainingStopped: as `local_training`.
    """
    with local_training(round, examples, on_step, noise) as trained:
        update = Update({}, trained.num_examples, trained.decay, trained.metrics)
        for packed in trained.weights:
            update.tensors.update(packed.sent)
            update.kept.update(packed.kept)
    return update


@contextmanager
def local_training(
    round: LocalRound,
    examples: Sequence[Example],
    on_step: Callable[[int, float], bool] | None = None,
    noise: SiteNoise | None = None,
) -> Iterator[Trained]:
    """`local.steps` steps of the job's method from the round's start, which the block makes an update of.

    The round's task holds the trained weights afterwards, with the moves along the federation's last step.

    Args:
        on_step: called with (steps done, loss) after each step; training stops when it answers False.
        noise: by which the site covers its change; its metrics stay with it then.

    Raises:
        TaskError: examples or weights that do not fit the job.
        TrainingError: the loss became infinite or NaN.
        TrainingStopped: `on_step` answered False.
    """
    task, spec, number = round.task, round.spec, round.number
    check_examples(examples, spec)
    task.load_weights(round.start.weights)
    torch.manual_seed(derive_seed(spec.seed, "dropout", round.client, number))
    task.model.train()
    losses: list[float] = []
    right: int | None = None
    predictions = 0
    momentum = MomentumSteps(task, round.start.weights, derive_seed(spec.seed, "momentum", round.client, number))
    plain = _plain_optimizer(round)
    with _forgetting_gradients(task), checkpointed(task), client_half(spec).train(round) as training:
        gradients = Gradients(task, examples, training)
        for step, chosen in enumerate(batches(examples, spec, round.client, number), start=1):
            with _diverged(task, f"a gradient became infinite or NaN at step {step} of round {number}", step):
                try:
                    passed = gradients.of(chosen)
                except LossNotFinite as error:
                    received, weights = round.start.weights, gradients.class_weights
                    raise TrainingError(
                        *words_of_loss(task, received, chosen, weights, error.loss, step, number)
                    ) from None
                if passed.learns:
                    training.step()
            if passed.learns and plain is not None:
                plain.step()
                plain.zero_grad()
            momentum.step()
            losses.append(passed.loss)
            right = None if passed.right is None else (right or 0) + passed.right
            predictions += passed.predictions
            if on_step is not None and not on_step(step, losses[-1]):
                raise TrainingStopped
        del gradients, plain
        metrics = {
            "train_loss": sum(losses) / len(losses),
            "steps": float(len(losses)),
            "learning_rate": round.rates.targets,
        }
        if right is not None:
            metrics["train_accuracy"] = right / max(predictions, 1)
        if noise is not None:
            with _diverged(task, f"the change became infinite or NaN in round {number}", step):
                cover(round, training, noise)
            metrics = {}
        yield Trained(len(examples), training.decay, metrics, _packed(round, training, step))


def _packed(round: LocalRound, training: LocalTraining, steps: int) -> Iterator[Packed]:
    """All that a client sends and keeps, a weight at a time."""
    task, what = round.task, f"became infinite or NaN in round {round.number}"
    for item in (*task.plan.targets, *task.plan.whole):
        with torch.no_grad(), _diverged(task, f"{item.name} {what}", steps):
            match item:
                case Target():
                    packed = training.packed(item)
                case Dense():
                    packed = _dense_change(round, item)
                case Buffer():
                    packed = Packed({"delta": task.weight(item.name) - round.start.weights[item.name]})
        sent, kept = _settled(item.name, packed.sent), _settled(item.name, packed.kept)
        for name, tensor in (sent | kept).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise TrainingError(f"{name} {what}; {remedy(task.spec, task.plan)}")
        yield Packed(sent, kept)


@contextmanager
def _diverged(task: TaskModel, what: str, step: int) -> Iterator[None]:
    """What is not finite has no singular vectors. At the first step no rate has made it so."""
    try:
        yield
    except (torch.linalg.LinAlgError, NotQuantizable, NormNotFinite, ChangeNotFinite) as error:  # type: ignore[attr-defined]
        first = "look at this site's examples, at model.source and at local.precision"
        raise TrainingError(f"{what}; {remedy(task.spec, task.plan) if step > 1 else first}") from error


@contextmanager
def _forgetting_gradients(task: TaskModel) -> Iterator[None]:
    """A pass that fails leaves gradients behind, which the next round would add to its own."""
    try:
        yield
    finally:
        task.zero_grad()


def _plain_optimizer(round: LocalRound) -> torch.optim.AdamW | None:
    """Plain AdamW of the weights that are sent whole, the head's at its own rate; None where there are none."""
    dense, local = round.task.dense(), round.spec.local
    heads = [dense[item.name] for item in round.task.plan.dense if item.head]
    others = [dense[item.name] for item in round.task.plan.dense if not item.head]
    groups = [{"params": heads, "lr": round.rates.head}, {"params": others, "lr": round.rates.targets}]
    if not dense:
        return None
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=local.betas,
        eps=local.eps,
        weight_decay=local.weight_decay,
    )


def _dense_change(round: LocalRound, item: Dense) -> Packed:
    """The change of a weight that is sent whole, as it travels, and what rounding leaves for the next update."""
    change = round.own_change(item, round.task.dense()[item.name]).cpu()
    left_out, code = round.start.kept.get(f"{item.name}/residue"), dense_residue(round.spec, item).quantization
    if left_out is not None:
        left_out = told_by(left_out, code)
    sent, left_out = with_feedback(change, left_out, delta(round.spec, item).quantization)
    return Packed({"delta": sent}, {"residue": rounded(left_out, code).wire} if left_out is not None else {})


def _settled(weight: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weight's tensors by their full names, contiguous, on the CPU."""
    return {f"{weight}/{suffix}": tensor.detach().cpu().contiguous() for suffix, tensor in tensors.items()}
