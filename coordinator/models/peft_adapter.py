"""What PEFT wants to know of a job's LoRA adapter: which modules go along whole, its configuration, its README.

Modules that no change of low rank describes go along whole, by PEFT's `modules_to_save`: the head, and what is not in
the base model's files. A user's `from_pretrained(base)` would draw such weights anew (a pooler, say), other ones than
this job has drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from coordinator.models.checkpoint import Stored
from coordinator.state.errors import NoAdapter
from coordinator.state.round_state import ModelVersion
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target, TrainingPlan

SAMPLES = 256  # values by which a tensor is known again in other files
# PEFT has no task for images; without one its model passes on whatever it is called with.
TASK_TYPES = {"sequence-classification": "SEQ_CLS", "causal-lm": "CAUSAL_LM", "image-classification": None}
AUTO_CLASSES = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
}
PEFTS_OWN = {"SEQ_CLS": ("classifier", "score")}  # what PEFT adds to `modules_to_save` by itself


def modules_to_save(plan: TrainingPlan, first: Mapping[str, Stored], base: Mapping[str, Stored]) -> list[str]:
    """Names for `modules_to_save`: the parts of the head, and modules with weights that the base model's files lack.

    Names in the two may differ by prefixes and by a library's version, so a weight is known by its shape and values.

    Raises:
        NoAdapter: such a weight is in no module.
    """
    head = {item.name for item in plan.dense}
    known = {_sample(tensor) for tensor in base.values()}
    new = {name for name, tensor in first.items() if name not in head and _sample(tensor) not in {*known, None}}
    if loose := sorted(name for name in head | new if "." not in name):
        raise NoAdapter(
            f"{', '.join(loose)} belongs to no module of the model, so that PEFT cannot carry it; "
            "download the whole model instead"
        )
    modules = {name.partition(".")[0] for name in head} | {module_of(name) for name in new}
    return sorted(name for name in modules if not is_below(module_of(name), modules))


def saved_modules(spec: JobSpec, named: list[str], tensors: Mapping[str, Stored]) -> set[str]:
    """The modules that PEFT takes `named` to mean, which are all whose path ends so; it wants every one's weights."""
    ends = (*named, *PEFTS_OWN.get(TASK_TYPES[spec.model.task] or "", ()))
    modules = {module_of(name) for name in tensors}
    modules |= {".".join(parts[:end]) for parts in (one.split(".") for one in modules) for end in range(1, len(parts))}
    return {module for module in modules if module.endswith(ends)}


def adapter_config(spec: JobSpec, ranks: Mapping[Target, int], rank: int, named: list[str]) -> dict[str, Any]:
    """`adapter_config.json` as PEFT reads it. Each alpha equals its rank: the factors go in as they are.

    Args:
        ranks: of the matrices that have factors; `rank` is the one asked for.
        named: what `modules_to_save` found.
    """
    own_rank = {module_of(target.name): own for target, own in ranks.items() if own != rank}
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[spec.model.task],
        "base_model_name_or_path": spec.model.source,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": own_rank,
        "alpha_pattern": own_rank,
        "target_modules": [module_of(target.name) for target in ranks],
        "modules_to_save": named or None,
        "fan_in_fan_out": any(target.fan_in_fan_out for target in ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def readme(spec: JobSpec, version: ModelVersion, rank: int) -> str:
    """How the adapter is loaded, as Markdown."""
    auto = AUTO_CLASSES[spec.model.task]
    head = "" if spec.model.task == "causal-lm" else ", ignore_mismatched_sizes=True"
    return f"""# {spec.name}: LoRA adapter of rank {rank}

What {version.version} rounds of federated training ({spec.method.kind}) changed in the base model, cut to rank {rank}.
`fedgalore.json` says how much of the change that keeps.

```python
from peft import PeftModel
from transformers import AutoConfig, {auto}

adapter = "."  # this folder
base = {spec.model.source!r}  # the model that the job started from, wherever you have it
model = {auto}.from_pretrained(base, config=AutoConfig.from_pretrained(adapter){head})
model = PeftModel.from_pretrained(model, adapter)
```
"""


def module_of(name: str) -> str:
    """The module that owns a weight; empty for a weight of the model itself."""
    return name.rpartition(".")[0]


def is_below(module: str, modules: set[str]) -> bool:
    """Whether one of `modules` is, or holds, this one."""
    return any(module == one or module.startswith(f"{one}.") for one in modules)


def _sample(tensor: Stored) -> tuple[tuple[int, ...], bytes] | None:
    """What tells one weight from another, whatever their dtypes: shape and some values from the middle.

    None for a buffer of whole numbers, which is never drawn.
    """
    middle = prod(tensor.shape) // 2
    values = tensor.floats(middle, middle + SAMPLES)
    return None if values is None else (tensor.shape, values.tobytes())
