"""What every method of a job answers to, and what travels through it.

A method has a client half (`train`), a server half (`aggregate`), and `apply`, which both call so that they hold the
same bits. Tensors are addressed by the names of `fedgalore.spec.layout`; reading is a callable, so the server half
works on memory-mapped files in the coordinator and on dictionaries in the simulation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from fedgalore.maths.mean import Aggregate, apply_dense, apply_factors, mean_of_factors, of_matrix
from fedgalore.maths.privacy import noise
from fedgalore.maths.projector import orient
from fedgalore.maths.robust import combine, combine_numbers
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target, TrainingPlan, factors_are_smaller

if TYPE_CHECKING:
    from fedgalore.model.task import TaskModel

Reader = Callable[[str], Tensor]
Lookup = Callable[[str], Tensor | None]  # None: there is no such tensor


def nothing(name: str) -> None:
    """A `Lookup` that holds no tensor."""


@dataclass(frozen=True)
class Start:
    """What a client starts a round from; float32 on the CPU.

    `weights`: the model version, as `layout.weights_tensors` lists it; `state`: what all clients start from beside it
    (`layout.state_tensors`), empty in the first round; `own`: what this client kept beside its last update that was
    aggregated; `last`: the aggregate that made the version, read by jobs with momentum, empty at version 0.
    """

    weights: Mapping[str, Tensor]
    state: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    last: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ClientTensors:
    """One client's update as the server sees it. Lists of these are sorted by client name before anything is summed."""

    client: str
    num_examples: int
    decay: float
    read: Reader


@dataclass
class GroupResult:
    """What a group of tensors becomes, by tensor name: new weights, what goes down, next state, residue kept."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    aggregate: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    residue: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, list[float]] = field(default_factory=dict)

    def add(self, other: GroupResult) -> None:
        """Takes in what another group became."""
        self.weights |= other.weights
        self.aggregate |= other.aggregate
        self.state |= other.state
        self.residue |= other.residue
        for key, values in other.statistics.items():
            self.statistics.setdefault(key, []).extend(values)


@dataclass(frozen=True)
class Round:
    """What the server half knows of the round: `clients` sorted by name, and readers of what the server holds.

    `number` counts committed rounds from 1 (the old `model_version` + 1): an abandoned round leaves no trace.
    """

    spec: JobSpec
    number: int
    clients: Sequence[ClientTensors]
    weights: Reader  # of the version before
    state: Reader | None  # what the clients started from beside the weights; None in the first round
    residue: Reader | None
    device: torch.device
    last: Lookup = nothing  # of the aggregate that made the version before, for jobs with momentum
    clips: Sequence[float] = ()  # what each client's change is multiplied by; empty: nothing is clipped
    secret: str | None = None  # hexadecimal, of the noise of jobs with privacy

    @property
    def shares(self) -> Tensor:
        """`p_i = n_i / sum n`, `(M,)` float64."""
        if self.spec.privacy is not None:  # how many examples a client has is its own affair
            return torch.full((len(self.clients),), 1 / len(self.clients), dtype=torch.float64)
        most = self.spec.server.max_examples
        claimed = [client.num_examples for client in self.clients]
        counts = torch.tensor([min(n, most) if most else n for n in claimed], dtype=torch.float64)
        return counts / counts.sum()

    @property
    def clipped_shares(self) -> Tensor:
        """What the clients' changes are weighed by, `(M,)` float64: their shares, clipped."""
        return self.shares * torch.tensor(self.clips, dtype=torch.float64) if self.clips else self.shares

    @property
    def decay(self) -> float:
        """What the aggregate multiplies the old target weights by: `1 + server_lr sum_i p_i (decay_i - 1)`."""
        lost = [client.decay - 1 for client in self.clients]
        server = self.spec.server
        if server.is_robust:
            return 1 + server.learning_rate * combine_numbers(lost, server.aggregation, server.trim_share)
        return 1 + server.learning_rate * sum(p * one for p, one in zip(self.shares.tolist(), lost, strict=True))

    def gather(self, target: Target, suffix: str) -> list[Tensor]:
        """One tensor of every client, on the device."""
        return [client.read(f"{target.name}/{suffix}").to(self.device) for client in self.clients]

    def mean(self, tensors: Sequence[Tensor]) -> Tensor:
        """`sum_i p_i tensor_i` in float64 and the clients' order; float32."""
        return _weighed(tensors, self.shares)

    def change(self, name: str, changes: Sequence[Tensor]) -> Tensor:
        """What the clients' changes of a weight, clipped, come to by the job's `server.aggregation`, with its noise.

        Float64 inside, float32.
        """
        if self.spec.server.is_robust:
            return self.robust(changes).float()
        mean = _weighed(changes, self.clipped_shares)
        return mean if self.spec.privacy is None else (mean.double() + self.noise(name, mean.shape)).float()

    def noise(self, name: str, shape: torch.Size) -> Tensor:
        """Of a weight's mean change; float64, on the device."""
        privacy = self.spec.privacy
        assert privacy is not None
        assert self.secret is not None
        deviation = privacy.noise_multiplier * privacy.clip_norm / len(self.clients)
        return noise(tuple(shape), deviation, self.secret, self.number, name).to(self.device)

    def state_of(self, states: Tensor) -> Tensor:
        """What the clients' states `(M, ...)` come to in the same way; float64. Never clipped: they are no changes."""
        server = self.spec.server
        if server.is_robust:
            return combine(states, server.aggregation, server.trim_share)
        shares = self.shares.to(states.device).view(-1, *[1] * (states.dim() - 1))
        return (shares * states).sum(0)

    def change_of_factors(
        self, targets: Sequence[Target], factors: Sequence[Sequence[tuple[Tensor, Tensor]]]
    ) -> Aggregate:
        """The same of changes in factors, `(B, d, r)` and `(B, r, k)`, one pair or more of every client."""
        if self.spec.server.is_robust:
            whole = [sum(left.double() @ right.double() for left, right in own) for own in factors]
            return of_matrix(self.robust(whole))  # type: ignore[arg-type]  # no client has sent nothing
        shares = [share for share, own in zip(self.clipped_shares.tolist(), factors, strict=True) for _ in own]
        lefts, rights = zip(*(pair for own in factors for pair in own), strict=True)
        mean = mean_of_factors(lefts, rights, shares)
        if self.spec.privacy is None:
            return mean
        exact = mean.left.double() @ mean.right.double()
        return of_matrix(exact + torch.stack([self.noise(target.name, exact.shape[1:]) for target in targets]))

    def robust(self, changes: Sequence[Tensor]) -> Tensor:
        """Their trimmed mean or median, clipped; float64."""
        clips = self.clips or [1.0] * len(self.clients)
        stack = torch.stack([clip * change.double() for clip, change in zip(clips, changes, strict=True)])
        return combine(stack, self.spec.server.aggregation, self.spec.server.trim_share)


