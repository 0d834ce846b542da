"""A model is tried before any site is asked: on the longest text and the shortest, on images of every shape.

What a model cannot take is known in seconds then, and not in the middle of a round at a site.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.model.buffers import undone
from fedgalore.model.checkpointing import checkpointed
from fedgalore.model.culprits import short
from fedgalore.model.generation import check_room, setting_at_fault, written
from fedgalore.model.inputs import Batch, TaskError
from fedgalore.model.packing import in_rows
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.writing import WritingTask
from fedgalore.model.texts import TextInputs
from fedgalore.process.memory import is_short

SHORTEST = "a"  # sites refuse a text in which nothing can be read
SHORT = "a word"
UNEQUAL = ("a", "some more words, and then a few others")
NEW_TOKENS = 4  # that a model writes: the first after a prompt, the others after tokens of its own
DRAWS = 16  # of a step of training whose loss depends on nothing that is trained, as where all layers are dropped
LEAK = 1e-4  # of the largest logit: how far a later word may move it; sums may be taken in another order
LONGEST = 2048  # tokens that are tried; longer texts take minutes on a CPU
PLAIN = ((64, 48), (48, 64))
SHAPES = {"a landscape": (64, 48), "a portrait": (48, 64), "a tiny image": (3, 2), "a large image": (900, 700)}


def probe(task: TaskModel) -> None:
    """Runs the model once on inputs of every kind that a site may have; in training mode, it goes back too.

    The model, its buffers and torch's random state are afterwards as before.

    Raises:
        TaskError: the model fails on one of them, or answers with what is no number; says which, and what to do.
    """
    with undone(task.model), tempfile.TemporaryDirectory() as folder:
        before = _saved_buffers(task)
        for what, examples in _cases(task, Path(folder)):
            _forward(task, what, examples)
        _check_still(task, before)
        if isinstance(task.task, WritingTask):
            _check_order(task, task.task)
            _check_packing(task)
            _write(task, task.task)
        _backward(task, plain_examples(task, Path(folder)))


def probe_narrow(task: TaskModel) -> None:
    """Narrows the model and lets it answer, write and learn, where the job trains it in bfloat16. After `probe`.

    Raises:
        TaskError: it cannot.
    """
    if task.spec.local.weights == "float32":
        return
    task.narrow()
    try:
        with undone(task.model), tempfile.TemporaryDirectory() as folder:
            examples = plain_examples(task, Path(folder))
            _forward(task, "inputs of unequal sizes", examples)
            if isinstance(task.task, WritingTask):
                _write(task, task.task)
            _backward(task, examples)
    except TaskError as error:
        raise TaskError(f"local.weights: bfloat16 does not suit this model; leave it out ({error})") from error


def plain_examples(task: TaskModel, folder: Path) -> list[Example]:
    """Two examples that every model of the task can take; images are written into the folder."""
    if isinstance(task.inputs, TextInputs):
        return [_example(task, text) for text in UNEQUAL]
    return [_example(task, str(_image(folder / f"{number}.png", size))) for number, size in enumerate(PLAIN)]


def plain_questions(task: TaskModel, asks: WritingTask) -> Batch:
    """Two prompts of unequal lengths, for a model that writes."""
    assert isinstance(task.inputs, TextInputs)
    batch = asks.generation_inputs(UNEQUAL, task.inputs, max(1, task.inputs.max_length - NEW_TOKENS))
    return {name: tensor.to(task.device) for name, tensor in batch.items()}


def _cases(task: TaskModel, folder: Path) -> Iterator[tuple[str, list[Example]]]:
    """Inputs by what they are: plain ones, then others."""
    if isinstance(task.inputs, TextInputs):
        yield from _texts(task, task.inputs)
    else:
        yield from _images(task, folder)


def _texts(task: TaskModel, inputs: TextInputs) -> Iterator[tuple[str, list[Example]]]:
    yield "texts of unequal lengths", plain_examples(task, Path())
    yield "the shortest text", [_example(task, SHORTEST)]
    yield "the shortest text beside another", [_example(task, SHORTEST), _example(task, SHORT)]
    spelt = " ".join(inputs.tokenizer.all_special_tokens)
    yield "a text that spells the special tokens", [_example(task, spelt), _example(task, SHORT)]
    _check_length(task, inputs)


def _check_length(task: TaskModel, inputs: TextInputs) -> None:
    """Refuses a job whose longest texts the model does not take.

    Raises:
        TaskError: says how many tokens it takes.
    """
    asked = inputs.max_length
    works, fails = 0, min(asked, LONGEST) + 1
    text = [_example(task, "a " * 2 * fails)]
    try:
        inputs.max_length = fails - 1
        _forward(task, f"a text of {inputs.max_length} tokens", text)
    except TaskError as error:
        while fails - works > 1:
            inputs.max_length = (works + fails) // 2
            try:
                _forward(task, "", text)
                works = inputs.max_length
            except TaskError:
                fails = inputs.max_length
        if not works:
            raise
        raise TaskError(
            f"data.max_length: the model takes texts of at most {works} tokens; lower it to that"
        ) from error
    finally:
        inputs.max_length = asked


def _images(task: TaskModel, folder: Path) -> Iterator[tuple[str, list[Example]]]:
    yield "images of unequal shapes", plain_examples(task, folder)
    for what, size in SHAPES.items():
        yield what, [_example(task, str(_image(folder / "image.png", size)))]


def _image(path: Path, size: tuple[int, int]) -> Path:
    """Grey noise."""
    Image.effect_noise(size, 50).save(path)
    return path


def _example(task: TaskModel, content: str) -> Example:
    """An example of the task with this content, and a label that every such job has."""
    model = task.spec.model
    first = model.label_names[0] if model.label_names else 0
    labels: dict[str | None, Any] = {"multi_label": [], "regression": [0.0] * model.labels}
    words = content.split()
    values: dict[str, Any] = {
        "text": content,
        "prompt": content,
        "completion": SHORT,
        "image": content,
        "label": labels.get(model.problem_type, first),
        "tokens": words,
        "tags": [first] * len(words),
    }
    template = task.spec.data.template
    named = dict.fromkeys(template.columns, content) if template is not None else {}
    return {"row": 1, "columns": named, **{column: values[column] for column in task.task.columns[0]}}


def _forward(task: TaskModel, what: str, examples: Sequence[Example]) -> None:
    task.model.eval()
    with torch.no_grad(), _in_words(what):
        logits = task.outputs(task.collate(examples)).logits
        if bool(torch.isnan(logits).any()):
            raise ArithmeticError("its answer is not a number")


def _saved_buffers(task: TaskModel) -> dict[str, Tensor]:
    saved = task.model.state_dict().keys()
    return {name: buffer.clone() for name, buffer in task.model.named_buffers() if name in saved}


def _check_still(task: TaskModel, before: Mapping[str, Tensor]) -> None:
    """Refuses a model whose evaluations change it: what it answers would hang on what it was asked before."""
    for name, buffer in before.items():
        if not torch.equal(task.model.get_buffer(name), buffer):
            raise TaskError(
                f"model.source: an evaluation changes {name} of {type(task.model).__name__}, so that its answers hang "
                "on those before; take another model"
            )


def _check_order(task: TaskModel, asks: WritingTask) -> None:
    """Refuses a model in one piece whose tokens hang on those behind them: it would learn to copy what it predicts."""
    if asks.is_encoder_decoder:
        return
    assert isinstance(task.inputs, TextInputs)
    batch = {name: tensor[-1:] for name, tensor in plain_questions(task, asks).items()}  # the longest, not filled up
    ids = batch["input_ids"]
    others = (task.inputs.tokenizer.eos_token_id, int(ids[0, 0]))
    other = ids.clone()
    other[0, -1] = next((token for token in others if token != ids[0, -1]), ids[0, -1])
    task.model.eval()
    with torch.no_grad(), _in_words("a text with another last word"):
        logits, changed = (task.model(**batch | {"input_ids": tokens}).logits[:, :-1] for tokens in (ids, other))
    if _differ(logits, changed, LEAK):
        raise TaskError(
            f"model.source: {type(task.model).__name__} sees the words behind those that it is to predict, so that it "
            "would learn to copy them; take a decoder, or set is_decoder: true in config.json where it can be one"
        )


def _check_packing(task: TaskModel) -> None:
    """Refuses a job that packs where an answer of the model hangs on the example before it in the row."""
    if not task.spec.local.packing:
        return
    try:
        alone, behind, otherwise = _second_of_a_row(task)
    except Exception as error:  # as models raise that take no positions
        if is_short(error):
            raise
        mixes, why = True, f" ({short(error)})"
    else:
        rounding = max(LEAK, 4 * torch.finfo(alone.dtype).eps)
        mixes, why = _differ(alone, behind, rounding) or _differ(behind, otherwise, LEAK), ""
    if mixes:
        raise TaskError(
            f"local.packing: {type(task.model).__name__} of transformers does not keep examples apart that share a "
            f"row{why}; leave it out, or take local.group_by_length in its place"
        )


def _differ(logits: Tensor, others: Tensor, share: float) -> bool:
    """Whether by more than this share of the largest."""
    return float((logits - others).abs().max()) > share * float(logits.abs().max())


def _second_of_a_row(task: TaskModel) -> list[Tensor]:
    """Logits `(1, length, C)` of an example by itself, behind another, and behind one of the same length."""
    batch = task.collate(plain_examples(task, Path()))
    ids, length = batch["input_ids"], int(batch["attention_mask"][0].sum())
    other = torch.where(ids[0] == ids[0, length - 1], ids[1, 1], ids[0, length - 1])  # at no place the same
    behind_other = batch | {"input_ids": torch.stack([other, ids[1]])}
    rows = (in_rows(batch, [[1]]), in_rows(batch, [[0, 1]]), in_rows(behind_other, [[0, 1]]))
    task.model.eval()
    with torch.no_grad():
        alone, *behind = (task.model(**task.task.model_inputs(row), **task.task.options(row)).logits for row in rows)
    return [alone, *(logits[:, length:] for logits in behind)]


def _write(task: TaskModel, asks: WritingTask) -> None:
    if task.spec.evaluation.generates:
        check_room(task, task.spec.evaluation.max_new_tokens)
    task.model.eval()
    questions = plain_questions(task, asks)
    with torch.no_grad(), _in_words("writing answers to prompts of unequal lengths"):
        try:
            written(task, questions, NEW_TOKENS)
        except Exception as error:  # some ways of writing need what an evaluation does not give, or are wrong
            if (setting := setting_at_fault(task, questions, NEW_TOKENS)) is None:
                raise
            raise TaskError(
                f"model.source: generation_config.json says {setting}, with which no answers can be written here "
                f"({short(error)}); take the key out of it, or correct its value"
            ) from error


def _backward(task: TaskModel, examples: Sequence[Example]) -> None:
    task.model.train()
    try:
        with checkpointed(task), _in_words("a step of training"):
            losses = (task.loss(task.collate(examples, trains=True))[0] for _ in range(DRAWS))
            loss = next((loss for loss in losses if loss.requires_grad), None)
            if loss is None:
                raise ArithmeticError(f"in {DRAWS} tries the loss depends on no weight that is trained")
            with _odd_gradients(task) as odd:
                loss.backward()
            if odd:
                raise ArithmeticError(f"the gradient of {odd[-1]} is not finite")
    finally:
        task.zero_grad()


@contextmanager
def _odd_gradients(task: TaskModel) -> Iterator[list[str]]:
    """The names of those weights whose gradient is not finite, in the order in which gradients come.

    Each is let go of once it was looked at: together they take as much memory as all that is trained.
    """
    odd: list[str] = []

    def look(name: str, parameter: Tensor) -> None:
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            odd.append(name)
        parameter.grad = None

    with ExitStack() as hooks:
        for name, parameter in task.trained().items():
            hooks.callback(parameter.register_post_accumulate_grad_hook(partial(look, name)).remove)
        yield odd


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    try:
        yield
    except TaskError:
        raise
    except Exception as error:  # whatever a model comes upon
        if is_short(error):
            raise
        raise TaskError(
            f"model.source: the model fails on {what} ({short(error)}); take another model, or "
            "correct its configuration"
        ) from error
