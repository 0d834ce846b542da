"""The task that a job names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedgalore.data.examples import Example
from fedgalore.data.held import Unheld
from fedgalore.model.inputs import TaskError
from fedgalore.model.tasks.causal_lm import CausalLM
from fedgalore.model.tasks.face import Task
from fedgalore.model.tasks.image_classification import ImageClassification
from fedgalore.model.tasks.seq2seq_lm import Seq2SeqLM
from fedgalore.model.tasks.sequence_classification import SequenceClassification
from fedgalore.model.tasks.token_classification import TokenClassification
from fedgalore.spec.job import JobSpec

TASKS: dict[str, type[Task[Any]]] = {
    "sequence-classification": SequenceClassification,
    "token-classification": TokenClassification,
    "image-classification": ImageClassification,
    "causal-lm": CausalLM,
    "seq2seq-lm": Seq2SeqLM,
}


def task_of(spec: JobSpec) -> Task[Any]:
    """What a job's model is trained for."""
    return TASKS[spec.model.task](spec)


def check_examples(examples: Sequence[Example], spec: JobSpec) -> None:
    """Refuses a split before any work is done on it.

    Raises:
        TaskError: there are no examples, they are of another task, or one does not fit the job.
    """
    if not examples:
        raise TaskError("data: there are no examples; check the file")
    task, looked = task_of(spec), (spec.model, spec.data)
    if isinstance(examples, Unheld) and looked in examples.passed:
        return
    for example in examples:
        if not task.has_columns(example):
            raise TaskError(task.lacking(example))
        task.check_example(example)
    if isinstance(examples, Unheld):
        examples.passed.add(looked)
