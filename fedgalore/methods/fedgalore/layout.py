"""The tensors of a `fedgalore` job, by suffix after the target `W`, oriented so that `d <= k`.

| name | shape | what |
|---|---|---|
| `W/left`, `W/right` | `(d, q)`, `(q, k)` | leading part of the change; `left` orthonormal but for rounding |
| `W/basis.j` | `(d, r)` | exact factors: j-th basis of the round, orthonormal columns |
| `W/factor.j` | `(r, k)` | exact factors: `S_j` of `W_K = decay W_t + sum_j P_j S_j` |
| `W/sketch` | `(d, r + 4)` | shared basis: `Y = G Omega` of the round's mean gradient |
| `W/rms` | `(r, k)` | `sqrt V`, in the span of the first `r` columns of `left` or in the last basis |
| `W/residual` | `(1, k)` | `sqrt rho` |
| `W/reference` | `(d, r)` | state: its span is the basis of `W/rms`; with a shared basis the next one to train in |
| `W/residue` | `(d, k)` | kept by a client: what its update left out |
| `W/reference`, `W/second_moment`, `W/residual` | `(d, r)`, `(r, k)`, `(1, k)` | kept: its own basis, `V` and `rho` |
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Protocol

from fedgalore.methods.fedgalore.spec import FedGaLoreSpec
from fedgalore.spec.method import PlainLayout, Tensors, factors_in_bits, float32, quantized
from fedgalore.spec.plan import Target
from fedgalore.spec.wire import directions

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

KEPT_PARTS = ("reference", "second_moment", "residual")
SKETCH_OVERSAMPLING = 4  # columns of a range sketch beyond the rank


class FedGaLoreLayout(PlainLayout):
    def __init__(self, spec: JobSpec) -> None:
        self.spec, self.method = spec, method_of(spec)
        self.form = FORMS[self.method.form](spec)

    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        tensors = self.form.change(target, client, round_number)
        rank = self.form.state_rank(target, client, round_number)
        if self.method.sends_state and rank:
            tensors |= second_moment(self.spec, target, rank)
        return tensors

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return self.form.change_rank(target, clients, round_number)

    def kept(self, target: Target, client: str) -> Tensors:
        tensors: Tensors = {}
        if self.method.cuts:
            tensors |= residue(self.spec, target)
        if self.method.state_sync == "local":
            rank = self.method.rank_at(target, client)
            shapes = ((target.d, rank), (rank, target.k), (1, target.k))
            tensors |= float32(**dict(zip(KEPT_PARTS, shapes, strict=True)))
        return tensors

    def state(self, target: Target, round_number: int) -> Tensors:
        shared = self.method.basis == "shared"
        tensors: Tensors = {}
        if self.method.sends_state or shared:
            tensors |= reference(self.spec, target)
        if self.method.sends_state and not (shared and round_number == 1):
            tensors |= second_moment(self.spec, target, target.rank)
        return tensors


class Form(Protocol):
    """One way for a client's change to travel; `FedGaLoreSpec.form` chooses it."""

    def __init__(self, spec: JobSpec) -> None: ...

    def change(self, target: Target, client: str, round_number: int) -> Tensors:
        """The tensors that tell the change."""

    def state_rank(self, target: Target, client: str, round_number: int) -> int:
        """Rows of the second moment that goes with it; 0: none does."""

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        """As `MethodLayout.change_rank`."""


class LeadingPartForm:
    """The change has full rank: its leading part goes up, the client keeps the rest."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec

    def change(self, target: Target, client: str, round_number: int) -> Tensors:
        return factors_in_bits(target, up_rank(self._spec, target, client), self._spec.bits)

    def state_rank(self, target: Target, client: str, round_number: int) -> int:
        return min(method_of(self._spec).rank_at(target, client), up_rank(self._spec, target, client))

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return sum(up_rank(self._spec, target, client) for client in clients)


class ExactFactorsForm:
    """The change has low rank: it goes up as the bases of the round and what was learned in each."""

    def __init__(self, spec: JobSpec) -> None:
        self._method = method_of(spec)
        self._bases = bases_per_round(spec)

    def change(self, target: Target, client: str, round_number: int) -> Tensors:
        rank = self._method.rank_at(target, client)
        tensors: Tensors = {}
        for j in range(self._bases):
            tensors |= float32(**{f"basis.{j}": (target.d, rank), f"factor.{j}": (rank, target.k)})
        return tensors

    def state_rank(self, target: Target, client: str, round_number: int) -> int:
        return self._method.rank_at(target, client)

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return self._bases * sum(self._method.rank_at(target, client) for client in clients)


class SharedBasisForm:
    """All clients train in one basis, which nobody sends; a sketch of the gradient goes up for the next one.

    In the first round there is no basis yet: the clients only sketch.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._method = method_of(spec)

    def change(self, target: Target, client: str, round_number: int) -> Tensors:
        tensors = float32(sketch=(target.d, sketch_width(target)))
        if round_number > 1:
            tensors |= float32(**{"factor.0": (self._method.rank_at(target, client), target.k)})
        return tensors

    def state_rank(self, target: Target, client: str, round_number: int) -> int:
        return self._method.rank_at(target, client) if round_number > 1 else 0

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return target.rank if round_number > 1 else None


FORMS: dict[str, type[Form]] = {
    "leading part": LeadingPartForm,
    "exact factors": ExactFactorsForm,
    "shared basis": SharedBasisForm,
}


def method_of(spec: JobSpec) -> FedGaLoreSpec:
    """The job's method, which is this one."""
    assert isinstance(spec.method, FedGaLoreSpec)
    return spec.method


def bases_per_round(spec: JobSpec) -> int:
    """How many bases a client without complement goes through, and sends, in one round."""
    return ceil(spec.local.steps / method_of(spec).update_proj_gap)


def up_rank(spec: JobSpec, target: Target, client: str) -> int:
    """Rank `q` of what a client sends of a target's change."""
    return min(target.d, spec.wire.up_rank or directions(method_of(spec).rank_at(target, client)))


def second_moment(spec: JobSpec, target: Target, rank: int) -> Tensors:
    """Square roots of a second moment: their even steps are as even as Adam's. Gradients set no root below 0."""
    return quantized(spec.bits, signed=False, rms=(rank, target.k), residual=(1, target.k))


def residue(spec: JobSpec, target: Target) -> Tensors:
    """What a client keeps of its change, in the bits of what it sent: at 4 bits a hundredth of it is lost."""
    return quantized(spec.bits, residue=(target.d, target.k))


def reference(spec: JobSpec, target: Target) -> Tensors:
    return quantized(spec.bits, axis=-2, reference=(target.d, target.rank))


def sketch_width(target: Target) -> int:
    """Columns of a range sketch: the rank and some more, so that the leading directions come out well."""
    return min(target.d, target.rank + SKETCH_OVERSAMPLING)
