"""What there is to do for the aggregator: at most one piece of work a job."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.state import whole
from coordinator.state.job_state import Job, Status
from coordinator.state.round_state import Phase, Round


@dataclass(frozen=True)
class Preparation:
    """Reading `model.source` of a job that was just posted."""

    job: Job

    @property
    def name(self) -> str:
        """What its attempts are counted by."""
        return "prepare"


@dataclass(frozen=True)
class Aggregation:
    """Making the next version from the updates of a round that has them all."""

    job: Job
    round: Round

    @property
    def name(self) -> str:
        """What its attempts are counted by."""
        return f"round {self.round.number}"


@dataclass(frozen=True)
class Completion:
    """Making the whole weights of a version that has a chain alone."""

    job: Job
    version: int

    @property
    def name(self) -> str:
        """What its attempts are counted by."""
        return f"weights {self.version}"


@dataclass(frozen=True)
class Verification:
    """Loading the final model back as a user would, before the job says that it has ended well."""

    job: Job

    @property
    def name(self) -> str:
        """What its attempts are counted by."""
        return "load back"


Work = Preparation | Aggregation | Completion | Verification


def piece_of(job: Job) -> Work | None:
    """What this job needs of the aggregator now."""
    if job.status is Status.PENDING:
        return Preparation(job)
    if job.round is not None and job.round.phase is Phase.AGGREGATION:
        return Aggregation(job, job.round)
    if (version := whole.next_wanted(job)) is not None:
        return Completion(job, version)
    if job.closing is not None and not job.status.is_final and not whole.missing_at_end(job):
        return Verification(job)
    return None
