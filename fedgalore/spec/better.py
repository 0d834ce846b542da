"""What the evaluations of a job measure, and which way each measure is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

Mode = Literal["max", "min"]
LESS_IS_BETTER = ("loss", "perplexity", "mse", "mae")


def better(spec: JobSpec) -> dict[str, Mode]:
    """By the name of each metric that the job's clients report: whether a greater or a smaller value is better."""
    return {name: "min" if name in LESS_IS_BETTER else "max" for name in spec.measured if name != "confusion_matrix"}
