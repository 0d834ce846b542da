"""How the columns of a row become a prompt and its completion: `data.template`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from fedgalore.spec.documents import printable
from fedgalore.spec.model import WRITING
from fedgalore.spec.strict import Strict

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

COLUMN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")  # a name, and nothing that is looked up in its value
_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def check_column(name: str) -> str:
    """Hands on a name by which a template can call a column.

    Raises:
        ValueError: it is none.
    """
    if not COLUMN.fullmatch(name):
        raise ValueError(
            f"{printable(repr(name), 80)} is no name for a template; take letters, digits, - and _, such as question"
        )
    return name


def columns_of(pattern: str) -> tuple[str, ...]:
    """The columns that a pattern names, each once, in their order.

    Raises:
        ValueError: a brace that opens no column, or a column that is no plain name.
    """
    return tuple(dict.fromkeys(name for _, name in _parts(pattern) if name is not None))


def filled(pattern: str, values: Mapping[str, str]) -> str:
    """The pattern with the values of its columns. Braces in a value are text.

    Raises:
        KeyError: a column has no value.
    """
    return "".join(text if name is None else values[name] for text, name in _parts(pattern))


def _parts(pattern: str) -> Iterator[tuple[str, str | None]]:
    """Texts as they stand, and names of columns."""
    done = 0
    for found in _PART.finditer(pattern):
        yield pattern[done : found.start()], None
        done = found.end()
        if found[0] in ("{{", "}}"):
            yield found[0][0], None
        elif found[1] is None:
            raise ValueError(f"{found[0]!r} at character {found.start() + 1} stands alone; write {2 * found[0]} for it")
        elif COLUMN.fullmatch(found[1]):
            yield "", found[1]
        else:
            raise ValueError(
                f"{printable(repr(found[0]), 80)} names no column; write its name alone, of letters, digits, - and _, "
                "such as {question}, and {{ and }} for braces"
            )
    yield pattern[done:], None


def _checked(pattern: str) -> str:
    columns_of(pattern)
    return pattern


def _checked_answer(pattern: str) -> str:
    if not columns_of(pattern):
        raise ValueError("it names no column, so that all answers would be the same; name one, such as {answer}")
    return pattern


class Template(Strict):
    """A prompt and a completion with the names of columns in braces."""

    prompt: Annotated[str, Field(max_length=10_000), AfterValidator(_checked)] = Field(
        default="",
        description="What the model is asked, with the names of columns in braces: `Question: {question}`. Left out, a "
        "causal-lm learns the whole text",
    )
    completion: Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_checked_answer)] = Field(
        description="What it is to answer, with at least one name: `{answer}`"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row needs."""
        return tuple(dict.fromkeys((*columns_of(self.prompt), *columns_of(self.completion))))

    def of(self, values: Mapping[str, str]) -> dict[str, str]:
        """`prompt` and `completion` of a row, by the values of its columns.

        Raises:
            KeyError: a column has no value.
        """
        return {"prompt": filled(self.prompt, values), "completion": filled(self.completion, values)}


def check_template(job: JobSpec) -> None:
    """Raises `ValueError`, with field and remedy, for a template that the job's task or evaluation cannot have."""
    template, task = job.data.template, job.model.task
    if template is None:
        return
    if not job.model.writes:
        raise ValueError(
            f"data.template: only task: {' or '.join(WRITING)} has prompts and completions; leave it out for {task}"
        )
    if not template.prompt and task == "seq2seq-lm":
        raise ValueError("data.template.prompt: the encoder of seq2seq-lm has to read something; give a prompt")
    if not template.prompt and job.evaluation.generates:
        raise ValueError(
            "data.template.prompt: without one the model is asked nothing, and has no answers to be judged; give a "
            "prompt, or leave exact_match and ROUGE out of evaluation"
        )
