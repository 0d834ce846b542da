"""What a step of a job looks like in its stream of events: the state before it compared with the state after.

| type                | data                                                                     |
|---------------------|--------------------------------------------------------------------------|
| `job.status`        | status, was: the one before, reason, by: the person who wanted it; the first is the creation |
| `job.rollback`      | model_version, of: the version that has weights and state of an earlier; by |
| `job.labels`        | tags, description, by                                                    |
| `site.check`        | client, fits, problem, code: whether the site's data fit the job         |
| `round.phase`       | round, kind, phase, at, reason; on COMMITTED also model_version, timings and statistics |
| `client.task`       | round, client: the client took its task                                  |
| `client.report`     | round, client, num_examples, size_bytes, metrics                         |
| `client.evaluation` | round, client, model_version, examples, metrics                          |
| `client.failure`    | round, client, reason, code                                              |
| `client.late`       | round, client, reason: the round ended without what the client was asked for |
| `client.dropped`    | round, client, reason: its update is not in the round's result           |
| `client.lost`       | round, client, reason: its update is damaged on disk and asked for again |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coordinator.state.job_state import Job
from coordinator.state.round_state import Participant, Phase, Round

StreamEvent = tuple[str, dict[str, Any]]  # type, data
StreamRow = tuple[str, str, dict[str, Any]]  # id in the stream, type, data


def changes(before: Job | None, after: Job, closed: Round | None, reason: str, by: str = "") -> list[StreamEvent]:
    """Events of one step, in the order in which they happened.

    Args:
        closed: the round that the step ended.
        by: the person who wanted the step; empty: nobody, or one whose name was not asked.
    """
    who = {"by": by} if by else {}
    rows: list[StreamEvent] = list(_checks(before, after))
    for now in (closed, after.round):
        if now is None:
            continue
        was = before.round if before and before.round and before.round.number == now.number else None
        rows += [*_clients(was, now), *_late(was, now), *_phases(was, now)]
    if before is not None and len(after.rollbacks) > len(before.rollbacks):
        newest = after.rollbacks[-1]
        rows.append(("job.rollback", {"model_version": newest.model.version, "of": newest.of, **who}))
    if before is not None and before.labels != after.labels:
        rows.append(("job.labels", {"tags": list(after.labels.tags), "description": after.labels.description, **who}))
    if before is None or before.status is not after.status:
        earlier = {"was": before.status} if before is not None else {}
        rows.append(("job.status", {"status": after.status, "reason": reason, **earlier, **who}))
    return rows


def _checks(before: Job | None, after: Job) -> Iterator[StreamEvent]:
    """Answers that came."""
    was = before.sites if before else {}
    for client, check in after.sites.items():
        if check.answered_at is not None and was.get(client) != check:
            yield "site.check", {"client": client, "fits": check.fits, "problem": check.problem, "code": check.code}


def _clients(was: Round | None, now: Round) -> Iterator[StreamEvent]:
    earlier = was.participants if was else {}
    for client in sorted(client for client, each in now.participants.items() if earlier.get(client) is not each):
        head = {"round": now.number, "client": client}
        before, after = earlier.get(client, Participant()), now.participants[client]
        yield from ((kind, {**head, **data}) for kind, data in _participant(before, after))


def _participant(before: Participant, after: Participant) -> Iterator[StreamEvent]:
    if after.taken_at is not None and before.taken_at is None:
        yield "client.task", {}
    if after.evaluation and not before.evaluation:
        told = after.evaluation
        data = {"model_version": told.model_version, "examples": told.examples, "metrics": told.metrics}
        yield "client.evaluation", data
    if after.receipt and not before.receipt:
        receipt, size = after.receipt, after.receipt.blob.size_bytes
        yield "client.report", {"num_examples": receipt.num_examples, "size_bytes": size, "metrics": receipt.metrics}
    if after.lost is not None and before.receipt and not after.receipt:
        yield "client.lost", {"reason": after.lost}
    if after.dropped is not None and before.dropped is None:
        yield "client.dropped", {"reason": after.dropped}
    if after.failure is not None and before.failure is None:
        yield "client.failure", {"reason": after.failure, "code": after.failure_code}


def _phases(was: Round | None, now: Round) -> Iterator[StreamEvent]:
    for phase, at in now.phase_at.items():
        if was and phase in was.phase_at:
            continue
        data: dict[str, Any] = {"round": now.number, "kind": now.kind, "phase": phase, "at": at}
        if phase == now.phase:
            data["reason"] = now.reason
        if phase == Phase.COMMITTED:
            version = now.result.version if now.result else now.model_version
            data |= {"model_version": version, "timings": now.timings, "statistics": now.statistics}
            if now.result and now.result.held_out_failure:
                data["held_out_failure"] = now.result.held_out_failure
        yield "round.phase", data


def _late(was: Round | None, now: Round) -> Iterator[StreamEvent]:
    """Clients that were still at work when the round waited for them no longer."""
    if was is None or not was.phase.takes_reports or now.phase.takes_reports:
        return
    over = was.deadline_at is not None and now.phase_at[now.phase] >= was.deadline_at
    if now.phase is Phase.ABANDONED and not over:
        return
    reason = "the deadline passed" if over else "enough others had reported"
    was_over = any(each.lost for each in now.participants.values())  # of others than these it has been said
    for client, each in sorted(now.participants.items()):
        if not now.has_reported(client) and each.failure is None and (each.lost or not was_over):
            yield "client.late", {"round": now.number, "client": client, "reason": reason}
