"""Which version of a job's model is meant by `last`, `best` or a number, and whether it is still kept.

The job's state tells, not the disk: what the sweep has yet to remove is gone for everybody already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.state.errors import NotReady, VersionNotFound
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.state.versions import is_kept, with_weights


async def chosen(job: Job, wanted: str, version: Callable[[Job, int], Awaitable[ModelVersion | None]]) -> ModelVersion:
    """The version that is asked for.

    Args:
        wanted: `last`, `best` or a number.
        version: finds a version that the job's model has had.

    Raises:
        NotReady: the job has no model yet, or has evaluated none.
        VersionNotFound: with those that are kept.
    """
    newest = with_weights(job, job.ready().model)
    if wanted == "last":
        return newest
    if wanted == "best":
        return with_weights(job, _best(job))
    number = int(wanted)
    if is_kept(job, number) and number <= newest.version and (found := await version(job, number)) is not None:
        return found
    kept = [each for each in range(newest.version + 1) if is_kept(job, each)]
    what = "is no longer kept (rounds.keep_versions)" if number <= newest.version else "does not exist yet"
    raise VersionNotFound(f"version: {number} of job {job.id} {what}; kept are {', '.join(map(str, kept))}")


def _best(job: Job) -> ModelVersion:
    if job.parsed.evaluation.keep is None:
        raise VersionNotFound(
            f"version: job {job.id} keeps no best version; name another, or post a job with evaluation.keep"
        )
    if job.best_model is None:
        raise NotReady(f"version: no version of job {job.id} has been evaluated yet, so none is the best; name another")
    return job.best_model
