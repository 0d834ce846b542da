"""The two halves of a method: what a client does in a round, and what the server makes of the clients' updates.

Tensors are addressed by the names of the method's layout. Reading is a callable, so a server half works on
memory-mapped files in the coordinator and on dictionaries in the simulation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor

from fedgalore.deltas import Reader, apply_change
from fedgalore.maths.mean import Factors, Terms
from fedgalore.model.task import TaskModel
from fedgalore.rounds import ClientTensors, GroupResult, LocalRound, ServerRound
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Dense, Target, TrainingPlan
from fedgalore.spec.registry import methods, resolve

# The mean change of a group: factors of all its targets, added up or not, or a matrix a target, as the weight itself,
# float32.
MeanChange = Factors | Terms | list[Tensor]


@dataclass(frozen=True)
class Packed:
    """Tensors of one weight: `sent` with the update, and `kept` by this client for its next round."""

    sent: dict[str, Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """A parameter that training moved, and what it would be had the site learned nothing, which everybody knows.

    Float64, on the parameter's device.
    """

    parameter: Tensor
    unmoved: Callable[[], Tensor]

    @classmethod
    def of(cls, round: LocalRound, item: Target | Dense, weight: Tensor) -> Moved:
        """A weight of the model."""
        return cls(weight, lambda: round.unmoved(item, weight.device))

    def change(self) -> Tensor:
        """What training made of it, float64."""
        return self.parameter.detach().double() - self.unmoved()


class LocalTraining(ABC):
    """The targets' part of one round on one client.

    A batch's gradients are summed over one backward pass or several; `last_pass()` may be around the last of them. Call
    `step()` then.
    """

    @property
    @abstractmethod
    def decay(self) -> float:
        """What weight decay multiplied the targets by, where the update leaves it out."""

    def last_pass(self) -> AbstractContextManager[None]:
        """Around the backward pass that completes the gradients: a method may step along each there, and free it."""
        return nullcontext()

    @abstractmethod
    def step(self) -> None:
        """Moves what still has a gradient, and forgets all gradients."""

    def moved(self, target: Target) -> Sequence[Moved]:
        """A target's parameters after the last step; asked of methods whose updates they tell alone."""
        raise NotImplementedError(f"updates of {type(self).__name__} tell more than its parameters do")

    @abstractmethod
    def packed(self, target: Target) -> Packed:
        """A target's tensors after the last step, by suffix. Each target is asked for once, and then forgotten."""


class ClientHalf(ABC):
    """How a client trains the targets."""

    def check(self, task: TaskModel) -> None:  # noqa: B027  # most methods train whatever a plan names
        """Looks at whether the model can be made ready to train, before any client is asked; leaves it as it is.

        Raises:
            TaskError: it cannot; says which part of it, and what to do.
        """

    @abstractmethod
    def train(self, round: LocalRound) -> AbstractContextManager[LocalTraining]:
        """Makes the round's task, which holds `start.weights`, ready to train.

        At the exit the task holds ordinary weights again, as training left them.
        """


class ServerHalf(ABC):
    """What becomes of the clients' updates; carries nothing beside the weights unless a method says otherwise."""

    def carried(self, spec: JobSpec, plan: TrainingPlan, weights: Reader) -> dict[str, Tensor]:
        """Tensors of version 0 beside the model's own `weights`, which are float32 on the CPU."""
        return {}

    @abstractmethod
    def aggregate(self, targets: Sequence[Target], round: ServerRound, result: GroupResult) -> MeanChange | None:
        """The clients' mean change of targets of equal oriented shape and rank; None: their updates come to none.

        What else the updates come to (state, adapters, statistics) is written into `result`; the change itself is sent
        down by `fedgalore.downlink`.
        """

    def squared_norm(self, target: Target, round: ServerRound, client: ClientTensors) -> float:
        """Of one client's change of a target; asked of methods that sum the clients' changes."""
        raise NotImplementedError(f"{type(self).__name__} sums no changes, so none has a norm")

    def apply(
        self, target: Target, spec: JobSpec, weights: Reader, aggregate: Mapping[str, Tensor], decay: float
    ) -> dict[str, Tensor]:
        """The target's next weights, with what is carried beside them, from the last ones and the aggregate.

        Server and clients call it alike, so that they hold the same bits.
        """
        return {target.name: apply_change(target, weights(target.name), aggregate, decay)}


def client_half(spec: JobSpec) -> ClientHalf:
    """The client half of the job's method."""
    half = _half(methods()[spec.method.kind].client)
    if not isinstance(half, ClientHalf):
        raise TypeError(f"method {spec.method.kind!r}: its face names {type(half).__name__} as its client half")
    return half


def server_half(spec: JobSpec) -> ServerHalf:
    """The server half of the job's method."""
    half = _half(methods()[spec.method.kind].server)
    if not isinstance(half, ServerHalf):
        raise TypeError(f"method {spec.method.kind!r}: its face names {type(half).__name__} as its server half")
    return half


@cache
def _half(name: str) -> object:
    return resolve(name)()
