"""A received model on a site's examples: counts of what the job measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from fedgalore.data.batches import by_length
from fedgalore.data.examples import Example
from fedgalore.data.sample import evaluated
from fedgalore.measures.counting import as_sent, count, entities
from fedgalore.measures.custom import ALLOWED
from fedgalore.measures.formulas import Array
from fedgalore.measures.rouge import rouge
from fedgalore.measures.values import Counts, measured, pool
from fedgalore.model.culprits import naming_rows
from fedgalore.model.divergence import words_of_evaluation
from fedgalore.model.exact_match import answered, check_exact_match, matches
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import check_examples
from fedgalore.spec.metrics import ROUGE, is_custom, kind_of
from fedgalore.spec.sections import EvaluationSpec
from fedgalore.training import TrainingStopped


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a site's examples: counts by metric, as `fedgalore.measures.values` describes them."""

    examples: int
    counts: dict[str, tuple[float, ...]]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics of these examples alone, as far as they have a value here."""
        return measured(self.counts).metrics


@torch.no_grad()
def evaluate(task: TaskModel, examples: Sequence[Example], goes_on: Callable[[], bool] | None = None) -> Evaluation:
    """Counts what the job measures of the weights that `task` holds: over examples, or over tokens that count.

    The weights are rounded as a download's are, so that it gives the same numbers.

    Args:
        goes_on: asked before each batch; the evaluation stops when it answers False.

    Raises:
        TaskError: examples that do not fit the job, or a loss that is infinite or NaN.
        TrainingStopped: `goes_on` answered False.
    """
    chosen = evaluated(examples, task.spec)
    check_examples(chosen, task.spec)
    check_exact_match(task, chosen)
    task.model.eval()
    task.round_weights()
    parts: list[Counts] = []
    for batch in by_length(chosen, task.spec.rows_of_an_evaluation):
        if goes_on is not None and not goes_on():
            raise TrainingStopped
        with naming_rows(batch, chosen, partial(_counts, task)):
            parts = [pool([*parts, _counts(task, batch)])]
    return Evaluation(len(chosen), {name: tuple(sums.tolist()) for name, sums in as_sent(parts[0]).items()})


def _counts(task: TaskModel, examples: Sequence[Example]) -> dict[str, Array]:
    """Of one batch, in the order of the job's metrics."""
    kind, names = kind_of(task.spec.model), task.spec.measured
    batch = task.collate(examples)
    outputs = task.outputs(batch)
    number, right = task.task.hits(outputs, batch)
    mean = task.task.loss(outputs, batch).item()
    if not math.isfinite(mean):
        raise TaskError(*words_of_evaluation(task, examples, mean))
    loss = np.array([mean * number, number])
    counts = {"loss": loss, "perplexity": loss}
    if kind in ("texts", "entities") and right is not None:
        counts["accuracy"] = np.array([right, number], np.float64)
    if task.spec.evaluation.generates:
        counts |= _judged(task.spec.evaluation, *answered(task, examples))
    if others := [name for name in names if name not in counts]:
        predictions = task.task.predictions(outputs, batch)
        scores, targets = predictions.scores, predictions.targets
        counts |= {name: ALLOWED[name].count(scores, targets) for name in others if is_custom(name)}
        others = [name for name in others if name not in counts]
        if kind == "entities":
            tags = task.spec.model.label_names or ()
            counts |= dict.fromkeys(others, entities(scores, targets, predictions.lengths or (), tags))
        else:
            counts |= count(kind, others, scores, targets)
    return {name: counts[name] for name in names}


def _judged(wanted: EvaluationSpec, answers: Sequence[str], right: Sequence[str]) -> dict[str, Array]:
    """Counts of written answers."""
    counts = rouge([name for name in wanted.metrics if name in ROUGE], answers, right)
    if (kind := wanted.matching) is not None:
        hits = sum(matches(kind, answer, expected) for answer, expected in zip(answers, right, strict=True))
        counts["exact_match"] = np.array([hits, len(answers)], np.float64)
    return counts
