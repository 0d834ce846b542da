"""The tensors of a `fedgalore` job, by suffix after the target `W`, oriented so that `d <= k`.

| name | shape | what |
|---|---|---|
| `W/left`, `W/right` | `(d, q)`, `(q, k)` | leading part of the change, float16; `left` orthonormal |
| `W/basis.j` | `(d, r)` | exact factors: j-th basis of the round, orthonormal columns |
| `W/factor.j` | `(r, k)` | exact factors: `S_j` of `W_K = decay W_t + sum_j P_j S_j` |
| `W/sketch` | `(d, r + 4)` | shared basis: `Y = G Omega` of the round's mean gradient |
| `W/rms` | `(r, k)` | `sqrt V`, float16, in the first `r` columns of `left` or in the last basis |
| `W/residual` | `(1, k)` | `rho` |
| `W/reference` | `(d, r)` | state: basis of `W/second_moment (r, k)`; with a shared basis the next one to train in |
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Protocol

from fedgalore.methods.fedgalore.spec import FedGaLoreSpec
from fedgalore.spec.method import PlainLayout, Tensors, float16, float32
from fedgalore.spec.plan import Target

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

SKETCH_OVERSAMPLING = 4  # columns of a range sketch beyond the rank


class FedGaLoreLayout(PlainLayout):
    def __init__(self, spec: JobSpec) -> None:
        self.method = method_of(spec)
        self.form = FORMS[self.method.form](spec)

    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        tensors = self.form.change(target, client, round_number)
        rank = self.form.state_rank(target, client, round_number)
        if self.method.sends_state and rank:
            tensors |= float16(rms=(rank, target.k)) | float32(residual=(1, target.k))
        return tensors

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return self.form.change_rank(target, clients, round_number)

    def downlink_rank(self, target: Target) -> int | None:
        method, has_full_rank = self.method, self.method.compresses
        if method.basis == "shared" or method.downlink_rank == 0:
            return None
        if method.downlink_rank is None and not has_full_rank:
            return None
        rank = min(target.d, method.downlink_rank or 12 * target.rank)
        return rank if rank * (target.d + target.k) < 2 * target.d * target.k else None

    def state(self, target: Target, round_number: int) -> Tensors:
        shared = self.method.basis == "shared"
        tensors: Tensors = {}
        if self.method.sends_state or shared:
            tensors |= float32(reference=(target.d, target.rank))
        if self.method.sends_state and not (shared and round_number == 1):
            tensors |= float32(second_moment=(target.rank, target.k), residual=(1, target.k))
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
        self._method = method_of(spec)

    def change(self, target: Target, client: str, round_number: int) -> Tensors:
        q = uplink_rank(self._method, target, client)
        return float16(left=(target.d, q), right=(q, target.k))

    def state_rank(self, target: Target, client: str, round_number: int) -> int:
        return min(self._method.rank_at(target, client), uplink_rank(self._method, target, client))

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return sum(uplink_rank(self._method, target, client) for client in clients)


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


def uplink_rank(method: FedGaLoreSpec, target: Target, client: str) -> int:
    """Rank `q` of what a client sends of a target's change."""
    return min(target.d, method.uplink_rank or 3 * method.rank_at(target, client))


def sketch_width(target: Target) -> int:
    """Columns of a range sketch: the rank and some more, so that the leading directions come out well."""
    return min(target.d, target.rank + SKETCH_OVERSAMPLING)
