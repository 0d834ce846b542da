"""An earlier version of a job's model becomes current again, as a new version: numbers are never used twice.

Seeds and the noise of privacy hang on a version's number, so that none of them is drawn twice either. Weights and state
are the earlier version's. All else begins anew: the change that made the version, of which momentum takes a share, and
what cuts left out, at the server and at the clients.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.state.errors import IllegalTransition, VersionNotFound
from coordinator.state.job_state import Job, Rollback, Status
from coordinator.state.round_state import ModelVersion
from coordinator.state.versions import is_kept
from fedgalore.chain import Earlier


def rolled_back(job: Job, target: ModelVersion) -> Job:
    """The job with the weights and state of `target` as its next version; the same object when that has just been done.

    As many rounds follow as the job has beyond the target. A job that does not run waits for a person to resume it.

    Raises:
        VersionNotFound: there is no such version yet, or it is no longer kept.
        IllegalTransition: it is the current one, or training cannot go on from it.
    """
    current = job.ready().model
    if job.rollbacks and job.rollbacks[-1] == Rollback(current, target.version):
        return job
    _check(job, current, target)
    model = ModelVersion(current.version + 1, target.chain, target.weights, state=target.state)
    back = replace(
        job,
        model=model,
        earlier=_still_there(job, target),
        rollbacks=(*job.rollbacks, Rollback(model, target.version)),
        best=replace(job.best, since=0) if job.best else None,
        closing=None,
        was_completed=job.was_completed or job.status is Status.COMPLETED,
        contributions={},
        abandoned_in_a_row=0,
        next_try_at=0.0,
        reason=f"version {model.version} has the weights of version {target.version}, to which it was rolled back",
    )
    if job.status is Status.RUNNING:
        return back
    left = max(0, job.parsed.rounds.count - back.rounds_behind(model.version))
    what = f"train on ({left} of {job.parsed.rounds.count} rounds are left)" if left else "evaluate it once more"
    return replace(back, status=Status.PAUSED, reason=f"{back.reason}; resume the job to {what}")


def _still_there(job: Job, target: ModelVersion) -> Earlier | None:
    """The cuts that led to the target's checkpoint; none of them is kept once a job has ended."""
    same = target.chain.checkpoint == job.ready().model.chain.checkpoint
    return job.earlier if same and not job.status.is_final else None


def _check(job: Job, current: ModelVersion, target: ModelVersion) -> None:
    named = f"version: {target.version} of job {job.id}"
    if target.version == current.version:
        raise IllegalTransition(f"{named} is the current one; name an earlier version")
    if target.version > current.version:
        raise VersionNotFound(f"{named} does not exist yet; name an earlier version")
    if not is_kept(job, target.version):
        raise VersionNotFound(f"{named} is no longer kept (rounds.keep_versions); name one that is")
    if target.state is None and not job.parsed.method.starts_anew:
        raise IllegalTransition(
            f"{named} has no basis that its clients could share (method.basis); name a later version, or post the job "
            "again"
        )
