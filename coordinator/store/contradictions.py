"""Whether what Redis holds of the jobs fits together, and fits what the last look found.

Keys can be lost one by one: by eviction, by a hand, by a dump that was restored in part. Then what a job needs is
unknown, and nothing may be deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.state.job_state import Job
from coordinator.state.versions import is_kept

ACCEPT = "`fedgalore accept-state` shows what is missing, and takes the state as it is"


class StateContradicts(RuntimeError):
    """Nothing is deleted; the message says what does not fit, and what to do."""

    def __init__(self, found: Sequence[str]) -> None:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        super().__init__(
            f"no blob is deleted, because the state contradicts itself: {'; '.join(found[:5])}{more}. Restore Redis "
            f"from a backup, or delete the job with cancel=true; {ACCEPT}"
        )


@dataclass(frozen=True)
class JobKeys:
    """What Redis holds of a job."""

    listed: bool = False  # in `jobs`
    active: bool = False  # in `active`
    has_record: bool = False  # a `job:<id>` with document and version
    parts: frozenset[str] = frozenset()  # `rounds`, `events` and the like, as far as there are keys
    saves: int = 0
    round: str = ""  # number of the round in flight
    closed: int = 0  # rounds
    counted: int = 0  # rounds that closed, by its totals
    is_found: bool = False  # by its status and facts

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is left."""
        return not (self.listed or self.active or self.has_record or self.parts)

    @property
    def is_partial(self) -> bool:
        """Whether its record is gone and more is left than its name in a list."""
        return bool(self.parts) and not self.has_record

    @property
    def lacks_derived(self) -> bool:
        """Whether `coordinator.store.derived` has to fill in what its record and its rounds say."""
        return self.has_record and (not self.is_found or self.counted < self.closed)


class Size(NamedTuple):
    """Of a table of Redis that is no job's: its entries, and how many were ever taken out on purpose."""

    entries: int
    taken_out: int


@dataclass(frozen=True)
class Expected:
    """What a job's document says of its other keys, as of a number of saves."""

    saves: int
    active: bool
    round: str
    closed: int
    at_work: frozenset[str]  # clients that have a task of it
    asked: frozenset[str]  # clients that are to look whether their data fit

    @classmethod
    def of(cls, job: Job, saves: int) -> Expected:
        number = str(job.round.number) if job.round else ""
        closed = job.rounds_opened - (job.round is not None)
        return cls(saves, not job.is_at_rest, number, closed, job.open_clients, job.unanswered)


def of_job(job_id: str, keys: JobKeys, expected: Expected | None) -> Iterator[str]:
    """What does not fit of one job that Redis holds something of. `expected`: None where its document is unread."""
    if not keys.has_record:
        yield f"job {job_id} has keys in Redis and no record"
        return
    if not keys.listed:
        yield f"job {job_id} is missing in the list of jobs"
    if "events" not in keys.parts:
        yield f"the events of job {job_id} are missing"
    if keys.counted > keys.closed:  # fewer are filled in from the rounds
        yield f"the totals of job {job_id} do not fit its rounds"
    if expected is None or expected.saves != keys.saves:  # saved since: the next look compares
        return
    if expected.active and not keys.active:
        yield f"job {job_id} is missing in the list of active jobs"
    if expected.round != keys.round:
        yield f"job {job_id} has another round in flight than its record says"
    if expected.closed != keys.closed:
        yield f"closed rounds of job {job_id} are missing"


def with_before(held: Mapping[str, JobKeys], before: Mapping[str, int], deleted: frozenset[str]) -> Iterator[str]:
    """What does not fit the last look. `before`: saves by job; `deleted`: jobs that people have deleted since."""
    for job_id in sorted(before.keys() - held.keys() - deleted):
        yield f"job {job_id} is gone, and nobody has deleted it"
    for job_id in sorted(before.keys() & held.keys()):
        if held[job_id].has_record and held[job_id].saves < before[job_id]:
            yield f"job {job_id} is older than it was at the last look"


def shrunk(before: Mapping[str, Size], now: Mapping[str, Size]) -> Iterator[str]:
    """Tables that have lost more entries since the last look than anybody has taken out."""
    for name in sorted(before.keys() & now.keys()):
        if before[name].entries - now[name].entries > now[name].taken_out - before[name].taken_out:
            yield f"entries of {name} are missing"


def unnamed(job: Job, named: Mapping[int, object]) -> Iterator[str]:
    """Versions that the job keeps, of which nothing says what they are made of. `named`: by version."""
    if job.prepared is None or job.model is None:
        return
    known = {0, job.model.version, *named}
    missing = [version for version in range(job.model.version) if version not in known and is_kept(job, version)]
    if missing:
        yield f"nothing says what version {', '.join(map(str, missing))} of job {job.id} is made of"
