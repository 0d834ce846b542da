"""What the files of a round hold: tensor names, shapes and dtypes. Without torch: the doors check headers by it.

A tensor is called by its target weight `W`, oriented so that `d <= k`, and a suffix. Which suffixes a method uses
stands in its own layout (`fedgalore.methods.<kind>.layout`); these are the same for all:

| name | shape | what |
|---|---|---|
| `b/delta` | as `b` | the change of what is sent whole: a head trained by plain AdamW, a running mean |
| `W/left`, `W/right` or `W/dense` | `(d, q)`, `(q, k)` or as `W` | aggregate: the change, factors where smaller |
| `W/left`, `W/right`; `b` | `(d, c)`, `(c, k)`; as `b` | residue: what a cut or rounded aggregate left out |
| `W/step` | as `W` | weights, with momentum: the federation's last step |
| `W/residue`, `b/residue` | `(d, k)`, as `b` | what a client keeps: what its update left out |

Tensors are float32. Where `wire.bits` asks for fewer bits, a tensor is one vector of bytes
(`fedgalore.spec.quantization`); moving buffers stay float32. Larger items come first in a file, so that all lie
aligned. `round_number` counts committed rounds from 1: it is the old `model_version` + 1, so an abandoned round leaves
no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fedgalore.spec.job import JobSpec
from fedgalore.spec.method import MethodLayout, Tensors, factors_in_bits, float32, held, quantized
from fedgalore.spec.plan import DTYPE_BYTES, Buffer, Dense, Target, TensorSpec, TrainingPlan, factors_are_smaller
from fedgalore.spec.registry import methods
from fedgalore.spec.wire import directions

UPDATE_FORMAT = "fedgalore.update.v1"
AGGREGATE_FORMAT = "fedgalore.aggregate.v1"
STATE_FORMAT = "fedgalore.state.v1"
WEIGHTS_FORMAT = "fedgalore.weights.v1"
RESIDUE_FORMAT = "fedgalore.residue.v1"

STEP = "step"  # the federation's last step of a weight: `fedgalore.momentum`


def layout_of(spec: JobSpec) -> MethodLayout:
    """The layout of the job's method."""
    return methods()[spec.method.kind].layout(spec)


def weights_tensors(spec: JobSpec, plan: TrainingPlan, version: int) -> dict[str, TensorSpec]:
    """A model version: trained weights and moving buffers under the model's own names, then what goes on beside them.

    Adapters are in the weights already (`W = W_frozen + scale B A`), so that evaluation and download need no method.
    Version 0 carries no step: there was none.
    """
    beside = {
        f"{name}/{suffix}": tensor
        for name, tensors in carried(spec, plan).items()
        for suffix, tensor in tensors.items()
        if version or suffix != STEP
    }
    return _largest_items_first(plan.weights() | beside)


def carried(spec: JobSpec, plan: TrainingPlan) -> dict[str, Tensors]:
    """What a version holds beside an item's weights, by item: adapters; the federation's last step, with momentum."""
    layout = layout_of(spec)
    beside: dict[str, Tensors] = {target.name: layout.carried(target) for target in plan.targets}
    beside |= {item.name: {} for item in plan.whole}
    if spec.method.momentum:
        for item in plan.trained:
            beside[item.name] = beside[item.name] | {STEP: step(spec, item)}
    return beside


def step(spec: JobSpec, item: Target | Dense) -> TensorSpec:
    """The federation's last step of a weight, as a version carries it."""
    return held(spec.bits, tuple(item.shape))


def dense_residue(spec: JobSpec, item: Dense) -> TensorSpec:
    """What a client keeps of a weight that is sent whole: what rounding left out."""
    return held(spec.bits, tuple(item.shape))


def kept_tensors(spec: JobSpec, plan: TrainingPlan, client: str) -> dict[str, TensorSpec]:
    """What a client keeps of a round for its next one."""
    layout = layout_of(spec)
    whole = (item for item in plan.dense if delta(spec, item).quantization is not None)
    residues = {f"{item.name}/residue": dense_residue(spec, item) for item in whole}
    return _file(plan, lambda target: layout.kept(target, client), residues)


def update_tensors(spec: JobSpec, plan: TrainingPlan, client: str, round_number: int) -> dict[str, TensorSpec]:
    """Exactly the tensors that a valid update of this client holds in this round."""
    layout = layout_of(spec)
    return _file(plan, lambda target: layout.update(target, client, round_number), _whole(spec, plan))


