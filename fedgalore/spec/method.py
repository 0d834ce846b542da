"""What a method shows to everybody else, without torch: its section of a job, its tensors, and a few facts.

A method is a folder, `fedgalore/methods/<kind>/` or a package of somebody else's, with a `MethodFace` that
`fedgalore.spec.registry` finds. Its client half and its server half need torch and are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from fedgalore.spec.plan import Target, TensorSpec, ends_in
from fedgalore.spec.quantization import Quantization
from fedgalore.spec.strict import Identifier, Strict, Text

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

Rank = Annotated[int, Field(ge=1, le=4096)]
TargetModules = Annotated[
    tuple[Text, ...] | None,
    Field(
        max_length=1000,
        description="Modules or parameters of the backbone to train, by the end of their names; null: all that the "
        "method can train. Named modules may be less than half of the backbone",
    ),
]
Also = Literal["embeddings", "norms", "biases", "output"]
TrainAlso = Annotated[
    tuple[Also, ...],
    Field(
        max_length=4,
        description="What of a model trains beside the matrices of its layers: embeddings, normalisations, biases, and "
        "the output layer of a language model. fedavg trains all of them anyway",
    ),
]
RankPattern = Annotated[
    dict[Text, Rank],
    Field(
        max_length=1000,
        description="Other ranks for single modules: the end of a module's name and its rank. The longest end "
        "that fits wins. A small matrix is trained at its smaller side",
    ),
]
ClientRanks = Annotated[
    dict[Identifier, Rank],
    Field(
        max_length=10_000,
        description="Other ranks for single clients, such as weak machines: a client's name and its rank",
    ),
]

MOMENTUM = (  # describes the field by which a method asks for `fedgalore.momentum`
    "Share of the federation's last step that each client repeats while it trains; its learning rates are multiplied "
    "by the rest. Speeds rounds up at no bytes up; too much overshoots when few clients take part"
)
Tensors = dict[str, TensorSpec]  # by suffix after the target's name


class MethodSpec(Strict):
    """The `method` section of a job, of whatever kind; every kind derives its section from this.

    As it stands it trains the target matrices in full: rank 0.
    """

    kind: str
    target_modules: TargetModules = None
    train_also: TrainAlso = ()

    @property
    def momentum(self) -> float:
        """Share of the federation's last step that every client moves along: `fedgalore.momentum`."""
        return 0.0

    @property
    def finds_rate(self) -> bool:
        """Whether a job may leave `local.learning_rate` out: the rates of `fedgalore.spec.rates` are this method's."""
        return False

    @property
    def steps_in_bfloat16(self) -> bool:
        """Whether a client's matrices may be in bfloat16 while it trains: `local.weights`."""
        return False

    @property
    def cuts(self) -> bool:
        """Whether a client's change has full rank, so that only its leading part travels: `JobSpec.wire`."""
        return False

    @property
    def starts_anew(self) -> bool:
        """Whether a round after the first may start without the state that the rounds before it left."""
        return True

    @property
    def told_by_parameters(self) -> bool:
        """Whether all that a client sends follows from the parameters that it moved: `fedgalore.site_noise`."""
        return False

    @property
    def tells_single_batches(self) -> bool:
        """Whether an update tells something of a single batch's gradient, however many steps it sums."""
        return False

    @property
    def favours_a_batch(self) -> bool:
        """Whether an update shows more of one batch's gradient than of the others' that it sums."""
        return False

    def rank_of_module(self, module: str) -> int:
        """The rank at which the module of this name is trained; 0: in full."""
        return 0

    def rank_at(self, target: Target, client: str) -> int:
        """The rank at which a client trains a target, at most its smaller side; 0: in full."""
        return 0

    def highest_rank(self, module: str) -> int:
        """The highest rank that the job asks of any client for a module; 0: all train it in full."""
        return 0

    def check_patterns(self, modules: Sequence[str]) -> None:
        """Raises `ValueError` for a pattern of modules that matches none of the trained `modules`."""

    def check_job(self, job: JobSpec) -> None:
        """Raises `ValueError`, with field and remedy, for a job that this method cannot do."""


