"""What the evaluations of a job measure, and which way each measure is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

Mode = Literal["max", "min"]


def better(spec: JobSpec) -> dict[str, Mode]:
    """By the name of each metric that the job's clients report: whether a greater or a smaller value is better."""
    metrics: dict[str, Mode] = {"loss": "min", "accuracy": "max"}
    if spec.evaluation.exact_match is not None:
        metrics["exact_match"] = "max"
    return metrics