def aggregate_tensors(
    spec: JobSpec, plan: TrainingPlan, clients: Sequence[str], round_number: int
) -> dict[str, TensorSpec]:
    """The tensors of the aggregate of these clients' updates."""
    layout = layout_of(spec)

    def down(target: Target) -> Tensors:
        return layout.adapters(target) | _change(spec, target, layout.change_rank(target, clients, round_number))

    return _file(plan, down, _whole(spec, plan))


def state_tensors(spec: JobSpec, plan: TrainingPlan, round_number: int) -> dict[str, TensorSpec]:
    """The tensors of what a round leaves for all clients beside the weights; none when nothing is carried."""
    layout = layout_of(spec)
    return _file(plan, lambda target: layout.state(target, round_number))


def residue_tensors(spec: JobSpec, plan: TrainingPlan) -> dict[str, TensorSpec]:
    """What the server keeps of an aggregate for the next round: what cuts and rounding left out.

    Of a target's residue the leading directions, as many as go down.
    """
    whole = (item for item in plan.dense if delta(spec, item).quantization is not None)
    return _file(plan, lambda target: residue(spec, target), {item.name: residue_of(spec, item) for item in whole})


def residue(spec: JobSpec, target: Target) -> Tensors:
    """A target's residue at the server; no tensors where its change goes down exactly."""
    rank = cut_rank(spec, target)
    return {} if rank is None else factors_in_bits(target, rank, _residue_bits(spec))


def residue_of(spec: JobSpec, item: Dense) -> TensorSpec:
    """The residue at the server of what is sent whole."""
    return quantized(_residue_bits(spec), delta=tuple(item.shape))["delta"]


def _residue_bits(spec: JobSpec) -> int:
    """Half of float32's: what that rounds off is a thousandth of what 4 bits leave out, and disks hold it."""
    return 32 if spec.bits == 32 else 16


def cut_rank(spec: JobSpec, target: Target) -> int | None:
    """The rank that a target's change is cut to on its way down; None: it goes down exactly."""
    wire, d, k = spec.wire, target.d, target.k
    if not spec.method.cuts or wire.down_rank == 0:
        return None
    rank = min(d, wire.down_rank or directions(target.rank))
    return rank if rank * (d + k) * spec.bits < 32 * d * k else None


def cut(spec: JobSpec, target: Target) -> Tensors:
    """A target's change on its way down where it is cut; no tensors where it goes down exactly."""
    rank = cut_rank(spec, target)
    return {} if rank is None else factors_in_bits(target, rank, spec.bits)


def quantized_in_aggregate(spec: JobSpec, item: Target | Dense | Buffer) -> Tensors:
    """An item's tensors of an aggregate that are quantized, whoever took part."""
    tensors = cut(spec, item) if isinstance(item, Target) else {"delta": delta(spec, item)}
    return {suffix: tensor for suffix, tensor in tensors.items() if tensor.quantization is not None}


def delta(spec: JobSpec, item: Dense | Buffer) -> TensorSpec:
    """The change of what is sent whole, on its way up and down. Moving buffers are measurements, and stay exact."""
    bits = spec.bits if isinstance(item, Dense) else 32
    return quantized(bits, delta=tuple(item.shape))["delta"]


def size_bytes(tensors: Mapping[str, TensorSpec]) -> int:
    """Bytes of the tensors' data."""
    return sum(spec.size_bytes for spec in tensors.values())


def _change(spec: JobSpec, target: Target, rank: int | None) -> Tensors:
    """A change of at most this rank on its way down: cut; or exact, as factors where those are smaller."""
    if rank is None:
        return {}
    if leading := cut(spec, target):
        return leading
    q = target.d if spec.has_full_rank else min(target.d, rank)
    if factors_are_smaller(target.d, target.k, q):
        return float32(left=(target.d, q), right=(q, target.k))
    return float32(dense=target.shape)


def _whole(spec: JobSpec, plan: TrainingPlan) -> dict[str, TensorSpec]:
    return {f"{item.name}/delta": delta(spec, item) for item in plan.whole}


def _file(
    plan: TrainingPlan, tensors_of: Callable[[Target], Tensors], more: Mapping[str, TensorSpec] | None = None
) -> dict[str, TensorSpec]:
    """The targets' tensors and others under their full names, those of larger items first."""
    named = {f"{t.name}/{suffix}": tensor for t in plan.targets for suffix, tensor in tensors_of(t).items()}
    return _largest_items_first(named | dict(more or {}))


def _largest_items_first(tensors: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    return dict(sorted(tensors.items(), key=lambda pair: -DTYPE_BYTES[pair[1].dtype]))
