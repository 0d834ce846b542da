"""What the evaluations of a job measure, and which way each measure is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fedgalore.spec.metrics import is_custom

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

Mode = Literal["max", "min"]
MAX: Mode = "max"
MIN: Mode = "min"
LESS_IS_BETTER = ("loss", "perplexity", "mse", "mae")


def better(spec: JobSpec) -> dict[str, Mode]:
    """By the name of each metric that the job's clients report: whether a greater or a smaller value is better."""
    keep, modes = spec.evaluation.keep, dict.fromkeys(spec.measured, MAX) | dict.fromkeys(LESS_IS_BETTER, MIN)
    if keep is not None and keep.mode is not None and is_custom(keep.metric):  # only its author knows
        modes[keep.metric] = keep.mode
    return {name: modes[name] for name in spec.measured if name != "confusion_matrix"}
