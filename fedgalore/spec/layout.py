"""What the files of a round hold: tensor names, shapes and dtypes by method. No torch here, so the doors can check an
update's header against it.

Suffixes after a target weight's name `W`, oriented so that `d <= k`; a dense weight `b` travels as `b/delta`:

| name | shape | what |
|---|---|---|
| `W/left`, `W/right` | `(d, q)`, `(q, k)` | fedgalore: the change's leading part, float16; `left` orthonormal |
| `W/basis.j` | `(d, r)` | fedgalore without complement: j-th basis of the round, orthonormal columns |
| `W/factor.j` | `(r, k)` | fedgalore without complement: `S_j` of `W_K = decay W_t + sum_j P_j S_j` |
| `W/rms` | `(r, k)` | fedgalore: `sqrt V`, float16, in the first `r` columns of `left` or the last basis |
| `W/residual` | `(1, k)` | fedgalore: `rho` |
| `W/sketch` | `(d, r + 4)` | fedgalore, shared basis: `Y = G Omega` of the round's mean gradient |
| `W/reference` | `(d, r)` | state: basis of `W/second_moment (r, k)`; with a shared basis the one to train in |
| `W/delta` | as `W` | fedavg: the change |
| `W/lora_A`, `W/lora_B` | `(r, in)`, `(out, r)` | adapters, as PEFT keeps them |
| `W/left`, `W/right` or `W/dense` | `(d, q)`, `(q, k)` or as `W` | aggregate: the change, factors where smaller |

All are float32 unless the row says otherwise; factors of an aggregate that is cut on its way down are float16.
`round_number` counts committed rounds from 1: it is the old `model_version` + 1, so an abandoned round leaves no trace.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from math import ceil
from typing import Protocol

from fedgalore.spec.job import JobSpec
from fedgalore.spec.method import FedAvgSpec, FedGaLoreSpec, LoRASpec
from fedgalore.spec.plan import Target, TensorSpec, TrainingPlan, factors_are_smaller, rank_at

UPDATE_FORMAT = "fedgalore.update.v1"
AGGREGATE_FORMAT = "fedgalore.aggregate.v1"
STATE_FORMAT = "fedgalore.state.v1"
WEIGHTS_FORMAT = "fedgalore.weights.v1"
RESIDUE_FORMAT = "fedgalore.residue.v1"
SKETCH_OVERSAMPLING = 4  # columns of a range sketch beyond the rank

Shapes = dict[str, tuple[int, ...]]


class _Layout(Protocol):
    """Shapes by suffix of one target's tensors, in each kind of file."""

    def update(self, target: Target, client: str, round_number: int) -> Shapes: ...

    def aggregate(self, target: Target, clients: Sequence[str], round_number: int) -> Shapes: ...

    def state(self, target: Target, round_number: int) -> Shapes: ...

    def carried(self, target: Target) -> Shapes: ...


class _FedGaLore:
    def __init__(self, method: FedGaLoreSpec, bases: int, has_full_rank: bool) -> None:
        self.method = method
        self.bases = bases
        self.has_full_rank = has_full_rank
        self.sends_state = method.state_sync in ("ajive", "average")

    def update(self, target: Target, client: str, round_number: int) -> Shapes:
        rank = rank_at(self.method, target, client)
        shapes: Shapes = {}
        if self.method.basis == "shared":
            shapes["sketch"] = (target.d, sketch_width(target))
            if round_number == 1:  # there is no basis to train in yet
                return shapes
            shapes["factor.0"] = (rank, target.k)
        elif self.method.compresses:
            q = uplink_rank_at(self.method, target, client)
            shapes |= {"left": (target.d, q), "right": (q, target.k)}
            rank = min(rank, q)
        else:
            for j in range(self.bases):
                shapes[f"basis.{j}"] = (target.d, rank)
                shapes[f"factor.{j}"] = (rank, target.k)
        if self.sends_state:
            shapes |= {"rms": (rank, target.k), "residual": (1, target.k)}
        return shapes

    def aggregate(self, target: Target, clients: Sequence[str], round_number: int) -> Shapes:
        if self.method.basis == "shared" and round_number == 1:
            return {}
        if (q := downlink_rank_at(self.method, target)) is not None:
            return {"left": (target.d, q), "right": (q, target.k)}
        if self.method.momentum or self.has_full_rank:  # sums over all rounds; medians, noise
            return _change(target, target.d)
        if self.method.basis == "shared":
            return _change(target, target.rank)
        if self.method.compresses:
            return _change(target, sum(uplink_rank_at(self.method, target, client) for client in clients))
        return _change(target, self.bases * sum(rank_at(self.method, target, client) for client in clients))

    def state(self, target: Target, round_number: int) -> Shapes:
        shapes: Shapes = {}
        shared = self.method.basis == "shared"
        if self.sends_state or shared:
            shapes["reference"] = (target.d, target.rank)
        if self.sends_state and not (shared and round_number == 1):
            shapes |= {"second_moment": (target.rank, target.k), "residual": (1, target.k)}
        return shapes

    def carried(self, target: Target) -> Shapes:
        return {}


