"""Whatever a model's or tokenizer's code raises on a batch, in a sentence that names the example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from fedgalore.data.examples import Example
from fedgalore.model.inputs import TaskError
from fedgalore.process.memory import is_short

OTHERS = 32  # rows of a site that are tried to tell whether it is a matter of rows at all


@contextmanager
def naming_rows(
    examples: Sequence[Example], all_examples: Sequence[Example], work: Callable[[Sequence[Example]], object]
) -> Iterator[None]:
    """Around `work` on a batch of a site's examples, which is tried anew on parts of them where it fails.

    Raises:
        TaskError: in place of what nobody has foreseen; says on which row, or that it is no matter of rows.
    """
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        if is_short(error):  # not of this row
            raise
        others = all_examples[:OTHERS]
        if len(others) > 1 and all(_same_error(work, example, error) for example in (*examples, *others)):
            alike = (
                "the model fails on row after row alike ({}), so that it is no matter of the rows; take another "
                "model.source, or mend this machine where other sites have no such error"
            )
            raise TaskError(alike.format(short(error)), alike.format(type(error).__name__)) from error
        culprits = _culprits(work, examples)
        raise TaskError(
            f"{_rows(culprits)}: the model fails on it ({short(error)}); correct the data, or leave the row out",
            f"the model fails on {len(culprits)} examples ({type(error).__name__})",
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


def _culprits(work: Callable[[Sequence[Example]], object], examples: Sequence[Example]) -> Sequence[Example]:
    """The smallest part of a batch that fails by itself: found by halving."""
    while len(examples) > 1:
        middle = len(examples) // 2
        failing = [half for half in (examples[:middle], examples[middle:]) if _error(work, half) is not None]
        if not failing:
            break
        examples = failing[0]
    return examples


def _same_error(work: Callable[[Sequence[Example]], object], example: Example, error: Exception) -> bool:
    return type(_error(work, [example])) is type(error)


def _error(work: Callable[[Sequence[Example]], object], examples: Sequence[Example]) -> Exception | None:
    try:
        with torch.no_grad():
            work(examples)
    except Exception as error:
        return error
    return None


def _rows(examples: Sequence[Example]) -> str:
    numbers = [str(example.get("row", "?")) for example in examples]
    return f"row {numbers[0]}" if len(numbers) == 1 else f"rows {', '.join(numbers)} together"
