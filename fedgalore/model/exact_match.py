"""Exact match of a language model: what it answers to a prompt, greedily, against the example's completion."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from fedgalore.data.examples import Example
from fedgalore.data.sample import evaluated
from fedgalore.model.generation import check_room, generate, writing
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import task_of
from fedgalore.model.tasks.writing import WritingTask
from fedgalore.spec.job import JobSpec

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
    """Refuses examples whose answers cannot be judged, if the job lets the model write some, before any work is done.

    Raises:
        TaskError: the model has no room for answers, or a completion of an evaluated example holds no number.
    """
    wanted = task.spec.evaluation
    if not wanted.generates:
        return
    check_room(task, wanted.max_new_tokens)
    check_answers(task.spec, examples)


def check_answers(spec: JobSpec, examples: Sequence[Example]) -> None:
    """The part of `check_exact_match` that needs no model.

    Raises:
        TaskError: a completion of an evaluated example holds no number, and the job wants to compare numbers.
    """
    asks = task_of(spec)
    if spec.evaluation.exact_match != "number" or not isinstance(asks, WritingTask):
        return
    for example in evaluated(examples, spec):
        if asks.has_columns(example) and last_number(asks.answer(example)) is None:
            raise TaskError(
                f"row {example.get('row', '?')}: the completion holds no number that an answer could match; "
                "correct the data, or take evaluation.exact_match: text"
            )


def answered(task: TaskModel, examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    """What the model answers to a batch of examples, and the right answers.

    Raises:
        TaskError: as `generate`.
    """
    asks = writing(task)
    questions = [asks.question(example) for example in examples]
    answers = generate(task, questions, task.spec.evaluation.max_new_tokens)
    return answers, [asks.answer(example) for example in examples]


def _decimal(number: re.Match[str]) -> Decimal:
    minus = number["minus"] or number["minus_inside"]
    return Decimal(f"{'-' if minus else ''}{number['digits'].replace(',', '')}{number['exponent'] or ''}")


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