class _FedAvg:
    def update(self, target: Target, client: str, round_number: int) -> Shapes:
        return {"delta": target.shape}

    def aggregate(self, target: Target, clients: Sequence[str], round_number: int) -> Shapes:
        return {"dense": target.shape}

    def state(self, target: Target, round_number: int) -> Shapes:
        return {}

    def carried(self, target: Target) -> Shapes:
        return {}


class _LoRA:
    def __init__(self, method: LoRASpec, has_full_rank: bool) -> None:
        self.method = method
        self.has_full_rank = has_full_rank

    def update(self, target: Target, client: str, round_number: int) -> Shapes:
        shapes = adapter_shapes(target, rank_at(self.method, target, client))
        if self.method.kind == "ffa_lora":
            del shapes["lora_A"]
        return shapes

    def aggregate(self, target: Target, clients: Sequence[str], round_number: int) -> Shapes:
        total = sum(rank_at(self.method, target, client) for client in clients)
        if self.method.kind == "flora":
            return _change(target, target.d if self.has_full_rank else total)
        shapes = self.update(target, "", round_number)
        if self.method.kind == "fedex_lora":
            shapes |= _change(target, total + target.rank)
        return shapes

    def state(self, target: Target, round_number: int) -> Shapes:
        return {}

    def carried(self, target: Target) -> Shapes:
        return {} if self.method.kind == "flora" else adapter_shapes(target, target.rank)


def _layout(spec: JobSpec) -> _Layout:
    method = spec.method
    if isinstance(method, FedGaLoreSpec):
        return _FedGaLore(method, bases_per_round(spec), spec.has_full_rank)
    return _FedAvg() if isinstance(method, FedAvgSpec) else _LoRA(method, spec.has_full_rank)


def bases_per_round(spec: JobSpec) -> int:
    """How many bases a client of a `fedgalore` job without complement goes through, and sends, in one round."""
    assert isinstance(spec.method, FedGaLoreSpec)
    return ceil(spec.local.steps / spec.method.update_proj_gap)


def uplink_rank_at(method: FedGaLoreSpec, target: Target, client: str) -> int:
    """Rank `q` of what a client sends of a target's change."""
    return min(target.d, method.uplink_rank or 3 * rank_at(method, target, client))


def downlink_rank_at(method: FedGaLoreSpec, target: Target) -> int | None:
    """Rank that a target's aggregate is cut to on its way down, in float16; the server keeps the residue.

    None: it goes down exactly, because it is asked to, has a low rank by itself, or would be no smaller.
    """
    full_rank = method.compresses or method.momentum > 0
    if method.basis == "shared" or method.downlink_rank == 0 or (method.downlink_rank is None and not full_rank):
        return None
    rank = min(target.d, method.downlink_rank or 12 * target.rank)
    return rank if rank * (target.d + target.k) < 2 * target.d * target.k else None


