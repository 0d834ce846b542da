"""A job's model on one machine: which weights are trained, how examples become batches, what the metrics are.

Works with any Hugging Face model for sequence classification or causal language modelling.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would fight with torch's

import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedgalore.job_spec import JobSpec
from fedgalore.plan import Dense, Target, TrainingPlan, ends_in, rank_of_module
from fedgalore.seeding import derive_seed

IGNORED = -100  # label of a token that the loss leaves out
MISSING_SHARE = 0.1  # of the weights may be new (heads, poolers); with more, the folder holds another model
SHORT = 128  # tokens up to which plain attention is the faster one in bfloat16 on a CPU

GROUPED_BATCHES = 8  # among which `group_by_length` sorts

Example = Mapping[str, Any]  # as fedgalore.data reads it
Batch = dict[str, Tensor]


class TaskError(ValueError):
    """The model or an example does not fit the job; the message names the field and the remedy."""


class TaskModel:
    """Model and tokenizer of one job, with its trained weights by name.

    `model` is in float32; `plan` lists the trained weights. Everything else is frozen.
    """

    def __init__(self, spec: JobSpec, model: nn.Module, tokenizer: Any, device: torch.device) -> None:
        self.spec = spec
        self.model = model.to(device)
        self._pretrained: Any = model
        self.tokenizer = tokenizer
        self.device = device
        self.plan = training_plan(model, spec)
        positions = getattr(getattr(model, "config", None), "max_position_embeddings", None) or spec.data.max_length
        self.max_length = min(spec.data.max_length, tokenizer.model_max_length, positions)
        self._parameters = dict(model.named_parameters())
        trained = self.plan.weights()
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in trained)

    @classmethod
    def load(cls, spec: JobSpec, folder: Path, device: torch.device | None = None) -> TaskModel:
        """Builds the model from a folder with config, tokenizer and safetensors weights.

        New weights, such as the head, are drawn from the job's seed, so every site would draw the same.

        Raises:
            TaskError: the folder does not hold a model that fits the job.
        """
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.manual_seed(derive_seed(spec.seed, "new weights"))
        options: dict[str, Any] = {}
        on_cpu = device is None or device.type == "cpu"
        if on_cpu and spec.local.precision == "bfloat16" and spec.data.max_length <= SHORT:
            options["attn_implementation"] = "eager"  # the fused one's backward pass takes half of such a step
        if spec.model.task == "sequence-classification":
            names = spec.model.label_names or tuple(f"LABEL_{i}" for i in range(spec.model.labels))
            options["id2label"] = dict(enumerate(names))
            options["label2id"] = {name: i for i, name in enumerate(names)}
            auto: Any = transformers.AutoModelForSequenceClassification
        else:
            auto = transformers.AutoModelForCausalLM
        try:
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model, loaded = auto.from_pretrained(
                str(folder),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # a head for other classes is replaced
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise TaskError(
                f"model.source: not a folder that transformers loads for {spec.model.task}: {error}"
            ) from error
        missing = len(loaded["missing_keys"]) + len(loaded["mismatched_keys"])
        if missing > MISSING_SHARE * len(list(model.parameters())):
            raise TaskError(
                f"model.source: {missing} weights of {type(model).__name__} are not in the folder, "
                "or of another shape; is it the right model?"
            )
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise TaskError("model.source: the folder's tokenizer knows no words; add the tokenizer's files to it")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None or (spec.model.task == "causal-lm" and tokenizer.eos_token_id is None):
            raise TaskError("model.source: the folder's tokenizer has no eos_token; add it to tokenizer_config.json")
        model.config.pad_token_id = tokenizer.pad_token_id
        return cls(spec, model, tokenizer, device or torch.device("cpu"))

    def weights(self) -> dict[str, Tensor]:
        """Copies of the trained weights, on the CPU."""
        return {name: self.weight(name).clone() for name in self.plan.weights()}

    def weight(self, name: str) -> Tensor:
        """One trained weight on the CPU, where it may share memory with the model."""
        return self._parameters[name].detach().cpu()

    def save(self, folder: Path) -> None:
        """Writes model and tokenizer as `from_pretrained` reads them."""
        self._pretrained.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Sets the trained weights.

        Raises:
            TaskError: a weight is missing or has another shape.
        """
        with torch.no_grad():
            for name, expected in self.plan.weights().items():
                if name not in weights or tuple(weights[name].shape) != expected.shape:
                    raise TaskError(
                        f"weights: {name} is missing or not of shape {expected.shape}; this job has another model"
                    )
                self._parameters[name].copy_(weights[name])

    def targets(self) -> dict[str, tuple[nn.Parameter, int]]:
        return {target.name: (self._parameter(target.name), target.rank) for target in self.plan.targets}

    def dense(self) -> dict[str, nn.Parameter]:
        return {item.name: self._parameter(item.name) for item in self.plan.dense}

    def _parameter(self, name: str) -> nn.Parameter:
        return self._parameters[name]

    # --- examples -> batches ---------------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Examples as padded token tensors `(batch, length)`; `labels` are classes `(batch,)` or tokens as the input.

        Raises:
            TaskError: a label outside the job's classes.
        """
        if self.spec.model.task == "sequence-classification":
            batch = self._tokens([e["text"] for e in examples], [e.get("text_pair") for e in examples])
            batch["labels"] = torch.tensor([label_index(example, self.spec) for example in examples])
        else:
            batch = self._answers(examples)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _tokens(self, texts: list[str], pairs: list[str | None]) -> Batch:
        second = None if pairs[0] is None else pairs
        encoded = self.tokenizer(
            texts, second, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
        )
        return dict(encoded)

    def _answers(self, examples: Sequence[Example]) -> Batch:
        """Prompt and completion as one sequence; only the completion and the end token count in the loss."""
        sequences, labels = [], []
        limit = self.max_length
        for example in examples:
            answer = self.tokenizer(example["completion"], add_special_tokens=False)["input_ids"]
            answer = (answer + [self.tokenizer.eos_token_id])[:limit]
            prompt = self.tokenizer(example["prompt"])["input_ids"]
            prompt = prompt[max(0, len(prompt) + len(answer) - limit) :]  # its end is nearest to the answer
            sequences.append(prompt + answer)
            labels.append([IGNORED] * len(prompt) + answer)
        length = max(map(len, sequences))
        padding = self.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([s + [padding] * (length - len(s)) for s in sequences]),
            "attention_mask": torch.tensor([[1] * len(s) + [0] * (length - len(s)) for s in sequences]),
            "labels": torch.tensor([row + [IGNORED] * (length - len(row)) for row in labels]),
        }

    # --- loss and metrics ------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> tuple[Tensor, int, int]:
        """Mean cross entropy, how many predictions it averages, how many of them were right."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.local.precision == "bfloat16"):
            logits = self.model(**inputs).logits
        labels = batch["labels"]
        if labels.dim() == 2:  # a token is predicted from those before it
            keep = labels[:, 1:] != IGNORED
            logits, labels = logits[:, :-1][keep], labels[:, 1:][keep]
        logits = logits.float()
        right = int((logits.argmax(-1) == labels).sum())
        return F.cross_entropy(logits, labels), labels.numel(), right


