"""What a language model answers, greedily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from transformers import GenerationConfig

from fedgalore.model.inputs import TaskError
from fedgalore.model.precision import passes_in
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.seq2seq_lm import first_token
from fedgalore.model.tasks.writing import Question, WritingTask
from fedgalore.model.texts import TextInputs


def generate(task: TaskModel, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
    """The model's most likely next token, one after the other, up to an end token: one answer a question.

    `task.model` is in evaluation mode. A question without room is cut as in training.

    Raises:
        TaskError: `max_new_tokens` leaves no room, or a question that the model cannot be asked.
    """
    texts, asks = _texts(task), writing(task)
    batch = asks.generation_inputs(questions, texts, check_room(task, max_new_tokens))
    batch = {name: tensor.to(task.device) for name, tensor in batch.items()}
    with _greedy(task, max_new_tokens) as (model, config), passes_in(task.spec.local.precision, task.device):
        generated = model.generate(**batch, generation_config=config)
    rows = asks.written(generated, batch).tolist()
    answers = [list(takewhile(lambda token: token not in texts.ends, row)) for row in rows]
    return [
        texts.tokenizer.decode(answer, skip_special_tokens=asks.is_encoder_decoder, clean_up_tokenization_spaces=False)
        for answer in answers
    ]


def writing(task: TaskModel) -> WritingTask:
    """The task of a model that writes."""
    assert isinstance(task.task, WritingTask)  # the job's document sees to it
    return task.task


def check_room(task: TaskModel, max_new_tokens: int) -> int:
    """Tokens that a question may have.

    Raises:
        TaskError: there is no room for it, or none for the answer.
    """
    length = _texts(task).max_length
    if writing(task).is_encoder_decoder:
        if max_new_tokens > length:
            raise TaskError(
                f"evaluation.max_new_tokens: {max_new_tokens} exceeds the {length} tokens that the model writes; "
                f"take at most {length}"
            )
        return length
    room = length - max_new_tokens
    if room < 1:
        raise TaskError(
            f"evaluation.max_new_tokens: {max_new_tokens} leaves no room for a prompt in the {length} tokens "
            f"that the model is given; take at most {length - 1}"
        )
    return room


def _texts(task: TaskModel) -> TextInputs:
    assert isinstance(task.inputs, TextInputs)  # the job's document sees to it
    return task.inputs


@contextmanager
def _greedy(task: TaskModel, max_new_tokens: int) -> Iterator[tuple[Any, GenerationConfig]]:
    """The model with a configuration for `generate` that takes the place of its folder's.

    Passing it would not do: what it leaves open, such as a repetition penalty, is filled in from the model's own. Only
    what a decoder begins with is taken over.
    """
    model: Any = task.model
    of_folder = model.generation_config
    first: dict[str, Any] = {}
    if writing(task).is_encoder_decoder:
        first["decoder_start_token_id"] = first_token(model)
        first["forced_bos_token_id"] = of_folder.forced_bos_token_id
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        pad_token_id=_texts(task).tokenizer.pad_token_id,
        eos_token_id=list(_texts(task).ends),
        **first,
    )
    model.generation_config = config
    try:
        yield model, config
    finally:
        model.generation_config = of_folder
