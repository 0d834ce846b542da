"""What a job takes: memory, disk and bytes of a site and of the coordinator, before anything is loaded. Without torch.

Shapes are exact; the coefficients are measured, and all of them stand here (docs/SIZING.md says how and on what). Sizes
are in bytes, times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from fedgalore.chain import MOST_CUTS
from fedgalore.spec.amounts import size
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import (
    aggregate_tensors,
    kept_tensors,
    residue_tensors,
    size_bytes,
    state_tensors,
    update_tensors,
    weights_tensors,
)
from fedgalore.spec.plan import Target, TrainingPlan
from fedgalore.spec.registry import methods
from fedgalore.spec.relief import Doing, relief

Parts = Mapping[str, int]  # bytes by what they are for

GB = 10**9
LIBRARIES = 8 * GB // 10  # Python, torch, transformers and the data of a small site, on a CPU
CUDA_HOST, CUDA_DEVICE = 3 * GB, GB // 2  # the same with CUDA, and what its context takes of the device
SCRATCH = 3.0  # of the largest matrix, float32: its gradient, its step, and a copy while it is decoded
KEPT = 1.4  # what a pass keeps for the way back, of the inputs and outputs of linear layers
BLOCK = 3.6  # the same of one block that is computed again, with the gradients on its way back
FORWARD = 1.5  # the same of one block in a pass without a way back
LOGITS = 3.3  # of a token's logits: they, their logarithms, their gradient
AGGREGATOR = 4 * GB // 10
LOADED_BACK = 1.0  # bytes a parameter while the aggregator loads the final model back, or evaluates a version itself
AGGREGATION_S, CLIENT_S = 8e-9, 4e-10  # a trained parameter, and for each client


@dataclass(frozen=True)
class SiteNeeds:
    """Of one site: anonymous memory of the host, memory of the device, disk of the work folder, bytes on the line.

    `device` is empty on a CPU. `download`: before the first round; `down`, `up`: in each round.
    """

    host: Parts
    device: Parts
    disk: Parts
    download: int
    down: int
    up: int

    @property
    def memory(self) -> Parts:
        """Where the model lies."""
        return self.device or self.host


@dataclass(frozen=True)
class CoordinatorNeeds:
    """Of the coordinator and its aggregator; `seconds`: an aggregation on two cores. Bytes on the line: of a round."""

    memory: Parts
    disk: Parts
    seconds: float
    down: int
    up: int


def site_needs(
    spec: JobSpec, plan: TrainingPlan, base_bytes: int, longest: int = 0, *, on_gpu: bool = False
) -> SiteNeeds:
    """What a site needs for a job.

    Args:
        base_bytes: of the base model's files, or of those that the site lacks.
        longest: characters of the site's longest text; 0: nobody knows.
    """
    model = {**_without_texts(spec, plan), "activations": TextMemory.of(spec, plan).passes(spec, longest)[0].size_bytes}
    up = size_bytes(update_tensors(spec, plan, _A_CLIENT, _LATER))
    disk = {
        "base model": base_bytes,
        "the version": size_bytes(weights_tensors(spec, plan, _LATER)),
        "what the site keeps": 2 * size_bytes(kept_tensors(spec, plan, _A_CLIENT)),  # while the next one is written
        "cuts and states": MOST_CUTS * _down(spec, plan, 1),
        "an update": up,
    }
    return SiteNeeds(
        host={"Python, torch, CUDA": CUDA_HOST, "a matrix": 4 * _largest(plan)}
        if on_gpu
        else {"Python and torch": LIBRARIES, **model},
        device={"CUDA": CUDA_DEVICE, **model} if on_gpu else {},
        disk=_some(disk),
        download=base_bytes,
        down=_down(spec, plan, 1),
        up=up,
    )


@dataclass(frozen=True)
class TextMemory:
    """What a token takes in a pass: of training, and of an evaluation."""

    trained: int = 0
    evaluated: int = 0

    @classmethod
    def of(cls, spec: JobSpec, plan: TrainingPlan) -> TextMemory:
        """That of images is not foreseen."""
        if spec.model.task == "image-classification":
            return cls()
        shape, width = plan.shape, 2 if spec.local.precision == "bfloat16" else 4
        block = shape.inner / max(1, shape.blocks)
        kept = KEPT * shape.inner
        if spec.local.activation_checkpointing and shape.blocks:
            kept = shape.blocks * shape.between + BLOCK * block
        logits = 4 * LOGITS * shape.outputs
        return cls(round(width * kept + logits), round(width * FORWARD * block + logits))

    def passes(self, spec: JobSpec, longest: int) -> list[TextPass]:
        """Of a site whose texts have so many characters; 0: nobody knows. The pass that takes the most comes first."""
        local, tokens = spec.local, tokens_of(spec, longest)
        trained = TextPass("training", local.rows_of_a_pass, self.trained * tokens)
        evaluated = TextPass("evaluating", spec.rows_of_an_evaluation, self.evaluated * tokens)
        return sorted((trained, evaluated), key=lambda each: -each.size_bytes)


class TextPass(NamedTuple):
    """Rows that go through the model together, and what each of them takes."""

    doing: Doing
    rows: int
    row_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class SiteMemory:
    """What a job's model takes at a site: without texts, on a CPU or on a GPU, and of texts."""

    cpu: int = 0
    gpu: int = 0
    texts: TextMemory = field(default_factory=TextMemory)

    @classmethod
    def of(cls, spec: JobSpec, plan: TrainingPlan) -> SiteMemory:
        model = sum(_without_texts(spec, plan).values())
        return cls(LIBRARIES + model, CUDA_DEVICE + model, TextMemory.of(spec, plan))

    def problem(self, spec: JobSpec, longest: int, memory_bytes: int, *, on_gpu: bool) -> str | None:
        """What is wrong with a site of so much memory and texts of so many characters, and what to do.

        None where the job fits.
        """
        alone, most = self.gpu if on_gpu else self.cpu, self.texts.passes(spec, longest)[0]
        if (needed := alone + most.size_bytes) <= memory_bytes:
            return None
        left = memory_bytes - alone
        way_out = relief(spec, most.doing, left // most.row_bytes) if left > 0 else relief(spec, "loading its model")
        return f"memory: the job needs about {size(needed)} here, and there are {size(memory_bytes)}; {way_out}"


def tokens_in_a_pass(spec: JobSpec, longest: int = 0) -> int:
    """Of training, on texts of at most `longest` characters; 0: nobody knows."""
    return spec.local.rows_of_a_pass * tokens_of(spec, longest)


def tokens_of(spec: JobSpec, longest: int) -> int:
    """Of a row. Hardly a text has more than two tokens a character; texts that share rows fill them."""
    most = spec.data.max_length
    return min(most, 2 * longest) if longest and not spec.local.packing else most


def coordinator_needs(spec: JobSpec, plan: TrainingPlan, base_bytes: int, clients: int) -> CoordinatorNeeds:
    """What a coordinator needs for a job with so many clients a round."""
    up, down = size_bytes(update_tensors(spec, plan, _A_CLIENT, _LATER)), _down(spec, plan, clients)
    disk = {
        "base model": base_bytes,
        "residue": size_bytes(residue_tensors(spec, plan)) if spec.method.cuts else 0,
        "cuts and states": MOST_CUTS * down,
        "a checkpoint": size_bytes(weights_tensors(spec, plan, _LATER)),
        "updates of a round": clients * up,
        "a download": base_bytes,
        "float32, while prepared or loaded back": 4 * (plan.shape.parameters + plan.trained_numbers),
    }
    return CoordinatorNeeds(
        memory={
            "Python, torch, servers": AGGREGATOR,
            "the model, at the job's end": round(LOADED_BACK * plan.shape.parameters),
        },
        disk=_some(disk),
        seconds=plan.trained_numbers * (AGGREGATION_S + CLIENT_S * clients),
        down=clients * down,
        up=clients * up,
    )


_A_CLIENT, _LATER = "client", 2  # whoever, in a round behind the first


def _without_texts(spec: JobSpec, plan: TrainingPlan) -> Parts:
    local, width = spec.local, weight_bytes(spec)
    gathers = local.rows_of_a_pass < local.batch_size or local.max_grad_norm is not None
    return _some(
        {
            "weights": width * plan.shape.parameters + (4 - width) * _dense(plan),
            "optimizer's states": 4 * _states(spec, plan),
            "gradients": width * (plan.trained_numbers if gathers else _dense(plan)),
            "a gradient and a step": round(4 * SCRATCH * _largest(plan)),
        }
    )


def weight_bytes(spec: JobSpec) -> int:
    """Of a weight of a matrix in memory; what is trained whole is in float32."""
    return 2 if spec.local.weights == "bfloat16" else 4


def _states(spec: JobSpec, plan: TrainingPlan) -> int:
    """Numbers that the optimizer keeps from step to step."""
    adapters = methods()[spec.method.kind].trains == "linear"
    targets = sum(_states_of(spec, target, adapters) for target in plan.targets)
    return targets + 2 * _dense(plan)


def _dense(plan: TrainingPlan) -> int:
    return sum(prod(item.shape) for item in plan.dense)


def _states_of(spec: JobSpec, target: Target, adapters: bool) -> int:
    d, k, rank = target.d, target.k, spec.method.rank_at(target, _A_CLIENT)
    if not rank:
        return 2 * d * k
    if adapters:
        return 4 * rank * (d + k)  # an adapter, its gradient, two moments
    return 2 * rank * d + 4 * rank * k  # two bases; two moments, those received, and what moved


def _down(spec: JobSpec, plan: TrainingPlan, clients: int) -> int:
    """Of a round, to each client."""
    names = [f"{_A_CLIENT}-{number}" for number in range(clients)]
    cut = size_bytes(aggregate_tensors(spec, plan, names, _LATER))
    return cut + size_bytes(state_tensors(spec, plan, _LATER))


def _largest(plan: TrainingPlan) -> int:
    return max((prod(item.shape) for item in plan.trained), default=0)


def _some(parts: Parts) -> Parts:
    return {name: size for name, size in parts.items() if size}