def label_index(example: Example, spec: JobSpec) -> int:
    """The example's label as a class index.

    Raises:
        TaskError: not one of the job's classes; names the row, the value and what is allowed.
    """
    label, names, row = example["label"], spec.model.label_names, example.get("row", "?")
    if names is not None and label in names:
        return names.index(label)
    try:
        index = int(label)
    except (TypeError, ValueError):
        known = (
            f"one of {', '.join(names)}"
            if names
            else f"a number from 0 to {spec.model.labels - 1}, or set model.label_names"
        )
        raise TaskError(f"row {row}: label {label!r} is not a class of this job; expected {known}") from None
    if not 0 <= index < spec.model.labels:
        raise TaskError(
            f"row {row}: label {index} is outside the range 0 to {spec.model.labels - 1}; "
            "correct the data or the job's model.num_labels"
        )
    return index


def check_examples(examples: Sequence[Example], spec: JobSpec) -> None:
    """Refuses a split before any work is done on it.

    Raises:
        TaskError: the examples are of another task, or a label is outside the job's classes.
    """
    if not examples:
        raise TaskError("data: there are no examples; check the file that the agent's config names")
    wanted = "label" if spec.model.task == "sequence-classification" else "completion"
    for example in examples:
        if wanted not in example:
            columns = "text and label" if wanted == "label" else "prompt and completion"
            raise TaskError(
                f"data: task {spec.model.task} needs the columns {columns}; name them in the agent's config"
            )
        if wanted == "label":
            label_index(example, spec)


