"""What PEFT needs of a job's LoRA adapter: the modules that are saved whole, the configuration, a README.

A module that a change of low rank cannot describe is saved whole, by PEFT's `modules_to_save`. These are the head,
modules that train and are no linear layers, such as experts or a BatchNorm, and modules that the base model's files
lack, such as a pooler: a user's `from_pretrained(base)` would draw other weights for them than this job has drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from coordinator.models.checkpoint import StoredTensor
from coordinator.state.errors import NoAdapter
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target, TrainingPlan
from fedgalore.spec.start import job_version

SAMPLES = 256  # values by which a tensor is recognised in other files
# PEFT has no task type for images. Without a task type its model passes all arguments on.
TASK_TYPES = {
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "image-classification": None,
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
}
AUTO_CLASSES = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "image-classification": "AutoModelForImageClassification",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
}
ADDED_BY_PEFT = dict.fromkeys(("SEQ_CLS", "TOKEN_CLS"), ("classifier", "score"))  # to `modules_to_save`


def modules_to_save(
    plan: TrainingPlan, first: Mapping[str, StoredTensor], base: Mapping[str, StoredTensor]
) -> list[str]:
    """Names for `modules_to_save`: the parts of the head, modules of what is no linear layer, and those that are new.

    New are modules with weights that the base model's files lack. A weight is recognised by its shape and values,
    because names differ by prefixes and by versions of transformers.

    Raises:
        NoAdapter: such a weight belongs to no module.
    """
    head = {item.name for item in plan.dense if item.head}
    known = {_sample(tensor) for tensor in base.values()}
    others = {item.name for item in plan.whole if item.name not in head} - layer_biases(plan)
    others |= {target.parameter for target in plan.targets if not target.is_wrappable}
    new = {name for name, tensor in first.items() if name not in head and _sample(tensor) not in {*known, None}}
    if loose := sorted(name for name in head | others | new if "." not in name):
        raise NoAdapter(
            f"{', '.join(loose)} belongs to no module of the model, so that PEFT has no place for it; "
            "download the whole model"
        )
    modules = {name.partition(".")[0] for name in head} | {module_of(name) for name in others | new}
    return sorted(name for name in modules if not is_below(module_of(name), modules))


def layer_biases(plan: TrainingPlan) -> set[str]:
    """Trained biases of layers that get factors: PEFT keeps those beside the factors, by `bias: all`."""
    layers = {module_of(target.name) for target in plan.targets if target.is_wrappable}
    return {item.name for item in plan.dense if item.name.endswith(".bias") and module_of(item.name) in layers}


def saved_modules(spec: JobSpec, named: list[str], tensors: Mapping[str, StoredTensor]) -> set[str]:
    """The modules whose path ends in a name of `named`: PEFT takes all of them, and needs the weights of each."""
    ends = (*named, *ADDED_BY_PEFT.get(TASK_TYPES[spec.model.task] or "", ()))
    modules = {module_of(name) for name in tensors}
    modules |= {
        ".".join(parts[:end]) for parts in (module.split(".") for module in modules) for end in range(1, len(parts))
    }
    return {module for module in modules if module.endswith(ends)}


def adapter_config(
    spec: JobSpec, ranks: Mapping[Target, int], rank: int, named: list[str], biased: bool
) -> dict[str, Any]:
    """`adapter_config.json` as PEFT reads it. Each alpha equals its rank, so that PEFT does not scale the factors.

    Args:
        ranks: of the matrices that have factors.
        rank: the requested rank.
        named: result of `modules_to_save`.
        biased: whether the adapter holds biases of those layers.
    """
    other_ranks = {module_of(target.name): used for target, used in ranks.items() if used != rank}
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[spec.model.task],
        "base_model_name_or_path": spec.model.source,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": other_ranks,
        "alpha_pattern": other_ranks,
        "target_modules": [module_of(target.name) for target in ranks],
        "modules_to_save": named or None,
        "fan_in_fan_out": any(target.fan_in_fan_out for target in ranks),
        "lora_dropout": 0.0,
        "bias": "all" if biased else "none",
        "inference_mode": True,
    }


def readme(spec: JobSpec, rounds: int, rank: int) -> str:
    """How the adapter is loaded, as Markdown; `rounds` of training are behind it."""
    auto = AUTO_CLASSES[spec.model.task]
    start = job_version(spec.model.source)
    origin = f": jobs download {start.job_id} --version {start.version}" if start else ""
    head = "" if spec.model.writes else ", ignore_mismatched_sizes=True"
    return f"""# {spec.name}: LoRA adapter of rank {rank}

What {rounds} rounds of federated training ({spec.method.kind}) changed in the base model, cut to rank {rank}.
`fedgalore.json` says how much of the change that keeps.

```python
from peft import PeftModel
from transformers import AutoConfig, {auto}

adapter = "."  # this folder
base = {spec.model.source!r}  # the model that the job started from, wherever you have it{origin}
model = {auto}.from_pretrained(base, config=AutoConfig.from_pretrained(adapter){head})
model = PeftModel.from_pretrained(model, adapter)
```
"""


def module_of(name: str) -> str:
    """The module of a weight; empty for a weight of the model itself."""
    return name.rpartition(".")[0]


def is_below(module: str, modules: set[str]) -> bool:
    """Whether `module` is, or lies in, any of `modules`."""
    return any(module == outer or module.startswith(f"{outer}.") for outer in modules)


def _sample(tensor: StoredTensor) -> tuple[tuple[int, ...], bytes] | None:
    """Shape and some values from the middle, by which a weight is recognised whatever its dtype.

    None for a buffer of whole numbers, which is never drawn at random.
    """
    if not tensor.is_float:
        return None
    middle = prod(tensor.shape) // 2
    return tensor.shape, tensor.floats(middle, middle + SAMPLES).tobytes()
