"""Exact match of a causal language model: what it answers to a prompt, greedily, against the example's completion."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import takewhile
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from fedgalore.data.examples import Example
from fedgalore.data.sample import evaluated
from fedgalore.model.inputs import TaskError
from fedgalore.model.precision import passes_in
from fedgalore.model.task import TaskModel
from fedgalore.model.texts import TextInputs

MARK = "####"  # GSM8K writes the answer after it

# A minus belongs to the number unless it is a dash, a range or a difference: "10-5" ends in 5.
_NUMBER = re.compile(
    r"""
    (?P<minus> (?<![\w)\]}%−-]) [−-] )?
    \$?
    (?P<minus_inside> (?<=\$) [−-] )?
    (?P<digits>
        (?: \d{1,3} (?:,\d{3})+ (?!\d) | \d+ ) (?:\.\d+)?  # 1,234.50
        | (?<!\d) \.\d+  # .5
    )
    (?P<exponent> e[+-]?\d{1,3}\b )?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def last_number(text: str) -> Decimal | None:
    """The number that a text ends with: the first one after the last `####`, or else the last one; None without any.

    Thousands separators, `$`, `%` and a full stop behind it are no part of a number; "3.50 %" is 3.5.
    """
    _, marked, answer = text.rpartition(MARK)
    numbers = list(_NUMBER.finditer(answer))
    return _decimal(numbers[0 if marked else -1]) if numbers else None


def matches(kind: Literal["text", "number"], generated: str, completion: str) -> bool:
    """Whether an answer is the completion.

    `text`: the same characters but for Unicode's compatible forms (NFKC), case and white space. `number`: their
    `last_number` has the same value; an answer without one is wrong.
    """
    if kind == "text":
        return _plain(generated) == _plain(completion)
    answer = last_number(generated)
    return answer is not None and answer == last_number(completion)


def check_exact_match(task: TaskModel, examples: Sequence[Example]) -> None:
    """Refuses what `evaluation.exact_match` cannot be found for, if the job asks for it, before any work is done.

    Raises:
        TaskError: the model has no room for answers, or a completion of an evaluated example holds no number.
    """
    wanted = task.spec.evaluation
    if wanted.exact_match is None:
        return
    _room_for_prompt(task, wanted.max_new_tokens)
    if wanted.exact_match != "number":
        return
    for example in evaluated(examples, task.spec):
        if "completion" in example and last_number(example["completion"]) is None:
            raise TaskError(
                f"row {example.get('row', '?')}: the completion holds no number that an answer could match; "
                "correct the data, or take evaluation.exact_match: text"
            )


def count_matches(task: TaskModel, examples: Sequence[Example]) -> int:
    """How many of a batch of examples the model answers right.

    Raises:
        TaskError: as `generate`.
    """
    wanted = task.spec.evaluation
    assert wanted.exact_match is not None
    answers = generate(task, [example["prompt"] for example in examples], wanted.max_new_tokens)
    return sum(
        matches(wanted.exact_match, answer, example["completion"])
        for answer, example in zip(answers, examples, strict=True)
    )


def generate(task: TaskModel, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """The model's most likely next token, one after the other, up to an end token: one answer a prompt.

    `task.model` is in evaluation mode. A prompt that leaves no room for the answer loses its beginning, as in training.

    Raises:
        TaskError: `max_new_tokens` leaves no room for a prompt.
    """
    texts, room = _texts(task), _room_for_prompt(task, max_new_tokens)
    tokenizer = texts.tokenizer
    end = tokenizer.eos_token_id
    rows = [(texts.ids(prompt) or [end])[-room:] for prompt in prompts]
    length = max(map(len, rows))
    gaps = [length - len(row) for row in rows]  # on the left: every answer begins in the same column
    tokens = [[tokenizer.pad_token_id] * gap + row for gap, row in zip(gaps, rows, strict=True)]
    mask = [[0] * gap + [1] * (length - gap) for gap in gaps]
    with _greedy(task, max_new_tokens) as (model, config), passes_in(task.spec.local.precision, task.device):
        generated = model.generate(
            input_ids=torch.tensor(tokens, device=task.device),
            attention_mask=torch.tensor(mask, device=task.device),
            generation_config=config,
        )
    answers = [takewhile(lambda token: token not in texts.ends, row) for row in generated[:, length:].tolist()]
    return [tokenizer.decode(list(answer), clean_up_tokenization_spaces=False) for answer in answers]


def _decimal(number: re.Match[str]) -> Decimal:
    minus = number["minus"] or number["minus_inside"]
    return Decimal(f"{'-' if minus else ''}{number['digits'].replace(',', '')}{number['exponent'] or ''}")


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _texts(task: TaskModel) -> TextInputs:
    assert isinstance(task.inputs, TextInputs)  # the job's document sees to it
    return task.inputs


def _room_for_prompt(task: TaskModel, max_new_tokens: int) -> int:
    """Tokens that a prompt may have."""
    length = _texts(task).max_length
    room = length - max_new_tokens
    if room < 1:
        raise TaskError(
            f"evaluation.max_new_tokens: {max_new_tokens} leaves no room for a prompt in the {length} tokens "
            f"that the model is given; take at most {length - 1}"
        )
    return room


@contextmanager
def _greedy(task: TaskModel, max_new_tokens: int) -> Iterator[tuple[Any, GenerationConfig]]:
    """The model with a configuration for `generate` that takes the place of its folder's.

    Passing it would not do: what it leaves open, such as a repetition penalty, is filled in from the model's own.
    """
    model: Any = task.model
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        pad_token_id=_texts(task).tokenizer.pad_token_id,
        eos_token_id=list(_texts(task).ends),
    )
    of_folder, model.generation_config = model.generation_config, config
    try:
        yield model, config
    finally:
        model.generation_config = of_folder
