"""One round as values: as a client sees it, and as the server does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from fedgalore.alignment import Alignment
from fedgalore.deltas import Lookup, Reader, nothing
from fedgalore.maths.mean import (
    Factors,
    Terms,
    as_term,
    as_terms,
    in_blocks,
    mean_of_factors,
    of_matrix,
    squared_norm_of_product,
)
from fedgalore.maths.privacy import noise
from fedgalore.maths.robust import combine, combine_numbers
from fedgalore.model.task import TaskModel
from fedgalore.momentum import last_step
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import STEP, cut_rank
from fedgalore.spec.plan import Buffer, Dense, Target
from fedgalore.spec.rates import Rates, rates_of

# Of the size of what a client's factors add up, where they are added in float32 and in float64: 700 times what rounding
# makes of it. Squares are added, so it weighs only where factors cancel, and there covers what rounding leaves of them.
IN_FLOAT32: Final = 2.0**-11
IN_FLOAT64: Final = 2.0**-30


@dataclass(frozen=True)
class Start:
    """What a client starts a round from; float32 on the CPU.

    `weights`: the model version, as `layout.weights_tensors` lists it; `state`: what all clients start from beside it
    (`layout.state_tensors`), empty in the first round; `kept`: what this client kept beside its last update that was
    aggregated.
    """

    weights: Mapping[str, Tensor]
    state: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalRound:
    """One client's part in one round of the job that `task` is built for.

    `number` counts committed rounds from 1: the `model_version` that the round starts from, and 1. An abandoned round
    leaves no trace. `behind`: the rounds that the start's weights come from; fewer than `number` counts where an older
    version was made current again. None: as many.
    """

    task: TaskModel
    client: str
    number: int
    start: Start
    behind: int | None = None

    @property
    def spec(self) -> JobSpec:
        return self.task.spec

    @property
    def rates(self) -> Rates:
        """The learning rates that hold in this round."""
        plan, version = self.task.plan, self.start.weights
        has_step = any(f"{item.name}/{STEP}" in version for item in plan.trained)
        behind = self.number - 1 if self.behind is None else self.behind
        return rates_of(self.spec, plan, behind, has_step)

    def own_change(self, item: Target | Dense, weight: Tensor, keep: float = 1.0) -> Tensor:
        """What this client's training made of a weight: `W_K - keep W_0 - mu v`, float32 on the weight's device.

        `keep`: what weight decay left of the start, where it is no part of the change. `mu v` are the moves along the
        federation's last step: every client took them, and the server knows it.
        """
        change = weight.detach().to(torch.float32, copy=True)
        start = self.start.weights[item.name].to(weight.device)
        change.sub_(start.to(weight.dtype).float(), alpha=keep)  # what the model made of it
        last = last_step(self.spec, item, self.start.weights, weight.device)
        return change if last is None else change.sub_(last, alpha=self.spec.method.momentum)

    def unmoved(self, item: Target | Dense, device: torch.device) -> Tensor:
        """What a weight would be had this client learned nothing: `W_0 + mu v`, float64."""
        start = self.start.weights[item.name].to(device).double()
        last = last_step(self.spec, item, self.start.weights, device)
        return start if last is None else start.add_(last, alpha=self.spec.method.momentum)


@dataclass(frozen=True)
class ClientTensors:
    """One client's update as the server sees it. Lists of these are sorted by client name before anything is summed.

    `view`: reads a tensor where it lies in a mapped file, so that it takes no memory: for what goes element by element,
    as products round by where their factors lie. None: `read` does. `batch`: reads tensors of one kind as `(B, ...)`.
    """

    client: str
    num_examples: int
    decay: float
    read: Reader
    view: Reader | None = None
    batch: Callable[[Sequence[str]], Tensor] | None = None

    def together(self, names: Sequence[str]) -> Tensor:
        """Tensors of one kind as a batch `(B, ...)`."""
        return self.batch(names) if self.batch else torch.stack([self.read(name) for name in names])

    def whole(self, name: str) -> Tensor:
        """What it sent whole, to be read element by element."""
        return (self.view or self.read)(name)


@dataclass
class GroupResult:
    """What a group of tensors becomes, by tensor name: what goes down, next state, residue kept.

    `alignment`: by target, what the clients' states share.
    """

    items: Sequence[Target | Dense | Buffer] = ()  # the group
    aggregate: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    residue: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, list[float]] = field(default_factory=dict)
    alignment: dict[str, Alignment] = field(default_factory=dict)

    def parts(self) -> list[tuple[str, dict[str, Tensor]]]:
        """The tensors by the part of a version that they belong to."""
        return [(part, getattr(self, part)) for part in ("aggregate", "state", "residue")]


@dataclass(frozen=True)
class Shelf:
    """A model version as the server holds it, tensor by tensor: of files, or of dictionaries.

    `state` and `residue` are empty where the job keeps none.
    """

    weights: Reader
    state: Lookup = nothing
    residue: Lookup = nothing


@dataclass(frozen=True)
class ServerRound:
    """What the server half knows of a round: `clients` sorted by name, and readers of the version before.

    `number` counts as `LocalRound.number` does.
    """

    spec: JobSpec
    number: int
    clients: Sequence[ClientTensors]
    weights: Reader
    state: Lookup  # what the clients started from beside the weights
    device: torch.device
    clips: Sequence[float] = ()  # what each client's change is multiplied by; empty: nothing is clipped
    noise_key: str | None = None  # of jobs with privacy, as `fedgalore.maths.privacy` makes it

    @property
    def shares(self) -> Tensor:
        """`p_i = n_i / sum n`, `(M,)` float64, of what the job lets each client count for."""
        server = self.spec.server
        if self.spec.privacy is not None or server.weighting == "equal":  # how many it has is its own affair
            return torch.full((len(self.clients),), 1 / len(self.clients), dtype=torch.float64)
        counts = torch.tensor(server.counted([client.num_examples for client in self.clients]), dtype=torch.float64)
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
        return 1 + server.learning_rate * sum(p * loss for p, loss in zip(self.shares.tolist(), lost, strict=True))

    def held(self, name: str) -> Tensor:
        """A tensor of the state that the clients started from.

        Raises:
            KeyError: the version before has no such tensor.
        """
        tensor = self.state(name)
        if tensor is None:
            raise KeyError(f"version {self.number - 1} holds no state {name!r}")
        return tensor

    def gather(self, target: Target, suffix: str) -> list[Tensor]:
        """One tensor of every client, on the device."""
        return [client.read(f"{target.name}/{suffix}").to(self.device) for client in self.clients]

    def whole(self, name: str) -> list[Tensor]:
        """What every client sent whole, on the device; to be read element by element."""
        return [client.whole(name).to(self.device) for client in self.clients]

    def mean(self, tensors: Sequence[Tensor]) -> Tensor:
        """`sum_i p_i tensor_i` in float64 and the clients' order; float32."""
        shares = self.shares
        return in_blocks(tensors, lambda blocks: weighed(blocks, shares))

    def change(self, name: str, changes: Sequence[Tensor]) -> Tensor:
        """What the clients' changes of a weight, clipped, come to by the job's `server.aggregation`, with its noise.

        Float64 inside, float32.
        """
        if self.spec.server.is_robust:
            return in_blocks(changes, self.robust)
        shares = self.clipped_shares
        mean = in_blocks(changes, lambda blocks: weighed(blocks, shares))
        return mean if self.spec.privacy is None else (mean.double() + self.noise(name, mean.shape)).float()

    def noise(self, name: str, shape: torch.Size) -> Tensor:
        """Of a weight's mean change; float64, on the device."""
        privacy = self.spec.privacy
        if privacy is None or self.noise_key is None:
            raise ValueError("noise is drawn for jobs with privacy, which have a secret")
        deviation = privacy.noise_multiplier * privacy.clip_norm / len(self.clients)
        return noise(tuple(shape), deviation, self.noise_key, name).to(self.device)

    def combined(self, values: Sequence[Tensor]) -> Tensor:
        """What measurements of the clients come to by the job's `server.aggregation`, never clipped; float32."""
        return self.state_of(torch.stack(list(values)).double()).float()

    def state_of(self, states: Tensor) -> Tensor:
        """What the clients' states `(M, ...)` come to in the same way; float64. Never clipped: they are no changes."""
        server = self.spec.server
        if server.is_robust:
            return combine(states, server.aggregation, server.trim_share)
        shares = self.shares.to(states.device).view(-1, *[1] * (states.dim() - 1))
        return (shares * states).sum(0)

    def change_of_factors(
        self, targets: Sequence[Target], factors: Sequence[Sequence[tuple[Tensor, Tensor]]]
    ) -> Factors | Terms:
        """The same of changes in factors, `(B, d, r)` and `(B, r, k)`, one pair or more of every client.

        Sorted as `mean_of_factors` does where the change goes down exactly; where it is cut, as the clients sent it, so
        that no matrix is formed.
        """
        is_cut = cut_rank(self.spec, targets[0]) is not None
        if self.spec.server.is_robust:
            whole = self.robust([_product(pairs) for pairs in factors])
            return as_term(whole) if is_cut else of_matrix(whole)
        shares = [share for share, pairs in zip(self.clipped_shares.tolist(), factors, strict=True) for _ in pairs]
        lefts, rights = zip(*(pair for pairs in factors for pair in pairs), strict=True)
        if self.spec.privacy is None:
            return as_terms(lefts, rights, shares) if is_cut else mean_of_factors(lefts, rights, shares)
        mean = mean_of_factors(lefts, rights, shares)
        exact = mean.left.double() @ mean.right.double()
        noisy = exact + torch.stack([self.noise(target.name, exact.shape[1:]) for target in targets])
        return as_term(noisy) if is_cut else of_matrix(noisy)

    def squared_norm_of_factors(self, target: Target, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        """Of one client's change of a target: the exact one, and what `change_of_factors` can make of it by rounding.

        Args:
            pairs: `(1, d, r)` and `(1, r, k)`, as of `change_of_factors`; none: 0.
        """
        if not pairs:
            return 0.0
        lefts, rights = zip(*pairs, strict=True)
        is_exact = self.spec.has_full_rank or cut_rank(self.spec, target) is None
        rounding = IN_FLOAT64 if is_exact else IN_FLOAT32
        return float(squared_norm_of_product(torch.cat(lefts, -1), torch.cat(rights, -2), rounding))

    def robust(self, changes: Sequence[Tensor]) -> Tensor:
        """Their trimmed mean or median, clipped; float64."""
        clips = self.clips or [1.0] * len(self.clients)
        stack = torch.stack([clip * change.double() for clip, change in zip(clips, changes, strict=True)])
        return combine(stack, self.spec.server.aggregation, self.spec.server.trim_share)


def weighed(tensors: Sequence[Tensor], shares: Tensor) -> Tensor:
    """`sum_i share_i tensor_i` in the order given; float64."""
    first, *others = zip(tensors, shares.tolist(), strict=True)
    total = first[0].to(torch.float64, copy=True).mul_(first[1])
    scratch = torch.empty_like(total)  # one for all: memory that is asked for anew is cleared anew
    for tensor, share in others:
        total.add_(scratch.copy_(tensor).mul_(share))
    return total


def _product(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of the products of one client's factors, `(B, d, k)` float64."""
    first, *others = (left.double() @ right.double() for left, right in pairs)
    return sum(others, start=first)
