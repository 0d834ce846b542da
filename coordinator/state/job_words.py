"""A job in words for people: where it stands, and what it cannot do as it stands."""

from __future__ import annotations

from dataclasses import replace

from coordinator.state import whole
from coordinator.state.job_events import Cancel, JobEvent, Pause, Resume, RollBack
from coordinator.state.job_state import Job, Status
from coordinator.state.round_settling import explain as explain_round
from coordinator.state.sites import misfits


def explain(job: Job, now: float) -> Job:
    """The job with its reason and its round's as they stand at `now`, for people."""
    if job.closing is not None and not job.status.is_final:
        goes_on = "its download is being loaded back, to see that it is the same model"
        return replace(job, reason=f"{job.closing}; {whole.stuck(job) or goes_on}")
    if job.round is None:
        wait_s = job.next_try_at - now
        again = f"; the next try is in {wait_s:.0f} s" if job.status is Status.RUNNING and wait_s > 0 else ""
        return replace(job, reason=(job.reason or "the next round is about to open") + again + _site_words(job))
    round_reason = explain_round(job.round, now, job.policy(job.round.kind)) + _site_words(job)
    reason = f"round {job.round.number}: {round_reason}"
    if job.reason:
        reason = f"{reason} ({job.reason})" if job.status is Status.RUNNING else f"{job.reason}; {reason}"
    return replace(job, reason=reason, round=replace(job.round, reason=round_reason))


def refusal(job: Job, event: JobEvent) -> str:
    """Why the event has no place in the job's status, and what can be done instead."""
    standing = f"job {job.id} is {job.status}"
    match event:
        case Pause() if job.status is Status.PENDING:
            return f"{standing}: it can be paused once it runs; wait for its preparation, or cancel it"
        case Pause() | Cancel() if job.status.is_final:
            return (
                f"{standing}: it has ended, and there is nothing to {'pause' if isinstance(event, Pause) else 'cancel'}"
            )
        case Resume() | RollBack() if job.status.is_final:
            copy = f"fedgalore jobs clone {job.id}{'' if job.model else ' --from-base'}"
            what = "resumed" if isinstance(event, Resume) else "rolled back"
            return f"{standing} and cannot be {what}; post a copy that goes on from it (`{copy}`)"
        case Resume():
            return f"{standing}: only a paused job can be resumed"
        case RollBack() if job.status is Status.PENDING:
            return f"{standing}: it has no version yet; wait for its preparation"
        case _:
            return f"{standing}: {type(event).__name__} has no place there"


def _site_words(job: Job) -> str:
    """Why fewer sites than wished for may be drawn, while that matters."""
    if not job.looks_for_sites:
        return ""
    others = f"data do not fit at {', '.join(misfits(job.sites))}" if misfits(job.sites) else ""
    return "".join(f"; {words}" for words in (others, job.missing) if words)