def _weighed(tensors: Sequence[Tensor], shares: Tensor) -> Tensor:
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, share in zip(tensors, shares.tolist(), strict=True):
        total += share * tensor.double()
    return total.float()


class LocalTraining(Protocol):
    """The targets' part of one round on one client. Call `step()` after each `backward()`."""

    @property
    def decay(self) -> float:
        """What weight decay multiplied the targets by, where the update leaves it out."""

    def step(self) -> None: ...

    def tensors(self) -> dict[str, Tensor]:
        """The targets' tensors of the update."""

    def kept(self) -> dict[str, Tensor]:
        """What this client keeps for its next round."""


class Method(ABC):
    """Carries nothing beside the weights and applies an aggregate as their change, unless a method says otherwise."""

    def carried(self, spec: JobSpec, plan: TrainingPlan) -> dict[str, Tensor]:
        """Tensors of version 0 beside the model's own weights."""
        return {}

    @abstractmethod
    def train(
        self, task: TaskModel, spec: JobSpec, client: str, round_number: int, start: Start
    ) -> AbstractContextManager[LocalTraining]:
        """Makes `task`, which holds `start.weights`, ready to train; at the exit it holds ordinary weights again.

        `round_number` counts as `Round.number` does.
        """

    @abstractmethod
    def aggregate(self, targets: Sequence[Target], this: Round) -> GroupResult:
        """Everything but the weights, for targets of equal oriented shape and rank."""

    def squared_norm(self, target: Target, this: Round, client: ClientTensors) -> float:
        """Of one client's change of a target; only of methods that sum the clients' changes."""
        raise NotImplementedError

    def apply(
        self, target: Target, spec: JobSpec, weights: Reader, aggregate: Mapping[str, Tensor], decay: float
    ) -> dict[str, Tensor]:
        """The target's next weights, with what is carried beside them, from the last ones and the aggregate."""
        return {target.name: apply_change(target, weights(target.name), aggregate, decay)}


def apply_change(target: Target, old: Tensor, aggregate: Mapping[str, Tensor], decay: float) -> Tensor:
    """`decay W + change`, with the change as factors, as a matrix, or absent."""
    if f"{target.name}/left" in aggregate:
        left, right = aggregate[f"{target.name}/left"], aggregate[f"{target.name}/right"]
        return orient_back(apply_factors(orient(old), decay, left.float(), right.float()), target)
    if f"{target.name}/dense" in aggregate:
        return apply_dense(old, decay, aggregate[f"{target.name}/dense"])
    return old.clone()


def change_in(target: Target, aggregate: Lookup) -> Tensor | None:
    """What an aggregate changes a target by, in the weight's own shape; None where it leaves it alone."""
    left, right = aggregate(f"{target.name}/left"), aggregate(f"{target.name}/right")
    if left is not None and right is not None:
        return orient_back(left.float() @ right.float(), target)
    return aggregate(f"{target.name}/dense")


def put_change(target: Target, change: Aggregate, index: int, rate: float, result: GroupResult) -> None:
    """Writes `rate` times one matrix of `change` as what goes down: factors where they are smaller, else a matrix."""
    left, right = change.left[index].cpu(), (rate * change.right[index]).cpu()
    if factors_are_smaller(target.d, target.k, left.shape[1]):
        result.aggregate[f"{target.name}/left"] = left.contiguous()
        result.aggregate[f"{target.name}/right"] = right.contiguous()
    else:
        result.aggregate[f"{target.name}/dense"] = orient_back(left @ right, target)


def orient_back(matrix: Tensor, target: Target) -> Tensor:
    """An oriented `(d, k)` matrix in the weight's own shape, contiguous."""
    return (matrix.mT if target.tall else matrix).contiguous()
