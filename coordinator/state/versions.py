"""The versions of a job's model: which there have been, and which of them stay on disk by the job's policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion


def versions(job: Job, results: Iterable[ModelVersion | None]) -> dict[int, ModelVersion]:
    """Every version that the job's model has had, by number; none while it is being prepared.

    Args:
        results: what the job's closed rounds made.
    """
    if job.prepared is None or job.model is None:
        return {}
    made = (job.prepared.model, *results, *(back.model for back in job.rollbacks), job.model)
    return {each.version: with_weights(job, each) for each in made if each is not None}


def with_weights(job: Job, model: ModelVersion) -> ModelVersion:
    """The version with its whole weights, if they were made."""
    return replace(model, weights=job.whole.get(model.version, model.weights))


def is_kept(job: Job, version: int) -> bool:
    """Whether the weights of this version stay: of the newest, the best, and what `rounds.keep_versions` says.

    Those of version 0 stay until the job ends for the first time, because agents start from it. A version that is not
    kept never is again.
    """
    if job.model is None:
        return False
    policy = job.parsed.rounds.keep_versions
    best = job.best_model is not None and job.best_model.version == version
    periodic = policy.every is not None and version % policy.every == 0
    newest = job.model.version - policy.last < version
    first = version == 0 and not (job.status.is_final or job.was_completed)
    return best or periodic or newest or first