class RankedSpec(MethodSpec):
    """A method that trains each target at a rank: one for all, or by module, or by client."""

    rank: Rank = 8
    rank_pattern: RankPattern = Field(default={})
    client_ranks: ClientRanks = Field(default={})

    def rank_of_module(self, module: str) -> int:
        suffixes = [suffix for suffix in self.rank_pattern if ends_in(module, suffix)]
        return self.rank_pattern[max(suffixes, key=len)] if suffixes else self.rank

    def rank_at(self, target: Target, client: str) -> int:
        return min(self.client_ranks.get(client, target.rank), target.d)

    def highest_rank(self, module: str) -> int:
        return max([self.rank_of_module(module), *self.client_ranks.values()])

    def check_patterns(self, modules: Sequence[str]) -> None:
        for suffix in self.rank_pattern:
            if not any(ends_in(module, suffix) for module in modules):
                raise ValueError(f"method.rank_pattern: {suffix!r} is the end of no trained module's name")

    def check_ranks(self) -> None:
        """Raises `ValueError` where ranks are given both by client and by module."""
        if self.client_ranks and self.rank_pattern:
            raise ValueError("client_ranks and rank_pattern cannot be combined; leave one of them out")


class MethodLayout(Protocol):
    """The tensors of one target in each kind of file, by suffix; `fedgalore.spec.layout` puts files together."""

    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        """What a client sends."""

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        """The greatest rank of the change that the clients' updates come to; None: they come to no change."""

    def adapters(self, target: Target) -> Tensors:
        """What goes down beside the change."""

    def state(self, target: Target, round_number: int) -> Tensors:
        """What a round leaves for all clients beside the weights."""

    def carried(self, target: Target) -> Tensors:
        """What a model version holds beside the weights."""

    def kept(self, target: Target, client: str) -> Tensors:
        """What a client keeps of a round for its next one."""


class PlainLayout:
    """A `MethodLayout` of a method that sends nothing, to be filled: no change, no state, nothing carried."""

    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        return {}

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return None

    def adapters(self, target: Target) -> Tensors:
        return {}

    def state(self, target: Target, round_number: int) -> Tensors:
        return {}

    def carried(self, target: Target) -> Tensors:
        return {}

    def kept(self, target: Target, client: str) -> Tensors:
        return {}


@dataclass(frozen=True)
class MethodFace:
    """A method as everybody else sees it.

    `client` and `server` name its halves as `module:Class`, of `fedgalore.methods.halves.ClientHalf` and `ServerHalf`.

    `sums_changes`: the server sums the clients' changes in the full space, so that each can be measured, clipped,
    trimmed and covered with noise. `carries_tensors`: a model version holds tensors beside the weights, such as
    adapters. `full_rank`: the target matrices are trained in full, at rank 0. `trains`: what of a backbone it can
    train; of "everything", what is no linear layer is trained by plain AdamW.
    """

    kind: str
    spec: type[MethodSpec]
    layout: Callable[[JobSpec], MethodLayout]
    client: str
    server: str
    sums_changes: bool = False
    carries_tensors: bool = False
    full_rank: bool = False
    trains: Literal["everything", "matrices", "linear"] = "matrices"


def float32(**shapes: tuple[int, ...]) -> Tensors:
    """Float32 tensors of these shapes, by suffix."""
    return {suffix: TensorSpec("F32", shape) for suffix, shape in shapes.items()}


def float16(**shapes: tuple[int, ...]) -> Tensors:
    """Float16 tensors of these shapes, by suffix."""
    return {suffix: TensorSpec("F16", shape) for suffix, shape in shapes.items()}


def quantized(bits: int, axis: int = -1, signed: bool = True, **shapes: tuple[int, ...]) -> Tensors:
    """Tensors of these shapes in 4, 8 or 16 bits an entry, by suffix; float32 at 32 bits, or where that is smaller.

    Args:
        axis, signed: as in `Quantization`.
    """
    return {suffix: _in_bits(shape, bits, axis, signed) for suffix, shape in shapes.items()}


def _in_bits(shape: tuple[int, ...], bits: int, axis: int, signed: bool) -> TensorSpec:
    exact = TensorSpec("F32", shape)
    if bits == 32:
        return exact
    code = Quantization(shape, bits, axis, signed)
    return TensorSpec("U8", (code.size_bytes,), code) if code.size_bytes < exact.size_bytes else exact


def held(bits: int, shape: tuple[int, ...]) -> TensorSpec:
    """A tensor as large as a weight that whoever holds a version keeps beside it, where changes travel in `bits`.

    What 8 bits round off is far less than what a cut to 4 bits leaves out. A job of exact numbers keeps them exact.
    """
    return _in_bits(shape, max(bits, 8), -1, True)


def factors_in_bits(target: Target, rank: int, bits: int) -> Tensors:
    """The leading part of a target's change: `left (d, rank)`, its blocks along `d`, and `right (rank, k)`."""
    return quantized(bits, axis=-2, left=(target.d, rank)) | quantized(bits, right=(rank, target.k))
