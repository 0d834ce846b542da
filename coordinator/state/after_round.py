"""What the end of its round makes of a job: the next version, the best one, the next try, or the job's end."""

from __future__ import annotations

from dataclasses import replace

from coordinator.state import setbacks, whole
from coordinator.state.job_state import Job, Status
from coordinator.state.pooled import of_held_out, pooled
from coordinator.state.round_state import ModelVersion, Phase, Round
from fedgalore.best import Told, best_of, describe
from fedgalore.chain import Cut, Earlier
from fedgalore.measures.values import Measured


def after_round(job: Job, closed: Round, now: float) -> Job:
    """What the end of its round makes of a job."""
    job = _judged(job, closed)
    if closed.kind == "evaluate":
        parts = (
            f"version {closed.model_version} is final",
            closed.reason,
            describe(
                job.best,
                {"sites": _of_sites(job, closed).undefined, "central": of_held_out(job.model).undefined},
                job.parsed,
            ),
        )
        return replace(job, closing="; ".join(filter(None, parts)))
    job = replace(job, setbacks=setbacks.after_round(job.setbacks, closed, now))
    return _after_commit(job, closed) if closed.phase is Phase.COMMITTED else _after_abandonment(job, closed, now)


def _after_abandonment(job: Job, closed: Round, now: float) -> Job:
    in_a_row = job.abandoned_in_a_row + 1
    record = f"round {closed.number} abandoned: {closed.reason}"
    reason = f"{job.reason}; {record}" if job.status is Status.PAUSED else record
    job = replace(job, abandoned_in_a_row=in_a_row, reason=reason, next_try_at=now + setbacks.wait_s(in_a_row))
    if job.status is Status.RUNNING and in_a_row >= setbacks.TRIES_UNTIL_PAUSE:
        return replace(job, status=Status.PAUSED, reason=setbacks.pause_reason(in_a_row, closed, job.setbacks))
    return job


def _judged(job: Job, closed: Round) -> Job:
    """The job with the version that its round has evaluated compared to the best; `job.model` still is that version.

    A round that is abandoned is held again, but for the evaluation of the last version: what is held out has told then.
    """
    over = closed.phase is Phase.COMMITTED
    central = of_held_out(job.model).metrics if closed.evaluate and (over or closed.kind == "evaluate") else {}
    told: Told[float] = {"sites": _of_sites(job, closed).metrics if over else {}, "central": central}
    best = best_of(job.best, closed.model_version, told, job.parsed)
    is_new = best is not None and (job.best is None or best.version != job.best.version)
    return replace(job, best=best, best_model=job.model if is_new else job.best_model)


def _of_sites(job: Job, closed: Round) -> Measured:
    return pooled(closed, job.parsed.server)


def _after_commit(job: Job, closed: Round) -> Job:
    # A pause keeps its reason; the record of abandoned rounds ends here.
    reason = job.reason if job.status is Status.PAUSED else ""
    summed = [client for client in closed.receipts if closed.participants[client].dropped is None]
    contributions = {**job.contributions, **dict.fromkeys(summed, closed.model_version + 1)}
    after = replace(job, model=closed.result, earlier=_earlier(job, closed.result))
    return replace(
        after,
        whole=whole.kept(after),
        abandoned_in_a_row=0,
        next_try_at=0.0,
        reason=reason,
        contributions=contributions,
    )


def _earlier(job: Job, made: ModelVersion | None) -> Earlier | None:
    """What leads to the checkpoint of the version that a round made; nothing where no cut made it."""
    if made is None or made.aggregate is None:
        return None
    return job.trail.then(Cut(made.version, made.aggregate), made.chain).earlier
