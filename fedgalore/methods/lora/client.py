"""Training of adapters: PEFT's layers around the targets, AdamW on what moves."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from fedgalore.methods.halves import ClientHalf, LocalTraining, Moved, Packed
from fedgalore.methods.lora.adapters import Adapter, exchanged, start_adapter
from fedgalore.methods.lora.layout import lora_spec
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.rounds import LocalRound
from fedgalore.spec.plan import Target

ADAPTER = "default"


class AdaptersClient(ClientHalf):
    """Trains the adapters that the model version holds."""

    parts: Sequence[str] = ("lora_A", "lora_B")  # that move

    def check(self, task: TaskModel) -> None:
        with _wrapped(task, {target.name: target.rank for target in task.plan.targets}):
            pass

    def train(self, round: LocalRound) -> AbstractContextManager[LocalTraining]:
        return lora_training(round, self.parts, lambda target: start_adapter(target, round.start))


class LoRATraining(LocalTraining):
    """AdamW on the adapters; `trained` names their parts that move: "lora_A", "lora_B"."""

    decay = 1.0  # weight decay is on the adapters

    def __init__(self, layers: Mapping[str, nn.Module], round: LocalRound, trained: Sequence[str]) -> None:
        self._trained = trained
        self._layers = layers
        self._starts = {name: {part: _start(layer, part) for part in trained} for name, layer in layers.items()}
        parameters = []
        for layer in layers.values():
            for part in ("lora_A", "lora_B"):
                weight = _part(layer, part)
                weight.requires_grad_(part in trained)
                parameters += [weight] * (part in trained)
        local = round.spec.local
        self._optimizer = torch.optim.AdamW(
            parameters, lr=round.rates.targets, betas=local.betas, eps=local.eps, weight_decay=local.weight_decay
        )

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def moved(self, target: Target) -> Sequence[Moved]:
        layer, starts = self._layers[target.name], self._starts[target.name]
        return [Moved(_part(layer, part), starts[part].double) for part in self._trained]

    def packed(self, target: Target) -> Packed:
        layer = self._layers[target.name]
        return Packed({part: _part(layer, part).detach().clone() for part in self._trained})


def _start(layer: nn.Module, part: str) -> Tensor:
    return _part(layer, part).detach().clone()


def _part(layer: nn.Module, part: str) -> nn.Parameter:
    weight = layer.get_parameter(f"{part}.{ADAPTER}.weight")
    assert isinstance(weight, nn.Parameter)
    return weight


@contextmanager
def lora_training(
    round: LocalRound, trained: Sequence[str], adapter_of: Callable[[Target], Adapter]
) -> Iterator[LocalTraining]:
    """PEFT's layers around the targets of the task, each with the adapter to start from, taken out of its weight.

    At the exit the layers are gone and the weights hold what the adapters became.
    """
    task, method = round.task, lora_spec(round.spec)
    targets = {target.name: target for target in task.plan.targets}
    weights = {name: parameter for name, (parameter, _) in task.targets().items()}
    adapters = {name: adapter_of(target) for name, target in targets.items()}  # while the model is still whole
    ranks = {name: method.rank_at(target, round.client) for name, target in targets.items()}
    with _wrapped(task, ranks) as layers:
        for name, target in targets.items():
            adapter = adapters[name]
            with torch.no_grad():
                for part, tensor in zip(("lora_A", "lora_B"), adapter, strict=True):
                    _part(layers[name], part).copy_(tensor)
                start = weights[name].detach().cpu()
                weights[name].copy_(exchanged(target, start, method.scale, None, adapter))
        try:
            yield LoRATraining(layers, round, trained)
        finally:
            for name, target in targets.items():
                with torch.no_grad():
                    adapter = (_part(layers[name], "lora_A").detach(), _part(layers[name], "lora_B").detach())
                    weights[name].copy_(exchanged(target, weights[name].detach(), method.scale, adapter, None))


@contextmanager
def _wrapped(task: TaskModel, ranks: Mapping[str, int]) -> Iterator[dict[str, nn.Module]]:
    """PEFT's layers around targets, by target name; at the exit they are gone, however many there were.

    Raises:
        TaskError: as `_inject`.
    """
    from peft.tuners.lora import LoraLayer  # seconds, and only jobs with adapters need it

    try:
        yield _inject(task, ranks, lora_spec(task.spec).scale)
    finally:
        wrapped = [name for name, layer in task.model.named_modules() if isinstance(layer, LoraLayer)]
        for name in reversed(wrapped):  # the innermost first: parts of experts lie in one another
            task.model.set_submodule(name, task.model.get_submodule(f"{name}.base_layer"))
        for parameter in task.trained().values():
            parameter.requires_grad_(True)
        vars(task.model).pop("peft_config", None)


def _inject(task: TaskModel, ranks: Mapping[str, int], scale: float) -> dict[str, nn.Module]:
    """PEFT's layers by target name; the dense weights go on being trained.

    Raises:
        TaskError: PEFT refuses the targets, or leaves one without an adapter.
    """
    import peft

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
        warnings.simplefilter("ignore", RuntimeWarning)  # of what has no adapter, which is refused below
        try:
            peft.inject_adapter_in_model(config, task.model, ADAPTER)
        except ValueError as error:
            raise TaskError(f"method.target_modules: PEFT puts no adapters there ({error}); name others") from error
    torch.set_rng_state(state)
    for parameter in task.dense().values():
        parameter.requires_grad_(True)
    layers = {name: task.model.get_submodule(_module_name(name)) for name in ranks}
    if bare := [name for name, layer in layers.items() if not isinstance(layer, peft.tuners.lora.LoraLayer)]:
        # Of some models with experts, PEFT takes layers of these names for parts of the experts.
        raise TaskError(
            f"method.target_modules: PEFT puts no adapter around {_module_name(bare[0])} of this model; name modules "
            "without it, or take method.kind: fedgalore"
        )
    return layers


def _module_name(weight: str) -> str:
    return weight.removesuffix(".weight")
