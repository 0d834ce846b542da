"""Whether a site's data fit a job: looked at before any model is fetched, without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedgalore.data.batches import text_length
from fedgalore.data.examples import Example
from fedgalore.data.values import key
from fedgalore.measures.custom import CustomMetricError, check_allowed
from fedgalore.model.exact_match import check_answers
from fedgalore.model.inputs import TaskError
from fedgalore.model.tasks.registry import check_examples
from fedgalore.spec.job import JobSpec

_UNFIT = {
    "data.examples": "have columns, labels or texts that the job does not take: look at model.task, at label_names or "
    "num_labels, and at data.template",
    "data.answers": "have a completion without a number: take evaluation.exact_match: text",
}


@dataclass(frozen=True)
class Split:
    """The examples of one file or folder; `place` is what messages call it."""

    place: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class Misfit:
    """Why data do not fit: in words for the site, and in words that may leave it, with a code for machines.

    What leaves names no file, row, label or value: only how many examples it is.
    """

    words: str
    told: str
    code: str


@dataclass(frozen=True)
class Finding:
    """What a site found: what does not fit, if anything does not; numbers of `examples` by split.

    `classes`: different labels; `longest`: characters of the longest text; `conversations`: whether there are any.
    """

    misfits: tuple[Misfit, ...]
    examples: int
    test_examples: int
    classes: int
    longest: int
    conversations: bool = False

    @property
    def problem(self) -> str | None:
        """In words for the site; None where its data fit."""
        return "; ".join(misfit.words for misfit in self.misfits) or None


def preflight(spec: JobSpec, train: Split, test: Split | None) -> Finding:
    """Looks at columns, labels and answers of all examples of a site; each split's first problem is named."""
    splits = {"training": train} | ({"test": test} if test else {})
    examples = [example for split in splits.values() for example in split.examples]
    evaluated = "training" if spec.evaluation.split == "train" else "test"
    found = [_of_split(spec, name, split, name == evaluated) for name, split in splits.items()]
    return Finding(
        tuple(filter(None, (_of_metrics(spec), *found))),
        len(train.examples),
        len(test.examples) if test else 0,
        len({key(example["label"]) for example in examples if "label" in example}),
        max(map(text_length, examples), default=0),
        any("messages" in example for example in examples),
    )


def _of_metrics(spec: JobSpec) -> Misfit | None:
    try:
        check_allowed(spec.measured, "this site")
    except CustomMetricError as error:
        return Misfit(str(error), str(error), "data.metrics")
    return None


def _of_split(spec: JobSpec, name: str, split: Split, is_evaluated: bool) -> Misfit | None:
    checks: dict[str, Callable[[Sequence[Example]], None]] = {
        "data.examples": lambda examples: check_examples(examples, spec)
    }
    if is_evaluated:
        checks["data.answers"] = lambda examples: check_answers(spec, examples)
    for code, check in checks.items():
        if words := _words(check, split.examples):
            bad = sum(bool(_words(check, [example])) for example in split.examples)
            told = f"{bad} of its {len(split.examples)} {name} examples {_UNFIT[code]}"
            return Misfit(f"{split.place}: {words}", told if split.examples else f"it has no {name} examples", code)
    return None


def _words(check: Callable[[Sequence[Example]], None], examples: Sequence[Example]) -> str:
    try:
        check(examples)
    except TaskError as error:
        return str(error)
    return ""
