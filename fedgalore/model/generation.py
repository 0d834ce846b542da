"""What a model that writes answers: its most likely words, with its folder's settings of generation, but no sampling.

`generate` of a download, called with `arguments`, writes the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor

from fedgalore.model.configuration import SAMPLING
from fedgalore.model.inputs import Batch, TaskError
from fedgalore.model.precision import passes_in
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.writing import Question, WritingTask
from fedgalore.model.texts import TextInputs
from fedgalore.process.panics import panics_as_errors

_NO_SETTINGS = ("transformers_version", "_from_model_config")
_ASKED = ("do_sample", "max_new_tokens")  # of `arguments`: what a user gives to see an evaluation's answers
_UNLESS_SAID = ("max_time", "num_return_sequences")  # and what besides, where the folder says otherwise
_REPLACED = (*SAMPLING, *_UNLESS_SAID, "max_length", "max_new_tokens")
_UNSAID = re.compile("token_id$|cache|^output_|^return_")  # of settings: what changes no word, or is agreed on


@panics_as_errors()
def generate(task: TaskModel, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
    """One answer a question, up to an end token; of the most likely tokens, or of beams where the folder asks for some.

    `task.model` is in evaluation mode. A question without room is cut as in training.

    Raises:
        TaskError: `max_new_tokens` leaves no room, or a question that the model cannot be asked.
    """
    texts, asks = _texts(task), writing(task)
    batch = asks.generation_inputs(questions, texts, check_room(task, max_new_tokens))
    rows = written(task, batch, max_new_tokens).tolist()
    answers = [list(takewhile(lambda token: token not in texts.ends, row)) for row in rows]
    return [
        texts.tokenizer.decode(answer, skip_special_tokens=asks.is_encoder_decoder, clean_up_tokenization_spaces=False)
        for answer in answers
    ]


def written(task: TaskModel, batch: Batch, max_new_tokens: int) -> Tensor:
    """Tokens behind questions, in the job's precision: `(batch, new tokens)`, int64, padded behind an end token.

    Args:
        batch: as `WritingTask.generation_inputs`.
    """
    batch = {name: tensor.to(task.device) for name, tensor in batch.items()}
    model: Any = task.model
    with passes_in(task.spec.local.precision, task.device):
        return writing(task).written(model.generate(**batch, **arguments(max_new_tokens)), batch)


def arguments(max_new_tokens: int) -> dict[str, Any]:
    """Of `generate`: what takes the place of a folder's settings, so that the same question has the same answer.

    One answer in plain tensors, by a cache that is not compiled, however long it takes.
    """
    return {
        "do_sample": False,
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": 1,
        "return_dict_in_generate": False,
        "use_cache": True,
        "cache_implementation": None,
        "disable_compile": True,
        "max_time": None,
    }


def settings_of(model: Any) -> dict[str, Any]:
    """What a model's configuration of generation says that transformers would not say by itself."""
    said = model.generation_config.to_diff_dict()
    return {name: value for name, value in said.items() if name not in _NO_SETTINGS and value is not None}


def setting_at_fault(task: TaskModel, batch: Batch, max_new_tokens: int) -> str | None:
    """The setting of a model that cannot write with it, and can without; None where it is no matter of one setting."""
    config: Any = task.model.generation_config
    for name in sorted(settings_of(task.model), key=lambda name: name == "num_beams"):  # others hang on it
        value = getattr(config, name, None)
        setattr(config, name, None)
        try:
            written(task, batch, max_new_tokens)
        except Exception:  # of whatever kind, as the first one was
            continue
        else:
            return f"{name}: {value!r}"
        finally:
            setattr(config, name, value)
    return None


def way_of_writing(task: TaskModel) -> str | None:
    """In words: how to get the answers that evaluations of the job judge; None where none are written."""
    if not task.spec.evaluation.generates:
        return None
    said, given = settings_of(task.model), arguments(task.spec.evaluation.max_new_tokens)
    replaced = {name: given[name] for name in (*_ASKED, *(name for name in _UNLESS_SAID if name in said))}
    others = {name: value for name, value in said.items() if not (name in _REPLACED or _UNSAID.search(name))}
    taken = {name: said[name] for name in _REPLACED if name in said and said[name] != replaced.get(name)}
    call = f"generate({_listed(replaced)})"
    words = f"evaluations judge the answers that {call} of the download writes"
    if others:
        words += f", with {_listed(others)} of its generation_config.json"
    return words + (f"; generate() alone goes by {_listed(taken)} and writes others" if taken else "")


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


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(settings.items()))
