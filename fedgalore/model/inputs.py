"""Examples of a job as batches of a model's inputs: tokens of texts, pixels of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would fight with torch's

import torch
import transformers
from PIL import Image
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.data.images import ImageError, decode
from fedgalore.spec.job import JobSpec

IGNORED = -100  # label of a token that the loss leaves out
COLUMNS = {
    "sequence-classification": ("text", "label"),
    "causal-lm": ("prompt", "completion"),
    "image-classification": ("image", "label"),
}

Batch = dict[str, Tensor]


class TaskError(ValueError):
    """The model or an example does not fit the job; the message names the field and the remedy."""


class TextInputs:
    """Texts by the model's tokenizer: classes of texts, or answers to prompts."""

    def __init__(self, spec: JobSpec, tokenizer: Any, positions: int | None) -> None:
        """`positions`: tokens that the model takes at most; None: any number."""
        self.spec = spec
        self.tokenizer = tokenizer
        self.max_length = min(spec.data.max_length, tokenizer.model_max_length, positions or spec.data.max_length)

    @classmethod
    def load(cls, spec: JobSpec, folder: Path, model: Any) -> TextInputs:
        """Takes the tokenizer of a model's folder, and tells the model its padding token.

        Raises:
            TaskError: the folder has none, or it lacks words or an end token.
        """
        try:
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise TaskError(
                f"model.source: the folder has no tokenizer that transformers loads ({error}); add its files"
            ) from error
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise TaskError("model.source: the folder's tokenizer knows no words; add the tokenizer's files to it")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None or (spec.model.task == "causal-lm" and tokenizer.eos_token_id is None):
            raise TaskError("model.source: the folder's tokenizer has no eos_token; add it to tokenizer_config.json")
        model.config.pad_token_id = tokenizer.pad_token_id
        return cls(spec, tokenizer, getattr(model.config, "max_position_embeddings", None))

    def save(self, folder: Path) -> None:
        """Writes the tokenizer as `from_pretrained` reads it."""
        self.tokenizer.save_pretrained(folder)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Padded token tensors `(batch, length)`, int64; `labels` are classes `(batch,)`, or tokens as the input.

        Raises:
            TaskError: a label outside the job's classes.
        """
        if self.spec.model.task == "causal-lm":
            return self._answers(examples)
        tokens = self._tokens([e["text"] for e in examples], [e.get("text_pair") for e in examples])
        return tokens | {"labels": _classes(examples, self.spec)}

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


class ImageInputs:
    """Images by the model's image processor, which knows their size and their mean colours."""

    def __init__(self, spec: JobSpec, processor: Any) -> None:
        self.spec = spec
        self.processor = processor

    @classmethod
    def load(cls, spec: JobSpec, folder: Path, model: Any) -> ImageInputs:
        """Takes the image processor of a model's folder, and tries it out on the model.

        Raises:
            TaskError: the folder has none, or it makes other images than the model takes.
        """
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(
                str(folder), backend="pil", local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise TaskError(
                f"model.source: the folder has no image processor that transformers loads ({error}); "
                "add the model's preprocessor_config.json"
            ) from error
        inputs = cls(spec, processor)
        try:
            with torch.no_grad():
                model(**inputs._pixels([Image.new("RGB", (64, 48)), Image.new("RGB", (48, 64))]))
        except Exception as error:  # whatever the two come upon
            problem, *_ = str(error).split("\n")
            raise TaskError(
                f"model.source: the folder's image processor does not fit its model ({problem}); "
                "correct do_resize and the sizes in preprocessor_config.json"
            ) from error
        return inputs

    def save(self, folder: Path) -> None:
        """Writes the image processor as `from_pretrained` reads it."""
        self.processor.save_pretrained(folder)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Decodes the images: `pixel_values` `(batch, 3, height, width)`, float32; `labels` `(batch,)`, int64.

        Raises:
            TaskError: a damaged image, or a label outside the job's classes.
        """
        return self._pixels([_decoded(example) for example in examples]) | {"labels": _classes(examples, self.spec)}

    def _pixels(self, images: Sequence[Image.Image]) -> Batch:
        return dict(self.processor(images=images, return_tensors="pt"))


Inputs = TextInputs | ImageInputs


def load_inputs(spec: JobSpec, folder: Path, model: Any) -> Inputs:
    """What makes batches for the job's model, from the model's folder.

    Raises:
        TaskError: the folder does not hold what the task needs.
    """
    kind = ImageInputs if spec.model.task == "image-classification" else TextInputs
    return kind.load(spec, folder, model)


def _decoded(example: Example) -> Image.Image:
    try:
        return decode(Path(example["image"]))
    except ImageError as error:
        raise TaskError(f"row {example.get('row', '?')}: {error}") from error


def _classes(examples: Sequence[Example], spec: JobSpec) -> Tensor:
    return torch.tensor([label_index(example, spec) for example in examples])


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
    columns = COLUMNS[spec.model.task]
    for example in examples:
        if not all(column in example for column in columns):
            folder = "; or name a folder of images by class" if "image" in columns else ""
            raise TaskError(
                f"data: task {spec.model.task} needs the columns {' and '.join(columns)}; "
                f"name them in the agent's config{folder}"
            )
        if "label" in columns:
            label_index(example, spec)
