"""What of a model is trained: names, shapes and ranks. No torch here: the doors read plans without loading it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fedgalore.spec.method import FedAvgSpec, MethodSpec

DTYPE_BYTES = {"F32": 4, "F16": 2}


@dataclass(frozen=True)
class TensorSpec:
    dtype: str  # safetensors' name: a key of DTYPE_BYTES
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        size = DTYPE_BYTES[self.dtype]
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Target:
    """A matrix that the job's method trains; `rank` 0: in full.

    `shape` is the weight's own: `(out, in)`, or `(in, out)` where `fan_in_fan_out`, as in GPT-2's Conv1D.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    fan_in_fan_out: bool = False

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
            targets=tuple(Target(**(t | {"shape": tuple(t["shape"])})) for t in data["targets"]),
            dense=tuple(Dense(b["name"], tuple(b["shape"])) for b in data["dense"]),
        )


def rank_of_module(method: MethodSpec, module: str) -> int:
    """The rank at which a job trains the module of this name; 0 where the method trains matrices in full."""
    if isinstance(method, FedAvgSpec):
        return 0
    suffixes = [suffix for suffix in method.rank_pattern if ends_in(module, suffix)]
    return method.rank_pattern[max(suffixes, key=len)] if suffixes else method.rank


def ends_in(module: str, suffix: str) -> bool:
    """Whether the dotted name `module` ends in the whole parts of `suffix`."""
    return module == suffix or module.endswith(f".{suffix}")


def rank_at(method: MethodSpec, target: Target, client: str) -> int:
    """The rank at which one client trains a target."""
    if isinstance(method, FedAvgSpec):
        return 0
    return method.client_ranks.get(client, target.rank)


def factors_are_smaller(d: int, k: int, q: int) -> bool:
    """Whether `(d, q)` and `(q, k)` factors take fewer bytes than a `(d, k)` matrix."""
    return q * (d + k) < d * k
