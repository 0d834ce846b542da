"""Whole weights of versions that are no checkpoints: who wants them, and what became of that.

The aggregator makes them: of the final and the best version when a job's rounds are over, of others when somebody asks.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.state.job_events import WeightsLost, WeightsMade, WeightsWanted
from coordinator.state.job_state import Job, Status
from coordinator.state.versions import is_kept, with_weights
from fedgalore.process.blob_ref import BlobRef


def after(job: Job, event: WeightsWanted | WeightsMade | WeightsLost) -> Job:
    """The job once weights are wished for, made or lost; the same object when that changes nothing.

    A job that cannot end without them is paused.
    """
    version = event.version
    match event:
        case WeightsWanted():
            known = version in job.whole or version in job.wanted
            return job if known else replace(job, wishes={**job.wishes, version: ""})
        case WeightsMade():
            wishes = {number: problem for number, problem in job.wishes.items() if number != version}
            return replace(job, whole={**job.whole, version: event.weights}, wishes=wishes)
        case WeightsLost():
            lost = replace(job, wishes={**job.wishes, version: event.reason})
            return replace(lost, status=Status.PAUSED) if stuck(lost) and not job.status.is_final else lost


def missing_at_end(job: Job) -> list[int]:
    """The final and the best version of a job whose rounds are over, if their whole weights are still to be made."""
    ends = (job.best_model, job.model) if job.closing is not None else ()
    return [model.version for model in ends if model and with_weights(job, model).weights is None]


def next_wanted(job: Job) -> int | None:
    """A version whose whole weights are to be made now; None where there is none."""
    wanted = {*job.wanted, *missing_at_end(job)}
    return min((version for version in wanted if not job.wishes.get(version)), default=None)


def stuck(job: Job) -> str | None:
    """Why a job whose rounds are over cannot end; None where it can."""
    return next((job.wishes[version] for version in missing_at_end(job) if job.wishes.get(version)), None)


def resumed(wishes: dict[int, str]) -> dict[int, str]:
    """Wishes that are still open. What could not be made is tried again where it is needed: it may have been mended."""
    return {version: problem for version, problem in wishes.items() if not problem}


def kept(job: Job) -> dict[int, BlobRef]:
    """The weights that were made, of versions that are kept still."""
    return {version: weights for version, weights in job.whole.items() if is_kept(job, version)}


def serving(job: Job, version: int) -> int | None:
    """The newest version before this one that is kept: it needs no blob that came with this one or later."""
    return next((number for number in range(version - 1, -1, -1) if is_kept(job, number)), None)


def remedy(job: Job, version: int) -> str:
    """What to do where a blob that came with this version is lost, as the end of a sentence."""
    before = serving(job, version)
    if before is None:
        return "restore it, or post the job again"
    return f"restore it, or go back to version {before}, which does without it (`{_rollback(job, before)}`)"


def way_back(job: Job, version: int) -> str:
    """What to do where a version cannot be gone on from, as the end of a sentence."""
    before = serving(job, version)
    return "post the job again" if before is None else f"go back to version {before} (`{_rollback(job, before)}`)"


def _rollback(job: Job, version: int) -> str:
    return f"fedgalore jobs rollback {job.id} --version {version}"
