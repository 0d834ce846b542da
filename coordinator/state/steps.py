"""Several steps of a job, one after the other, to be saved as one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.state import job as jobs
from coordinator.state.job_events import ByPerson, JobEvent
from coordinator.state.job_state import Job
from coordinator.state.round_state import Effect, Round
from coordinator.state.stream_events import StreamEvent, changes

Decide = Callable[[Job], JobEvent | None]


@dataclass(frozen=True)
class Steps:
    """What decisions made of a job.

    Args:
        outcomes: of each decision that was asked, whether it changed the job, or what it raised.
        closed: the round that the last of them ended.
    """

    before: Job
    job: Job
    outcomes: list[bool | Exception]
    events: list[StreamEvent]
    effects: tuple[Effect, ...]
    closed: Round | None = None

    @property
    def changed(self) -> bool:
        return self.job is not self.before


def take(before: Job, decisions: Sequence[Decide], now: float) -> Steps:
    """Advances a job by what each decision makes of it. One that raises leaves the job to the others as it was.

    Ends behind a step that closes a round: the decisions left are to be asked when that is saved.
    """
    job, closed = before, None
    outcomes: list[bool | Exception] = []
    events: list[StreamEvent] = []
    effects: dict[Effect, None] = {}
    for decide in decisions:
        try:
            event = decide(job)
            step = jobs.advance(job, event, now) if event is not None else None
        except Exception as error:
            outcomes.append(error)
            continue
        outcomes.append(changed := step is not None and step.job is not job)
        if step is None or not changed:
            continue
        by = event.by if isinstance(event, ByPerson) else ""
        events += changes(job, step.job, step.closed, step.reason, by)
        effects |= dict.fromkeys(step.effects)
        job, closed = step.job, step.closed
        if closed is not None:
            break
    if not job.waits_for_reports:
        effects[Effect.WAKE_DRIVER] = None
    return Steps(before, job, outcomes, events, tuple(effects), closed)
