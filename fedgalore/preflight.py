"""Whether a site's data fit a job: looked at before any model is fetched, without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedgalore.data.batches import text_length
from fedgalore.data.examples import Example
from fedgalore.data.values import key
from fedgalore.measures.custom import CustomMetricError, check_allowed
from fedgalore.model.exact_match import check_answers
from fedgalore.model.inputs import TaskError
from fedgalore.model.tasks.registry import check_examples
from fedgalore.spec.job import JobSpec


@dataclass(frozen=True)
class Split:
    """The examples of one file or folder; `place` is what messages call it."""

    place: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class Finding:
    """What a site found: `problem` in words, None where its data fit; numbers of `examples` by split.

    `classes`: different labels; `longest`: characters of the longest text; `conversations`: whether there are any.
    """

    problem: str | None
    examples: int
    test_examples: int
    classes: int
    longest: int
    conversations: bool = False


def preflight(spec: JobSpec, train: Split, test: Split | None) -> Finding:
    """Looks at columns, labels and answers of all examples of a site; each split's first problem is named."""
    splits = [split for split in (train, test) if split is not None]
    examples = [example for split in splits for example in split.examples]
    problems = _not_allowed(spec)
    problems += [words for split in splits if (words := _problem(spec, split, split is _evaluated(spec, train, test)))]
    return Finding(
        "; ".join(problems) or None,
        len(train.examples),
        len(test.examples) if test else 0,
        len({key(example["label"]) for example in examples if "label" in example}),
        max(map(text_length, examples), default=0),
        any("messages" in example for example in examples),
    )


def _not_allowed(spec: JobSpec) -> list[str]:
    try:
        check_allowed(spec.measured, "this site")
    except CustomMetricError as error:
        return [str(error)]
    return []


def _evaluated(spec: JobSpec, train: Split, test: Split | None) -> Split | None:
    return train if spec.evaluation.split == "train" else test


def _problem(spec: JobSpec, split: Split, is_evaluated: bool) -> str:
    try:
        check_examples(split.examples, spec)
        if is_evaluated:
            check_answers(spec, split.examples)
    except TaskError as error:
        return f"{split.place}: {error}"
    return ""
