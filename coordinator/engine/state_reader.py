"""Looking and waiting: jobs, rounds and agents as they are, and the next change of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from coordinator.engine.lease import AGGREGATOR, DRIVER
from coordinator.engine.registry import ClientRegistry
from coordinator.engine.stepper import Stepper
from coordinator.state.job_filter import ALL, Facts, JobFilter
from coordinator.state.job_id import posted_before
from coordinator.state.job_state import Job
from coordinator.state.job_words import explain
from coordinator.state.limits import MAX_EVENTS_READ
from coordinator.state.pooled import results
from coordinator.state.records import AgentStatus, of_team
from coordinator.state.round_state import ModelVersion, Round
from coordinator.state.stream_events import StreamRow
from coordinator.state.totals import Summary, Totals
from coordinator.state.versions import versions
from coordinator.store.redis_state_store import RedisStateStore
from coordinator.store.removal import Removal

NEAR = 4  # rounds that are read of a version among many: one that was abandoned as often is looked at by itself
TRIES = 16  # rounds that are read at a time, of those that one version was tried in
_EVENT_ID = re.compile(r"\d{1,18}(-\d{1,18})?")


class StateReader:
    """Shows jobs, rounds and agents as they are, and waits for changes. Changes nothing itself.

    A job whose document cannot be read is left out wherever many are looked at; where it is named, `JobUnreadable` is
    raised.
    """

    def __init__(
        self,
        store: RedisStateStore,
        clock: Callable[[], float],
        registry: ClientRegistry,
        stepper: Stepper,
        removal: Removal,
    ) -> None:
        self._store = store
        self._clock = clock
        self._registry = registry
        self._stepper = stepper
        self._removal = removal

    async def job(self, job_id: str) -> Job:
        """The job, its reasons as of now.

        Raises:
            JobNotFound: there is no such job.
        """
        return explain((await self._stepper.load(job_id)).job, self._clock())

    async def team(self, job_id: str) -> str:
        """The team of a job, also of one that cannot be read; empty: it is of none, or is not there."""
        return await self._store.team(job_id)

    async def jobs(self, wanted: JobFilter = ALL, limit: int = 50, after: str | None = None) -> list[Job]:
        """Jobs that are asked for, newest first.

        Args:
            after: id of the last job of the page before, which may be deleted meanwhile.

        Raises:
            JobNotFound: `after` is no id of a job.
        """
        if after is not None and posted_before(after) is None:
            await self._stepper.load(after)
        listed: list[Job] = []
        while len(listed) < limit:
            ids = await self._store.job_ids(after, limit, wanted)
            page = await self._store.load_many(ids)
            listed += [explain(job, self._clock()) for job in page if wanted.takes(Facts.of(job))]
            if len(ids) < limit:
                break
            after = ids[-1]
        return listed[:limit]

    async def active_jobs(self) -> list[Job]:
        """Jobs that are not final, oldest first."""
        active = await self._store.load_many(await self._store.active_ids())
        return [explain(job, self._clock()) for job in active]

    async def versions_to_come(self) -> set[tuple[str, int]]:
        """Job id and the version that its next updates are for, of every active job."""
        return {(job.id, job.model.version + 1) for job in await self.active_jobs() if job.model}

    async def rounds(self, job: Job) -> list[Round]:
        """All rounds in the order of their numbers, the round in flight last."""
        # A round that closed since the job was read is in the archive.
        closed = await self._store.closed_rounds(job.id)
        if job.round is None or any(each.number == job.round.number for each in closed):
            return closed
        return [*closed, job.round]

    async def page_of_rounds(self, job: Job, after: int, limit: int) -> list[Round]:
        """Up to `limit` rounds that follow round `after`, in the order of their numbers."""
        last = min(job.rounds_opened, after + limit)
        return await self._some_rounds(job, range(after + 1, last + 1))

    async def rounds_from(self, job: Job, version: int) -> list[Round]:
        """The rounds that started from a version of the job's model: several where some were abandoned."""
        # Versions never fall from a round to the next.
        first = await self._first_round(job, version)
        rounds: list[Round] = []
        while found := await self.page_of_rounds(job, first - 1 + len(rounds), TRIES):
            rounds += [each for each in found if each.model_version == version]
            if found[-1].model_version != version:
                break
        return rounds

    async def newest_evaluated(self, job: Job) -> list[Round]:
        """The rounds in which clients evaluated the newest version that any has; none where none has."""
        evaluated = (await self.totals(job.id)).evaluated
        newest = await self._some_rounds(job, [evaluated] if evaluated else [])
        newest += [job.round] if job.round is not None and results(job.round) else []
        return await self.rounds_from(job, newest[-1].model_version) if newest else []

    async def version(self, job: Job, number: int) -> ModelVersion | None:
        """A version that the job's model has had; None where it never had it."""
        if found := versions(job, ()).get(number):
            return found
        made = await self._some_rounds(job, [(await self._first_round(job, number)) - 1])
        return versions(job, [each.result for each in made]).get(number)

    async def tried(self, job: Job, numbers: Collection[int]) -> dict[int, tuple[ModelVersion | None, list[Round]]]:
        """By number, versions that the job's model has had, and the rounds that started from each; read together."""
        firsts = await self._first_rounds(job, numbers)
        places = {place for first in firsts.values() for place in range(first - 1, first + NEAR)}
        read = {each.number: each for each in await self._some_rounds(job, sorted(places))}
        made = versions(job, [each.result for each in read.values()])
        found = {}
        for number, first in firsts.items():
            rounds = [read[place] for place in range(first, first + NEAR) if place in read]
            rounds = [each for each in rounds if each.model_version == number]
            if len(rounds) == NEAR:  # there may be more of them
                rounds = await self.rounds_from(job, number)
            found[number] = made.get(number), rounds
        return found

    async def _first_round(self, job: Job, version: int) -> int:
        return (await self._first_rounds(job, [version]))[version]

    async def _first_rounds(self, job: Job, numbers: Collection[int]) -> dict[int, int]:
        """By version, the number of the first round that started from it or a later one: by halving, all at once."""
        low, high = dict.fromkeys(numbers, 1), dict.fromkeys(numbers, job.rounds_opened + 1)
        while middles := {
            number: (low[number] + high[number]) // 2 for number in numbers if low[number] < high[number]
        }:
            read = await self._some_rounds(job, sorted(set(middles.values())))
            starts = {each.number: each.model_version for each in read}
            for number, middle in middles.items():
                if starts.get(middle, number) < number:
                    low[number] = middle + 1
                else:
                    high[number] = middle
        return low

    async def _some_rounds(self, job: Job, numbers: Sequence[int]) -> list[Round]:
        """Those of these rounds that there are; of the round in flight, as the job has it."""
        closed = await self._store.some_rounds(job.id, numbers)
        flying = job.round
        if flying is None or flying.number not in numbers or any(each.number == flying.number for each in closed):
            return closed
        return [*closed, flying]

    async def round(self, job: Job, number: int) -> Round:
        """A round of the job, in flight or closed.

        Raises:
            RoundNotFound
        """
        return await self._stepper.round(job, number)

    async def agents(self, teams: Collection[str] | None = None) -> list[AgentStatus]:
        """Every enrolled client, by name, or those that are given to these teams, with tasks of their jobs alone."""
        in_hand = await self._store.load_many(sorted(await self._store.agents.jobs_in_hand()))
        return await self._registry.all((job for job in in_hand if teams is None or job.team in teams), teams)

    async def presence(self, team: str = "") -> list[AgentStatus]:
        """Every enrolled client, by name, without the task that it holds: no job is read.

        Args:
            team: only those that a job of this team may ask; empty: all.
        """
        return await self._registry.all((), of_team(team))

    async def live_progress(self, job_id: str) -> dict[str, dict[str, Any]]:
        """By client: round, stage, step, train_loss (None unless finite) and at, of the round in flight."""
        return await self._store.beside.progress(job_id)

    async def traffic(self, job_id: str, rounds: Iterable[Round]) -> dict[int, dict[str, dict[str, int]]]:
        """Bytes of these rounds by round, client and direction: `{3: {"a": {"up": 10, "down": 20}}}`."""
        return await self._store.beside.traffic(job_id, rounds)

    async def totals(self, job_id: str) -> Totals:
        """What is counted of a job."""
        return await self._store.beside.totals(job_id)

    async def summaries(self) -> list[Summary]:
        """What is counted of every job, without a look at their documents."""
        return await self._store.summaries()

    async def totals_of_deleted(self) -> dict[str, int]:
        """What jobs counted that were deleted: rounds `committed` and `abandoned`, bytes `up` and `down`."""
        return await self._removal.totals()

    async def counters(self) -> dict[str, float]:
        """What is counted of all jobs together: `coordinator.state.counters`."""
        return await self._store.counters()

    async def leases(self) -> dict[str, bool]:
        """By the name of each lease, whether a process holds it."""
        return await self._store.leases((DRIVER, AGGREGATOR))

    async def refusal(self) -> str | None:
        """Why the collector deletes nothing, in words for people; None where it works."""
        return await self._store.refusal()

    def mark(self, topic: str = "") -> int:
        """Note it before looking at the state, and pass it to `wait_for_change`: then no change is missed."""
        return self._store.mark(topic)

    async def wait_for_change(self, timeout_s: float, since: int | None = None, topic: str = "") -> bool:
        """Waits for a save by any process, of the topic (an `Effect`) or at all; False when the time ran out."""
        return await self._store.wait(timeout_s, since, topic)

    async def events(self, job: Job, after: str = "0", block_s: float | None = None) -> list[StreamRow]:
        """Up to `MAX_EVENTS_READ` rows (id, type, data) after the id `after`, waiting up to `block_s` for the first.

        What the types mean: `coordinator.state.stream_events`. An `after` that is no event id counts as the beginning.
        """
        after = after if _EVENT_ID.fullmatch(after) else "0"
        loop = asyncio.get_running_loop()
        end = loop.time() + (block_s or 0.0)
        while True:
            mark = self.mark()
            rows = await self._store.events(job.id, after, MAX_EVENTS_READ)
            left = end - loop.time()
            if rows or left <= 0:
                return rows
            await self.wait_for_change(left, mark)

    async def history(self, job: Job, after: str | None, limit: int, *, last: bool) -> list[StreamRow]:
        """Up to `limit` rows as `events`: the first after the id `after`, or the `last` of them."""
        return await self._store.events(job.id, after or "0", limit, last=last)
