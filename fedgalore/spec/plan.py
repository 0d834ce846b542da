"""What of a model is trained: names, shapes and ranks. No torch here: the doors read plans without loading it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
class Buffer:
    """State that is no parameter and that training changes, such as a running mean: sent whole, as float32.

    `not_negative`: a variance or a count, which the clients' combined change never takes below 0.
    """

    name: str
    shape: tuple[int, ...]
    not_negative: bool = False


@dataclass(frozen=True)
class TrainingPlan:
    """The part of one model that training changes, in the order of its parameters and buffers."""

    targets: tuple[Target, ...]
    dense: tuple[Dense, ...]
    buffers: tuple[Buffer, ...] = ()

    @property
    def whole(self) -> tuple[Dense | Buffer, ...]:
        """What is sent whole, as `b/delta`."""
        return self.dense + self.buffers

    def weights(self) -> dict[str, TensorSpec]:
        """All that training changes, as a checkpoint holds it."""
        return {item.name: TensorSpec("F32", tuple(item.shape)) for item in (*self.targets, *self.whole)}

    def dense_bytes(self) -> int:
        """Bytes of all that training changes, sent whole: what federated averaging would move one way."""
        return sum(spec.size_bytes for spec in self.weights().values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainingPlan:
        return cls(
            targets=tuple(Target(**(t | {"shape": tuple(t["shape"])})) for t in data["targets"]),
            dense=tuple(Dense(b["name"], tuple(b["shape"])) for b in data["dense"]),
            buffers=tuple(Buffer(**(b | {"shape": tuple(b["shape"])})) for b in data["buffers"]),
        )


def ends_in(module: str, suffix: str) -> bool:
    """Whether the dotted name `module` ends in the whole parts of `suffix`."""
    return module == suffix or module.endswith(f".{suffix}")


def factors_are_smaller(d: int, k: int, q: int) -> bool:
    """Whether `(d, q)` and `(q, k)` factors take fewer bytes than a `(d, k)` matrix."""
    return q * (d + k) < d * k


def adapter_shapes(target: Target, rank: int) -> dict[str, tuple[int, int]]:
    """A LoRA adapter as PEFT keeps it: `lora_A (rank, in)` and `lora_B (out, rank)`."""
    outputs, inputs = reversed(target.shape) if target.fan_in_fan_out else target.shape
    return {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
