"""What of a model is trained and what an update must hold: names, shapes, dtypes. No torch here, so the doors
can check an update against it without loading one.

Tensor names inside an update, for a target weight `W` and a dense weight `b`:

| name                     | shape    | what                                                    |
|--------------------------|----------|---------------------------------------------------------|
| `W/basis.j`              | `(d, r)` | j-th basis of the round, orthonormal columns            |
| `W/factor.j`             | `(r, k)` | `S_j`: `W_K = decay W_t + sum_j P_j S_j`, oriented      |
| `W/second_moment`        | `(r, k)` | `V`, bias-corrected, in the last basis                  |
| `W/residual`             | `(1, k)` | `rho`: mean second moment per direction outside it      |
| `b/delta`                | as `b`   | change of a weight that is trained and sent dense       |
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from fedgalore.job_spec import JobSpec

UPDATE_FORMAT = "fedgalore.update.v1"
AGGREGATE_FORMAT = "fedgalore.aggregate.v1"
STATE_FORMAT = "fedgalore.state.v1"
WEIGHTS_FORMAT = "fedgalore.weights.v1"
RESIDUE_FORMAT = "fedgalore.residue.v1"
DTYPE_BYTES = {"F32": 4}


@dataclass(frozen=True)
class TensorSpec:
    dtype: str  # safetensors' name: "F32"
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        size = DTYPE_BYTES[self.dtype]
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Target:
    """A matrix trained in a subspace. `shape` is the weight's own, `(out, in)`."""

    name: str
    shape: tuple[int, int]
    rank: int

    @property
    def tall(self) -> bool:
        """Whether the weight is transposed so that the projected side is the smaller one."""
        return self.shape[0] > self.shape[1]

    @property
    def d(self) -> int:
        return min(self.shape)

    @property
    def k(self) -> int:
        return max(self.shape)


@dataclass(frozen=True)
class Dense:
    """A weight trained by plain AdamW and sent whole, such as a classification head."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TrainingPlan:
    """The trained part of one model, in the order of its parameters."""

    targets: tuple[Target, ...]
    dense: tuple[Dense, ...]

    def weights(self) -> dict[str, TensorSpec]:
        """All trained weights, as a checkpoint holds them."""
        both: list[Target | Dense] = [*self.targets, *self.dense]
        return {item.name: TensorSpec("F32", tuple(item.shape)) for item in both}

    def dense_bytes(self) -> int:
        """Bytes of every trained weight sent whole: what federated averaging would move one way."""
        return sum(spec.size_bytes for spec in self.weights().values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainingPlan:
        return cls(
            targets=tuple(Target(t["name"], (t["shape"][0], t["shape"][1]), t["rank"]) for t in data["targets"]),
            dense=tuple(Dense(b["name"], tuple(b["shape"])) for b in data["dense"]),
        )


def bases_per_round(spec: JobSpec) -> int:
    """How many bases a client goes through in one round."""
    return ceil(spec.local.steps / spec.method.update_proj_gap)


def update_tensors(spec: JobSpec, plan: TrainingPlan) -> dict[str, TensorSpec]:
    """Exactly the tensors that a valid update of this job holds."""
    expected: dict[str, TensorSpec] = {}
    for target in plan.targets:
        for j in range(bases_per_round(spec)):
            expected[f"{target.name}/basis.{j}"] = TensorSpec("F32", (target.d, target.rank))
            expected[f"{target.name}/factor.{j}"] = TensorSpec("F32", (target.rank, target.k))
        expected[f"{target.name}/second_moment"] = TensorSpec("F32", (target.rank, target.k))
        expected[f"{target.name}/residual"] = TensorSpec("F32", (1, target.k))
    for item in plan.dense:
        expected[f"{item.name}/delta"] = TensorSpec("F32", tuple(item.shape))
    return expected


def aggregate_tensors(spec: JobSpec, plan: TrainingPlan, clients: int) -> dict[str, TensorSpec]:
    """The tensors of an aggregate of `clients` updates: factors where they are smaller than the matrix.

    `W/left (d, q)` and `W/right (q, k)`, or `W/dense`, for targets; `b/delta` for dense weights.
    """
    expected: dict[str, TensorSpec] = {}
    for target in plan.targets:
        q = min(target.d, clients * bases_per_round(spec) * target.rank)
        if spec.method.downlink_rank is not None:
            q = min(target.d, spec.method.downlink_rank)
        if factors_are_smaller(target.d, target.k, q):
            expected[f"{target.name}/left"] = TensorSpec("F32", (target.d, q))
            expected[f"{target.name}/right"] = TensorSpec("F32", (q, target.k))
        else:
            expected[f"{target.name}/dense"] = TensorSpec("F32", target.shape)
    for item in plan.dense:
        expected[f"{item.name}/delta"] = TensorSpec("F32", tuple(item.shape))
    return expected


def factors_are_smaller(d: int, k: int, q: int) -> bool:
    """Whether `(d, q)` and `(q, k)` factors take fewer bytes than a `(d, k)` matrix."""
    return q * (d + k) < d * k


def state_tensors(spec: JobSpec, plan: TrainingPlan) -> dict[str, TensorSpec]:
    """The tensors of an aligned state: `W/reference`, `W/second_moment`, `W/residual`; none when states are reset."""
    if spec.method.state_sync == "reset":
        return {}
    expected: dict[str, TensorSpec] = {}
    for target in plan.targets:
        expected[f"{target.name}/reference"] = TensorSpec("F32", (target.d, target.rank))
        expected[f"{target.name}/second_moment"] = TensorSpec("F32", (target.rank, target.k))
        expected[f"{target.name}/residual"] = TensorSpec("F32", (1, target.k))
    return expected


def residue_tensors(spec: JobSpec, plan: TrainingPlan) -> dict[str, TensorSpec]:
    """What the server keeps of a truncated aggregate for the next round, oriented; none when nothing is truncated."""
    if spec.method.downlink_rank is None:
        return {}
    return {target.name: TensorSpec("F32", (target.d, target.k)) for target in plan.targets}
