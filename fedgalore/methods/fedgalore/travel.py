"""How a client's change travels: what is packed into an update, and what the server unpacks. One class a form.

The tensors themselves are described in `fedgalore.methods.fedgalore.layout`, whose forms these are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedgalore.maths.client_optim import ClientGaLoreAdamW, Factor
from fedgalore.maths.compression import compress, rounded
from fedgalore.maths.mean import Factors, Terms
from fedgalore.maths.projector import leading_left_vectors, orient
from fedgalore.maths.quantization import told_by
from fedgalore.maths.second_moment import SecondMomentSketch, moved_to
from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.fedgalore.layout import bases_per_round, residue, second_moment, up_rank
from fedgalore.rounds import ClientTensors, LocalRound, ServerRound, weighed
from fedgalore.spec.method import factors_in_bits
from fedgalore.spec.plan import Target

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

Pair = tuple[Tensor, Tensor]  # of factors, `(B, d, r)` and `(B, r, k)`


def basis_in(columns: Tensor) -> Tensor:
    """The orthonormal basis `(..., d, r)` of columns as their receiver reads them: rounding left them askew."""
    basis: Tensor
    basis, _ = torch.linalg.qr(columns.double())
    return basis.float()


def told(spec: JobSpec, target: Target, moment: Tensor, residual: Tensor) -> dict[str, Tensor]:
    """A second moment `V (r, k)` and its `rho (1, k)` as they travel, by suffix."""
    roots = {"rms": moment.sqrt(), "residual": residual.sqrt()}
    codes = second_moment(spec, target, moment.shape[-2])
    return {suffix: rounded(root, codes[suffix].quantization).wire for suffix, root in roots.items()}


@dataclass(frozen=True)
class Change:
    """A target's change by suffix: the tensors that tell it, and those that the client keeps of it.

    `state`: the second moment that goes with it; None: none does in this round.
    """

    told: dict[str, Tensor]
    state: SecondMomentSketch | None
    kept: dict[str, Tensor] = field(default_factory=dict)


class Packing(ABC):
    """The client's side of a form, at the end of a round."""

    def __init__(self, round: LocalRound, optimizer: ClientGaLoreAdamW) -> None:
        self.round = round
        self.optimizer = optimizer

    @abstractmethod
    def change(self, target: Target) -> Change:
        """What tells the target's change."""


class PackedLeadingPart(Packing):
    def change(self, target: Target) -> Change:
        """The leading part of the round's whole change, with what earlier updates left out."""
        this = self.round
        weight = self._weights[target.name]
        change = orient(this.own_change(target, weight, self.optimizer.decay))
        code = residue(this.spec, target)["residue"].quantization
        if (left_out := this.start.kept.get(f"{target.name}/residue")) is not None:
            change.add_(told_by(left_out.to(weight.device), code), alpha=self.optimizer.decay)
        seed = derive_seed(this.spec.seed, "uplink", this.client, this.number, target.name)
        rank = up_rank(this.spec, target, this.client)
        sent = factors_in_bits(target, rank, this.spec.bits)
        codes = {side: tensor.quantization for side, tensor in sent.items()}
        packed = compress(change, rank, torch.Generator().manual_seed(seed), **codes)
        sketch = self.optimizer.sketch(target.name)
        return Change(
            {"left": packed.left.wire, "right": packed.right.wire},
            moved_to(basis_in(packed.left.tensor[:, : sketch.basis.shape[1]]), sketch),
            {"residue": rounded(packed.residue, code).wire},
        )

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return {name: weight for name, (weight, _) in self.round.task.targets().items()}


class PackedExactFactors(Packing):
    def change(self, target: Target) -> Change:
        tensors: dict[str, Tensor] = {}
        for j, factor in enumerate(self._factors(target)):
            tensors |= {f"basis.{j}": factor.basis, f"factor.{j}": factor.factor}
        return Change(tensors, self.optimizer.sketch(target.name))

    def _factors(self, target: Target) -> list[Factor]:
        factors = self.optimizer.factors(target.name)
        # a weight that saw no gradient has one stand-in basis, whatever the round's number
        empty = Factor(factors[-1].basis, torch.zeros_like(factors[-1].factor))
        return factors + [empty] * (bases_per_round(self.round.spec) - len(factors))


class PackedSharedBasis(Packing):
    def change(self, target: Target) -> Change:
        tensors = {"sketch": self.optimizer.range_sketch(target.name)}
        if self.round.number == 1:
            return Change(tensors, None)
        factor = self.optimizer.factors(target.name)[0].factor
        return Change(tensors | {"factor.0": factor}, self.optimizer.sketch(target.name))


class Unpacking(ABC):
    """The server's side of a form, for a group of targets of equal shape."""

    def __init__(self, targets: Sequence[Target], round: ServerRound) -> None:
        self.targets = targets
        self.round = round

    @abstractmethod
    def pairs(self, client: ClientTensors) -> list[Pair]:
        """A client's change, that of the last basis last; none in a round that only sketches."""

    def settled(self, change: Factors | Terms) -> Factors | Terms:
        """The mean change without what is rounding alone."""
        return change

    def next_basis(self) -> Tensor | None:
        """The basis `(B, d, r)` that all clients train in next; None: each has bases of its own."""
        return None

    def gather(self, client: ClientTensors, suffix: str) -> Tensor:
        """A client's tensors of the group as a batch `(B, ...)`, float32."""
        return client.together([f"{target.name}/{suffix}" for target in self.targets]).to(self.round.device).float()


class UnpackedLeadingPart(Unpacking):
    def pairs(self, client: ClientTensors) -> list[Pair]:
        return [(self.gather(client, "left"), self.gather(client, "right"))]


class UnpackedExactFactors(Unpacking):
    def pairs(self, client: ClientTensors) -> list[Pair]:
        bases = range(bases_per_round(self.round.spec))
        return [(self.gather(client, f"basis.{j}"), self.gather(client, f"factor.{j}")) for j in bases]


class UnpackedSharedBasis(Unpacking):
    def pairs(self, client: ClientTensors) -> list[Pair]:
        return [(self._shared, self.gather(client, "factor.0"))] if self.round.number > 1 else []

    def settled(self, change: Factors | Terms) -> Factors | Terms:
        assert isinstance(change, Factors)  # what this form sends is never cut
        return change.leading(self.targets[0].rank)  # equal bases: what lies beyond the rank is rounding

    def next_basis(self) -> Tensor | None:
        """Top left singular vectors of `sum_i p_i Y_i`, a range finder of the clients' mean gradient."""
        sketches = [self.gather(client, "sketch") for client in self.round.clients]
        return leading_left_vectors(weighed(sketches, self.round.shares), self.targets[0].rank).float()

    @cached_property
    def _shared(self) -> Tensor:
        bases = [self.round.held(f"{target.name}/reference") for target in self.targets]
        return torch.stack(bases).to(self.round.device)


PACKING: dict[str, type[Packing]] = {
    "leading part": PackedLeadingPart,
    "exact factors": PackedExactFactors,
    "shared basis": PackedSharedBasis,
}
UNPACKING: dict[str, type[Unpacking]] = {
    "leading part": UnpackedLeadingPart,
    "exact factors": UnpackedExactFactors,
    "shared basis": UnpackedSharedBasis,
}
