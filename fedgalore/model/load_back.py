"""A model's folder, loaded back as a user would load it: it has to answer as the model that was trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from fedgalore.model.culprits import short
from fedgalore.model.generation import arguments, settings_of
from fedgalore.model.inputs import Batch
from fedgalore.model.probe import NEW_TOKENS, plain_examples, plain_questions
from fedgalore.model.task import LOADING, TaskModel
from fedgalore.model.tasks.face import Inputs
from fedgalore.model.tasks.writing import WritingTask
from fedgalore.model.texts import TextInputs
from fedgalore.model.widened import widened
from fedgalore.process.memory import is_short

TEXTS = ("some words, and a number: 42", "Words in Capitals")
TOLERANCE = 1e-3  # of the largest logit: sums may be taken in another order
COARSE = 0.05  # where both sides were rounded to 16 bits, each in its own way


@dataclass(frozen=True)
class Answers:
    """What a model says of plain inputs, and how it reads them. It is known again by that."""

    auto_model: Any  # of transformers
    inputs: Inputs
    batch: Batch
    logits: Tensor  # float32
    written: Written | None  # None where the model writes nothing


@dataclass(frozen=True)
class Written:
    """What a model writes behind plain questions, in float32, and by which settings."""

    questions: Batch
    tokens: Tensor
    settings: Mapping[str, Any]


def answers(task: TaskModel) -> Answers:
    """The answers of a download of what `task` holds, whose trained weights are rounded as a download's are."""
    with tempfile.TemporaryDirectory() as folder:
        batch = task.task.model_inputs(task.collate(plain_examples(task, Path(folder))))
    task.round_weights()
    logits = logits_of(task.model, batch)
    return Answers(task.task.auto_model, task.inputs, batch, logits, _written(task))


def difference(folder: Path, expected: Answers) -> str | None:
    """What tells the model in a folder from the trained one, in words; None where they are alike.

    Holds one model in memory.

    Raises:
        Exception: there is too little memory for it (`fedgalore.process.memory`).
    """
    try:
        return next(_differences(folder, expected), None)
    except Exception as error:  # whatever its user would come upon
        if is_short(error):
            raise
        return f"it does not load, or does not run ({short(error)})"


def logits_of(model: Any, batch: Batch) -> Tensor:
    """A model's answers, in its own arithmetic; float32 on the CPU. A model that draws draws the same each time."""
    model.eval()
    taken = {name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(0)
        logits: Tensor = model(**taken).logits.float().cpu()
    return logits


def far(logits: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> str | None:
    """By how much answers differ, in words; None where it is no more than rounding."""
    if logits.shape != expected.shape:
        return f"its answers have the shape {tuple(logits.shape)} in place of {tuple(expected.shape)}"
    finite = torch.isfinite(expected)  # a model may rule answers out by an infinite logit
    if not torch.equal(torch.isfinite(logits), finite):
        return "other answers of it are infinite, or no numbers"
    largest = float(expected[finite].abs().max()) if finite.any() else 0.0
    gap = float((logits - expected)[finite].abs().max()) if finite.any() else 0.0
    if gap <= tolerance * max(1.0, largest):
        return None
    return f"its logits differ by up to {gap:.3g} from those of the trained model, which reach {largest:.3g}"


def _differences(folder: Path, expected: Answers) -> Iterator[str]:
    yield from _of_inputs(folder, expected.inputs)
    model = _loaded(folder, expected)
    if expected.written is not None:
        yield from _of_settings(model, expected.written)
    logits = logits_of(model, expected.batch)
    if not bool(torch.isfinite(logits).all()) and bool(torch.isfinite(expected.logits).all()):
        yield f"in {model.dtype} its answers are not finite; take model.dtype: float32"
    if model.dtype != torch.float32:  # whose arithmetic is coarser than what is to be told apart
        del model
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            values = widened(folder, Path(beside) / "float32")
            model = _loaded(values or folder, expected, dtype=torch.float32)
        logits = logits_of(model, expected.batch)
    if words := far(logits, expected.logits):
        yield words
    # Where sums were taken in another order, a word that is as likely as another may take its place.
    if expected.written is not None and torch.equal(logits, expected.logits):
        yield from _of_writing(model, expected.written)


def _loaded(folder: Path, expected: Answers, **options: Any) -> Any:
    with LOADING:
        model, loaded = expected.auto_model.from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True, **options
        )
    if new := sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}):
        raise ValueError(f"{len(new)} weights would be drawn anew, such as {new[0]}")
    return model.to(next(iter(expected.batch.values())).device)


def _of_inputs(folder: Path, inputs: Inputs) -> Iterator[str]:
    if isinstance(inputs, TextInputs):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        for text in TEXTS:
            if tokenizer(text)["input_ids"] != inputs.tokenizer(text)["input_ids"]:
                yield f"its tokenizer reads {text!r} otherwise"
        if tokenizer.chat_template != inputs.tokenizer.chat_template:
            yield "its chat template is another"
        return
    processor = transformers.AutoImageProcessor.from_pretrained(str(folder), backend="pil", local_files_only=True)
    image = Image.linear_gradient("L").convert("RGB")
    pixels = [each(images=[image], return_tensors="pt")["pixel_values"] for each in (processor, inputs.processor)]
    if not torch.equal(*pixels):
        yield "its image processor makes other pixels"


def _written(task: TaskModel) -> Written | None:
    if not isinstance(task.task, WritingTask):
        return None
    batch = plain_questions(task, task.task)
    return Written(batch, _tokens(task.model, batch), settings_of(task.model))


def _tokens(model: Any, batch: Batch) -> Tensor:
    """As an evaluation lets a model write; on the CPU."""
    model.eval()
    with torch.no_grad():
        tokens: Tensor = model.generate(**batch, **arguments(NEW_TOKENS)).cpu()
    return tokens


def _of_settings(model: Any, written: Written) -> Iterator[str]:
    """`generate` runs, and goes by the same settings."""
    _tokens(model, written.questions)
    said = settings_of(model)
    for name in sorted(said.keys() | written.settings.keys()):
        if said.get(name) != written.settings.get(name):
            yield f"its generation_config.json sets {name} to {said.get(name)} in place of {written.settings.get(name)}"


def _of_writing(model: Any, written: Written) -> Iterator[str]:
    if not torch.equal(_tokens(model, written.questions), written.tokens):
        yield "it writes another answer to a plain question"
