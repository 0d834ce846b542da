"""What of a model is trained: names, shapes and ranks. No torch here: the doors read plans without loading it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, NamedTuple

from fedgalore.spec.census import Census
from fedgalore.spec.quantization import Quantization
from fedgalore.spec.shape import ModelShape

DTYPE_BYTES = {"F32": 4, "F16": 2, "U8": 1}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as a file holds it. `quantization`: what its bytes mean, which the file itself does not say."""

    dtype: str  # safetensors' name: a key of DTYPE_BYTES
    shape: tuple[int, ...]
    quantization: Quantization | None = field(default=None, compare=False)

    @property
    def size_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype] * prod(self.shape)

    @property
    def entries(self) -> int:
        """How many numbers it tells."""
        return prod(self.quantization.shape if self.quantization else self.shape)


@dataclass(frozen=True)
class Target:
    """A matrix that the job's method trains; `rank` 0: in full.

    `shape` is the weight's own: `(out, in)`, or `(in, out)` where `fan_in_fan_out`, as in GPT-2's Conv1D. A target may
    be a part of a parameter of shape `whole`: one of its experts, `W[i]`, or a kernel as `(out, in * height * width)`.
    `is_wrappable`: the weight of a linear layer, so that a LoRA adapter can stand for its change.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    fan_in_fan_out: bool = False
    part_of: str | None = None
    whole: tuple[int, ...] | None = None
    is_wrappable: bool = True

    @property
    def parameter(self) -> str:
        """The name of the parameter that it is, or is a part of."""
        return self.part_of or self.name

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
    """A weight trained by plain AdamW and sent whole: of a classification `head`, else of the backbone."""

    name: str
    shape: tuple[int, ...]
    head: bool = True


@dataclass(frozen=True)
class Buffer:
    """State that is no parameter and that training changes, such as a running mean: sent whole, as float32.

    `not_negative`: a variance or a count, which the clients' combined change never takes below 0.
    """

    name: str
    shape: tuple[int, ...]
    not_negative: bool = False


class Place(NamedTuple):
    """Where a tensor of a checkpoint belongs in the model: numbers `start` and following of a flattened parameter."""

    parameter: str
    shape: tuple[int, ...]  # of the whole parameter, or buffer
    start: int = 0


@dataclass(frozen=True)
class TrainingPlan:
    """The part of one model that training changes, in the order of its parameters and buffers.

    `shared`: the trained parameters that several layers of the model hold, such as tied weights.

    The rest is no part of what makes two plans equal: processors round differently, and an agent's folder may hold what
    the coordinator has drawn. `shape`: of the whole model. `size`: root mean square of a target's entries before
    training, the median over targets; None where the job names its rate. `new_head_width`: inputs of the widest matrix
    of a head that the base model lacks; None where it has its head.
    """

    targets: tuple[Target, ...]
    dense: tuple[Dense, ...]
    buffers: tuple[Buffer, ...] = ()
    census: Census = field(default_factory=Census)
    shared: tuple[str, ...] = ()
    shape: ModelShape = field(default=ModelShape(), compare=False)
    size: float | None = field(default=None, compare=False)
    new_head_width: int | None = field(default=None, compare=False)

    @property
    def trained(self) -> tuple[Target | Dense, ...]:
        """What an optimizer moves."""
        return self.targets + self.dense

    @property
    def trained_numbers(self) -> int:
        """How many numbers that is."""
        return sum(prod(item.shape) for item in self.trained)

    @property
    def whole(self) -> tuple[Dense | Buffer, ...]:
        """What is sent whole, as `b/delta`."""
        return self.dense + self.buffers

    def weights(self) -> dict[str, TensorSpec]:
        """All that training changes, as a checkpoint holds it."""
        return {item.name: TensorSpec("F32", tuple(item.shape)) for item in (*self.targets, *self.whole)}

    def places(self) -> dict[str, Place]:
        """Where each tensor of `weights` belongs; those of one parameter follow each other and fill it."""
        places: dict[str, Place] = {}
        filled: dict[str, int] = {}
        for target in self.targets:
            start = filled.get(target.parameter, 0)
            places[target.name] = Place(target.parameter, target.whole or target.shape, start)
            filled[target.parameter] = start + target.d * target.k
        return places | {item.name: Place(item.name, item.shape) for item in self.whole}

    def parts(self) -> dict[str, dict[str, TensorSpec]]:
        """By parameter or buffer of the model, the tensors of a checkpoint that make it up, one after the other."""
        parts: dict[str, dict[str, TensorSpec]] = {}
        weights = self.weights()
        for name, place in self.places().items():
            parts.setdefault(place.parameter, {})[name] = weights[name]
        return parts

    def dense_bytes(self) -> int:
        """Bytes of all that training changes, sent whole: what federated averaging would move one way."""
        return sum(spec.size_bytes for spec in self.weights().values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainingPlan:
        return cls(
            targets=tuple(Target(**_tuples(t)) for t in data["targets"]),
            dense=tuple(Dense(**_tuples(b)) for b in data["dense"]),
            buffers=tuple(Buffer(**_tuples(b)) for b in data["buffers"]),
            census=Census(**data["census"]),
            shared=tuple(data["shared"]),
            shape=ModelShape(**data["shape"]),
            size=data["size"],
            new_head_width=data["new_head_width"],
        )


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as shapes."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}


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
