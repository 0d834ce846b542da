"""Whatever a model's or tokenizer's code raises on a batch, in a sentence that names the example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from fedgalore.data.examples import Example
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel


@contextmanager
def naming_rows(task: TaskModel, examples: Sequence[Example]) -> Iterator[None]:
    """Around the batch of these examples and its forward pass.

    Raises:
        TaskError: in place of what nobody has foreseen; says on which row.
    """
    try:
        yield
    except (TaskError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise TaskError(
            f"{_rows(_culprits(task, examples))}: the model fails on it ({short(error)}); "
            "correct the data, or leave the row out"
        ) from error


def short(error: BaseException) -> str:
    """Kind and first line of an error of somebody else's code."""
    first, *_ = str(error).strip().split("\n")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def unforeseen(error: BaseException) -> str:
    """An error that this code knows nothing of, as a sentence for a person."""
    return (
        f"the job cannot go on: the code of its model failed ({short(error)}); take another model, or report this with "
        "the traceback of the debug log"
    )


def _culprits(task: TaskModel, examples: Sequence[Example]) -> Sequence[Example]:
    """The smallest part of a batch that fails by itself: found by halving."""
    while len(examples) > 1:
        middle = len(examples) // 2
        failing = [half for half in (examples[:middle], examples[middle:]) if _fails(task, half)]
        if not failing:
            break
        examples = failing[0]
    return examples


def _fails(task: TaskModel, examples: Sequence[Example]) -> bool:
    try:
        with torch.no_grad():
            task.loss(task.collate(examples))
    except Exception:
        return True
    return False


def _rows(examples: Sequence[Example]) -> str:
    numbers = [str(example.get("row", "?")) for example in examples]
    return f"row {numbers[0]}" if len(numbers) == 1 else f"rows {', '.join(numbers)} together"
