"""What the methods with LoRA adapters share. Layers come from PEFT; LoRA: https://arxiv.org/abs/2106.09685.

Shapes: `A (r, in)`, `B (out, r)`; a weight `(out, in)` becomes `W + s B A` with `s` the job's `method.scale`, and one
that is kept as `(in, out)` becomes `W + s (B A)^T`. Global weights hold their adapters already: a client takes them out
before it trains.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.base import GroupResult, LocalTraining, Reader, Round, Start
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import adapter_shapes
from fedgalore.spec.method import LoRASpec
from fedgalore.spec.plan import Target, TrainingPlan, rank_at

ADAPTER = "default"
Adapter = tuple[Tensor, Tensor]  # A, B


def lora_spec(spec: JobSpec) -> LoRASpec:
    assert isinstance(spec.method, LoRASpec)
    return spec.method


def new_adapter(target: Target, rank: int, seed: int) -> Adapter:
    """A drawn as PEFT draws it (uniform, He et al. 2015, gain of a = sqrt 5), B zero."""
    shapes = adapter_shapes(target, rank)
    first = torch.empty(shapes["lora_A"])
    nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=torch.Generator().manual_seed(seed))
    return first, torch.zeros(shapes["lora_B"])


def product(target: Target, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """`B (out, q)` and `A (q, in)` as factors of the weight's own shape."""
    return (right.mT.contiguous(), left.mT.contiguous()) if target.fan_in_fan_out else (left, right)


def exchanged(target: Target, weight: Tensor, scale: float, new: Adapter | None, old: Adapter | None) -> Tensor:
    """`W + s (B' A' - B A)` in one product, so that server and clients round alike."""
    parts = [(new, scale)] * (new is not None) + [(old, -scale)] * (old is not None)
    right = torch.cat([factor * pair[0] for pair, factor in parts if pair is not None])
    left = torch.cat([pair[1] for pair, _ in parts if pair is not None], dim=1)
    return torch.addmm(weight.contiguous(), *product(target, left, right))


def carried_adapters(spec: JobSpec, plan: TrainingPlan) -> dict[str, Tensor]:
    """The adapters that all clients start the job with."""
    tensors: dict[str, Tensor] = {}
    for target in plan.targets:
        seed = derive_seed(spec.seed, "lora", target.name)
        tensors[f"{target.name}/lora_A"], tensors[f"{target.name}/lora_B"] = new_adapter(target, target.rank, seed)
    return tensors


def start_adapter(target: Target, start: Start) -> Adapter:
    """The adapter that a model version holds for a target.

    Raises:
        TaskError: it is missing or has another shape.
    """
    for part, shape in adapter_shapes(target, target.rank).items():
        tensor = start.weights.get(f"{target.name}/{part}")
        if tensor is None or tuple(tensor.shape) != shape:
            raise TaskError(
                f"weights: {target.name}/{part} is missing or not of shape {shape}; "
                "a job with adapters starts from `Method.carried` beside the model's weights"
            )
    return read_adapter(target, start.weights.__getitem__)


def read_adapter(target: Target, read: Reader) -> Adapter:
    return read(f"{target.name}/lora_A"), read(f"{target.name}/lora_B")


class LoRATraining:
    """AdamW on the adapters; `trained` names their parts that move: "lora_A", "lora_B"."""

    decay = 1.0  # weight decay is on the adapters

    def __init__(self, layers: Mapping[str, nn.Module], spec: JobSpec, trained: Sequence[str]) -> None:
        self._trained = trained
        self._layers = layers
        parameters = []
        for layer in layers.values():
            for part in ("lora_A", "lora_B"):
                weight = _part(layer, part)
                weight.requires_grad_(part in trained)
                parameters += [weight] * (part in trained)
        local = spec.local
        self._optimizer = torch.optim.AdamW(
            parameters, lr=local.learning_rate, betas=local.betas, eps=local.eps, weight_decay=local.weight_decay
        )

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}/{part}": _part(layer, part).detach().clone()
            for name, layer in self._layers.items()
            for part in self._trained
        }

    def kept(self) -> dict[str, Tensor]:
        return {}


def _part(layer: nn.Module, part: str) -> nn.Parameter:
    weight = layer.get_parameter(f"{part}.{ADAPTER}.weight")
    assert isinstance(weight, nn.Parameter)
    return weight