def batches(examples: Sequence[Example], spec: JobSpec, client: str, round_number: int) -> Iterator[list[Example]]:
    """`local.steps` batches of one round: passes over the shard, each in an order of its own.

    Depends on the job's seed, the client and the round alone, so a restarted agent draws the same batches.
    """
    generator = torch.Generator().manual_seed(derive_seed(spec.seed, "batches", client, round_number))
    size = spec.local.batch_size
    order: list[int] = []
    ready: list[list[int]] = []
    for _ in range(spec.local.steps):
        while not ready:
            order += torch.randperm(len(examples), generator=generator).tolist()
            full = len(order) - len(order) % size
            ready, order = _cut(order[:full], examples, spec, generator), order[full:]
        yield [examples[index] for index in ready.pop(0)]


def _cut(order: list[int], examples: Sequence[Example], spec: JobSpec, generator: torch.Generator) -> list[list[int]]:
    """A multiple of `batch_size` indices as batches; with `group_by_length` of like lengths, in mixed order."""
    size = spec.local.batch_size
    if not spec.local.group_by_length:
        return [order[start : start + size] for start in range(0, len(order), size)]
    cut: list[list[int]] = []
    for start in range(0, len(order), GROUPED_BATCHES * size):
        window = sorted(order[start : start + GROUPED_BATCHES * size], key=lambda index: text_length(examples[index]))
        batches = [window[first : first + size] for first in range(0, len(window), size)]
        cut += [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
    return cut


def text_length(example: Example) -> int:
    """Characters of an example's texts."""
    return sum(len(example.get(key) or "") for key in ("text", "text_pair", "prompt", "completion"))


def training_plan(model: nn.Module, spec: JobSpec) -> TrainingPlan:
    """Which weights a job trains.

    Targets: matrices of linear layers in the model's backbone, or those whose module name ends in one of
    `method.target_modules`. Dense: everything in the head of a classifier, the part of the model that the backbone does
    not hold.

    Raises:
        TaskError: `target_modules` or `rank_pattern` matches nothing, or a rank exceeds a target's smaller side.
    """
    prefix = getattr(model, "base_model_prefix", "")
    backbone = getattr(model, prefix, model) if prefix else model
    in_backbone = {id(parameter) for parameter in backbone.parameters()}
    layers = {id(module) for module in backbone.modules()}
    wanted = spec.method.target_modules
    targets, dense, seen = [], [], set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or id(module.weight) in seen:
            continue
        if wanted is not None and not any(ends_in(name, suffix) for suffix in wanted):
            continue
        if id(module) not in layers:  # an output layer may share its weight with the backbone's embeddings
            continue
        seen.add(id(module.weight))
        rows, columns = module.weight.shape
        rank = rank_of_module(spec.method, name)
        largest = max([rank, *getattr(spec.method, "client_ranks", {}).values()])
        if largest > min(rows, columns):
            raise TaskError(
                f"method.rank: {largest} exceeds the smaller side of {name}.weight ({rows} x {columns}); "
                f"take at most {min(rows, columns)}, or leave that layer out by method.target_modules"
            )
        targets.append(Target(f"{name}.weight", (rows, columns), rank, isinstance(module, Conv1D)))
    if not targets:
        raise TaskError(
            f"method.target_modules: no linear layer of this model's backbone ends in {', '.join(wanted)}"
            if wanted
            else "model.source: this model has no linear layer that could be trained in a subspace"
        )
    for suffix in getattr(spec.method, "rank_pattern", {}):
        if not any(ends_in(target.name.removesuffix(".weight"), suffix) for target in targets):
            raise TaskError(f"method.rank_pattern: {suffix!r} is the end of no trained module's name")
    if spec.model.task != "causal-lm":
        for name, parameter in model.named_parameters():
            if id(parameter) not in in_backbone:
                dense.append(Dense(name, tuple(parameter.shape)))
    return TrainingPlan(tuple(targets), tuple(dense))
