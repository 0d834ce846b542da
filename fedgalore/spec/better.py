"""What the evaluations of a job measure, and which way each measure is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fedgalore.spec.documents import printable
from fedgalore.spec.findings import close_to
from fedgalore.spec.metrics import fitting, is_custom
from fedgalore.spec.takes import either

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec

Mode = Literal["max", "min"]
MAX: Mode = "max"
MIN: Mode = "min"
LESS_IS_BETTER = ("loss", "perplexity", "mse", "mae")
NO_NUMBERS = ("confusion_matrix", "per_class")  # of an evaluation: tables


def better(spec: JobSpec) -> dict[str, Mode]:
    """By the name of each metric that the job's clients report: whether a greater or a smaller value is better."""
    keep, modes = spec.evaluation.keep, dict.fromkeys(spec.measured, MAX) | dict.fromkeys(LESS_IS_BETTER, MIN)
    if keep is not None and keep.mode is not None and is_custom(keep.metric):  # only its author knows
        modes[keep.metric] = keep.mode
    return {name: modes[name] for name in spec.measured if name not in NO_NUMBERS}


def check_keep(spec: JobSpec) -> None:
    """Looks at whether `evaluation.keep` can tell which version is the best.

    Raises:
        ValueError: its metric is not one number that the job measures, its mode would keep the worst version, or it
            goes by a held-out set that the job does not name.
    """
    keep, known = spec.evaluation.keep, better(spec)
    if keep is None:
        return
    if keep.metric not in known:
        raise ValueError(f"evaluation.keep.metric: {_unknown(keep.metric, list(known), fitting(spec.model))}")
    if keep.mode not in (None, known[keep.metric]):
        raise ValueError(
            f"evaluation.keep.mode: {keep.mode} would keep the worst {keep.metric}; "
            f"take {known[keep.metric]}, or leave mode out"
        )
    if keep.by == "central" and spec.evaluation.central is None:
        raise ValueError(
            "evaluation.keep.by: central goes by the set that evaluation.central names; name one, or leave by out"
        )
    if spec.evaluation.every == 0:
        raise ValueError("evaluation.keep: with every: 0 there are no versions to compare; set every to 1 or more")


def _unknown(metric: str, known: list[str], fit: tuple[str, ...]) -> str:
    """Why a job cannot tell its best version by this metric, and by which it can."""
    others = [name for name in fit if name not in (*known, *NO_NUMBERS)]
    named, take = repr(printable(metric, 60)), f"take {either(known)}"
    if metric in NO_NUMBERS:
        problem = f"{named} is a table, and versions are compared by one number"
    elif metric in others or is_custom(metric):
        return f"{named} is not measured in this job; add it to evaluation.metrics, or {take}"
    else:
        problem = f"{named} is no metric of this job{close_to(metric, [*known, *others])}"
    return f"{problem}; {take}" + (f", or add one of {', '.join(others)} to evaluation.metrics" if others else "")