@contextmanager
def lora_training(
    task: TaskModel, spec: JobSpec, client: str, trained: Sequence[str], adapter_of: Callable[[Target], Adapter]
) -> Iterator[LocalTraining]:
    """PEFT's layers around the targets of `task`, each with the adapter to start from, taken out of its weight.

    At the exit the layers are gone and the weights hold what the adapters became.
    """
    method = lora_spec(spec)
    targets = {target.name: target for target in task.plan.targets}
    weights = {name: parameter for name, (parameter, _) in task.targets().items()}
    adapters = {name: adapter_of(target) for name, target in targets.items()}  # while the model is still whole
    layers = _inject(task, {name: rank_at(method, target, client) for name, target in targets.items()}, method.scale)
    for name, target in targets.items():
        adapter = adapters[name]
        with torch.no_grad():
            for part, tensor in zip(("lora_A", "lora_B"), adapter, strict=True):
                _part(layers[name], part).copy_(tensor)
            start = weights[name].detach().cpu()
            weights[name].copy_(exchanged(target, start, method.scale, None, adapter))
    try:
        yield LoRATraining(layers, spec, trained)
    finally:
        for name, target in targets.items():
            layer = layers[name]
            task.model.set_submodule(_module_name(name), layer.get_submodule("base_layer"))
            with torch.no_grad():
                adapter = (_part(layer, "lora_A").detach(), _part(layer, "lora_B").detach())
                weights[name].copy_(exchanged(target, weights[name].detach(), method.scale, adapter, None))
            weights[name].requires_grad_(True)
        del task.model.peft_config


def _inject(task: TaskModel, ranks: Mapping[str, int], scale: float) -> dict[str, nn.Module]:
    """PEFT's layers by target name; the dense weights go on being trained."""
    import peft  # seconds, and only jobs with adapters need it

    modules = {_module_name(name): rank for name, rank in ranks.items()}
    patterns = {  # one a rank: PEFT tries each on each module
        f"^({'|'.join(re.escape(name) for name in modules if modules[name] == rank)})$": rank
        for rank in set(modules.values())
    }
    config = peft.LoraConfig(
        target_modules="|".join(patterns),
        rank_pattern=patterns,
        alpha_pattern={pattern: scale * rank for pattern, rank in patterns.items()},
        lora_dropout=0.0,
        init_lora_weights=False,
    )
    state = torch.get_rng_state()  # what PEFT draws is overwritten, and dropout must not depend on it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        peft.inject_adapter_in_model(config, task.model, ADAPTER)
    torch.set_rng_state(state)
    for parameter in task.dense().values():
        parameter.requires_grad_(True)
    return {name: task.model.get_submodule(_module_name(name)) for name in ranks}


def _module_name(weight: str) -> str:
    return weight.removesuffix(".weight")


def mean_adapters(targets: Sequence[Target], this: Round, parts: Sequence[str]) -> GroupResult:
    """`A + server_lr (sum_i p_i A_i - A)` and the same for B: the factors averaged apart."""
    result = GroupResult()
    for target in targets:
        for part in parts:
            name = f"{target.name}/{part}"
            mean, rate = this.mean(this.gather(target, part)).cpu(), this.spec.server.learning_rate
            result.aggregate[name] = mean if rate == 1 else torch.lerp(this.weights(name), mean, rate)
    return result


def apply_adapters(
    target: Target, spec: JobSpec, weights: Reader, aggregate: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weight with its adapter replaced by that of the aggregate, and the adapter."""
    old = read_adapter(target, weights)
    names = (f"{target.name}/lora_A", f"{target.name}/lora_B")
    new = (aggregate.get(names[0], old[0]), aggregate.get(names[1], old[1]))
    weight = exchanged(target, weights(target.name), lora_spec(spec).scale, new, old)
    return {target.name: weight, names[0]: new[0], names[1]: new[1]}


def scaled_products(targets: Sequence[Target], adapters: Sequence[Adapter], scale: float) -> tuple[Tensor, Tensor]:
    """`s B A` of one client for a group of targets, as oriented factors `(B, d, r)` and `(B, r, k)`."""
    lefts, rights = [], []
    for target, (first, second) in zip(targets, adapters, strict=True):
        left, right = product(target, second, scale * first)
        lefts.append(right.mT if target.tall else left)
        rights.append(left.mT if target.tall else right)
    return torch.stack(lefts), torch.stack(rights)


def client_products(targets: Sequence[Target], this: Round) -> tuple[list[Tensor], list[Tensor]]:
    """`scaled_products` of every client, on the device."""
    scale = lora_spec(this.spec).scale
    pairs = [
        scaled_products(targets, [read_adapter(target, client.read) for target in targets], scale)
        for client in this.clients
    ]
    return [left.to(this.device) for left, _ in pairs], [right.to(this.device) for _, right in pairs]
