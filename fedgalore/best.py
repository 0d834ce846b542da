"""Which version of a job's model is the best, and whether it is worth while to go on: `evaluation.keep`.

Pure; the coordinator decides by it round by round, the simulation too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from fedgalore.spec.better import better
from fedgalore.spec.job import JobSpec

By = Literal["sites", "central"]
T = TypeVar("T")
Told = Mapping[By, Mapping[str, T]]  # by who measured it: clients, or the coordinator on what it holds out


@dataclass(frozen=True)
class Best:
    """The best of the versions that were evaluated so far.

    `improved_to`: the value of the last improvement by more than `min_delta`; `since`: evaluations after it; `by`: who
    measured. Values of other data are not compared to it.
    """

    version: int
    value: float
    improved_to: float
    since: int = 0
    by: By = "sites"


def best_of(best: Best | None, version: int, told: Told[float], spec: JobSpec) -> Best | None:
    """The best version once this one has been evaluated; of equal values the earlier stays.

    Args:
        told: metrics of the version; where the job's metric is missing, nothing changes.
    """
    keep = spec.evaluation.keep
    if keep is None:
        return best
    of_sites: By = "sites" if keep.metric in told.get("sites", {}) else "central"
    by = keep.by or (best.by if best else of_sites)
    if keep.metric not in told.get(by, {}):
        return best
    value = told[by][keep.metric]
    if best is None:
        return Best(version, value, value, by=by)
    sign = 1.0 if better(spec)[keep.metric] == "max" else -1.0
    improves = sign * (value - best.improved_to) > keep.min_delta
    judged = replace(best, improved_to=value, since=0) if improves else replace(best, since=best.since + 1)
    return replace(judged, version=version, value=value) if sign * (value - best.value) > 0 else judged


def is_worn_out(best: Best | None, spec: JobSpec) -> bool:
    """Whether the job ends early, because `evaluation.keep.patience` evaluations have brought no improvement."""
    keep = spec.evaluation.keep
    return best is not None and keep is not None and keep.patience is not None and best.since >= keep.patience


def no_best(best: Best | None, undefined: Told[str], spec: JobSpec) -> str | None:
    """Why evaluations have told no best version; None where they have, or where the job keeps none.

    Args:
        undefined: why a metric has no value, in the newest evaluation.
    """
    keep = spec.evaluation.keep
    if keep is None or best is not None:
        return None
    by = keep.by or ("sites" if undefined.get("sites") else "central")
    why = undefined.get(by, {}).get(keep.metric)
    nobody = f"{keep.metric} has not been measured on evaluation.central" if keep.by == "central" else ""
    lacks = f"{keep.metric} has no value ({why})" if why else nobody or f"no client has measured {keep.metric}"
    return f"{lacks}, so no version is the best (evaluation.keep)"


def describe(best: Best | None, undefined: Told[str], spec: JobSpec) -> str:
    """The best version in words: "version 4 is the best: accuracy 0.9312"; empty where the job keeps none.

    `undefined`: as `no_best`.
    """
    keep = spec.evaluation.keep
    if keep is None or best is None:
        return no_best(best, undefined, spec) or ""
    where = " on the held-out set" if best.by == "central" else ""
    words = f"version {best.version} is the best: {keep.metric} {best.value:.4g}{where}"
    if not is_worn_out(best, spec):
        return words
    by = f" by more than {keep.min_delta:g}" if keep.min_delta else ""
    return f"ended early: no improvement{by} in {best.since} evaluations (evaluation.keep.patience); {words}"