def sketch_width(target: Target) -> int:
    """Columns of a range sketch: the rank and some more, so that the leading ones are found well."""
    return min(target.d, target.rank + SKETCH_OVERSAMPLING)


def adapter_shapes(target: Target, rank: int) -> Shapes:
    """A LoRA adapter: `lora_A (rank, in)` and `lora_B (out, rank)`."""
    outputs, inputs = reversed(target.shape) if target.fan_in_fan_out else target.shape
    return {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}


def _change(target: Target, columns: int) -> Shapes:
    """A change of at most this rank: factors where they are smaller than the matrix."""
    q = min(target.d, columns)
    if factors_are_smaller(target.d, target.k, q):
        return {"left": (target.d, q), "right": (q, target.k)}
    return {"dense": target.shape}


def _named(shapes: Iterable[tuple[str, Mapping[str, tuple[int, ...]]]]) -> dict[str, TensorSpec]:
    return {f"{name}/{suffix}": TensorSpec("F32", shape) for name, own in shapes for suffix, shape in own.items()}


def _in_half(tensors: Mapping[str, TensorSpec], names: Container[str]) -> dict[str, TensorSpec]:
    """With these in float16; they come last, so that all lie aligned in a file."""
    halved = {name: TensorSpec("F16", tensor.shape) for name, tensor in tensors.items() if name in names}
    return {name: tensor for name, tensor in tensors.items() if name not in halved} | halved


def _dense(plan: TrainingPlan) -> dict[str, TensorSpec]:
    return {f"{item.name}/delta": TensorSpec("F32", tuple(item.shape)) for item in plan.dense}


def weights_tensors(spec: JobSpec, plan: TrainingPlan) -> dict[str, TensorSpec]:
    """A model version: every trained weight under the model's own name, then the adapters that go from round to round.

    Adapters are in the weights already (`W = W_frozen + scale B A`), so that evaluation and download need no method.
    """
    layout = _layout(spec)
    return plan.weights() | _named((target.name, layout.carried(target)) for target in plan.targets)


def update_tensors(spec: JobSpec, plan: TrainingPlan, client: str, round_number: int) -> dict[str, TensorSpec]:
    """Exactly the tensors that a valid update of this client holds in this round."""
    layout = _layout(spec)
    tensors = _named((t.name, layout.update(t, client, round_number)) for t in plan.targets) | _dense(plan)
    return _in_half(tensors, {name for name in tensors if name.endswith(("/left", "/right", "/rms"))})


def aggregate_tensors(
    spec: JobSpec, plan: TrainingPlan, clients: Sequence[str], round_number: int
) -> dict[str, TensorSpec]:
    """The tensors of the aggregate of these clients' updates."""
    layout = _layout(spec)
    tensors = _named((t.name, layout.aggregate(t, clients, round_number)) for t in plan.targets) | _dense(plan)
    return _in_half(tensors, {f"{target.name}/{part}" for target in _cut(spec, plan) for part in ("left", "right")})


def _cut(spec: JobSpec, plan: TrainingPlan) -> list[Target]:
    """The targets whose aggregate is cut on its way down."""
    method = spec.method
    if not isinstance(method, FedGaLoreSpec):
        return []
    return [target for target in plan.targets if downlink_rank_at(method, target) is not None]


def state_tensors(spec: JobSpec, plan: TrainingPlan, round_number: int) -> dict[str, TensorSpec]:
    """The tensors of what a round leaves for all clients beside the weights; none when nothing is carried."""
    layout = _layout(spec)
    return _named((target.name, layout.state(target, round_number)) for target in plan.targets)


def residue_tensors(spec: JobSpec, plan: TrainingPlan) -> dict[str, TensorSpec]:
    """What the server keeps of a cut aggregate for the next round, oriented; none when nothing is cut."""
    return {target.name: TensorSpec("F32", (target.d, target.k)) for target in _cut(spec, plan)}


def size_bytes(tensors: Mapping[str, TensorSpec]) -> int:
    """Bytes of the tensors' data."""
    return sum(spec.size_bytes for spec in tensors.values())
