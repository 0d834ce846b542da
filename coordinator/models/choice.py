"""Which version of a job's model is meant by `last`, `best` or a number, and whether it is still there."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.state.errors import NotReady, VersionNotFound
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion
from coordinator.state.versions import versions
from coordinator.store.blob_store import BlobStore


def chosen(job: Job, results: Iterable[ModelVersion | None], wanted: str, blobs: BlobStore) -> ModelVersion:
    """The version that is asked for. Looks on the disk whether its weights are held.

    Args:
        results: what the job's closed rounds made.
        wanted: `last`, `best` or a number.

    Raises:
        NotReady: the job has no model yet, or has evaluated none.
        VersionNotFound: with those that are held.
    """
    ready = job.ready()
    if wanted == "last":
        return ready.model
    if wanted == "best":
        return _best(job)
    known, number = versions(job, results), int(wanted)
    if number == ready.model.version or (number in known and blobs.exists(known[number].weights.sha256)):
        return known[number]
    held = ", ".join(str(number) for number, each in sorted(known.items()) if blobs.exists(each.weights.sha256))
    what = "is not kept any more" if number in known else "does not exist yet"
    raise VersionNotFound(f"version: {number} {what}; of job {job.id} these are held: {held or 'none'}")


def _best(job: Job) -> ModelVersion:
    if job.parsed.evaluation.keep is None:
        raise VersionNotFound(
            f"version: job {job.id} keeps no best version; take last or a number, or post a job with evaluation.keep"
        )
    if job.best_model is None:
        raise NotReady(f"version: no version of job {job.id} has been evaluated yet, so none is the best; take last")
    return job.best_model
