"""Garbage collection of blobs: by reference, not by age.

Every job needs its base model, the template of its downloads (which is its version 0, too), and what the model versions
that it keeps (`coordinator.state.versions`) are made of: whole weights, or a checkpoint and the cuts since. A job that
can be rolled back to one of them needs its chain and its state also where its weights are whole: clients come to it by
the chain. A job that goes on also needs the other blobs
of its newest version, the chain by which its clients come to that version, and the updates of its round in flight. A
job that waits for its preparation needs the version of another job that it starts from.

All other blobs are deleted, after two looks. A blob that a closed round, a superseded version or a deleted job named is
spent: the state itself says that it is done with, and the looks may be minutes apart. Of any other blob nothing says
so: its reference may be about to be written, or may have been lost, so the looks are an hour apart. Where the state
contradicts itself (`coordinator.store.contradictions`), or too much would go of which nothing says that it is done
with, nothing is deleted at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from coordinator.state.errors import StateUnavailable
from coordinator.state.job_state import Job
from coordinator.state.round_state import ModelVersion, Round
from coordinator.state.versions import is_kept, versions, with_weights
from coordinator.store.binding import Binding
from coordinator.store.blob_store import BlobStore, Held
from coordinator.store.census import take as take_census
from coordinator.store.census import unlisted
from coordinator.store.contradictions import (
    ACCEPT,
    Expected,
    JobKeys,
    Size,
    StateContradicts,
    of_job,
    shrunk,
    unnamed,
    with_before,
)
from coordinator.store.derived import fill_in
from coordinator.store.looks import Looks
from coordinator.store.redis_state_store import RedisStateStore
from coordinator.store.removal import Removal
from fedgalore.process.blob_ref import BlobRef
from fedgalore.spec.start import job_version

ALL_JOBS = 2**31
AGAIN_S = 0.2  # after which a contradiction is looked at a second time: another process may have been writing


class TooMuchToGo(RuntimeError):
    """Nothing is deleted; the message says how much would be, and what to do."""


@dataclass(frozen=True)
class MostToGo:
    """What may be deleted at a time of which nothing says that it is done with: a share of all bytes, and a count."""

    share: float = 0.5
    blobs: int = 1000


@dataclass
class _Known:
    """What the collector remembers of a job, so that it reads each closed round once."""

    saves: int = 0  # how often the job had been saved when it was read
    closed: int = 0  # all rounds up to this number have been read
    versions: dict[int, ModelVersion] = field(default_factory=dict)  # of closed rounds and rollbacks, while kept
    needed: frozenset[str] = frozenset()
    spent: set[str] = field(default_factory=set)
    prepares: bool = False  # its model may be written just now
    expected: Expected | None = None  # other keys of it
    problems: tuple[str, ...] = ()


class Collector:
    """Deletes blobs that no job needs. Safe beside running jobs, other processes and other collectors."""

    def __init__(
        self, store: RedisStateStore, blobs: BlobStore, binding: Binding, most_to_go: MostToGo = MostToGo()
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._binding = binding
        self._most_to_go = most_to_go
        self._removal = Removal(store.connection)
        self._jobs: dict[str, _Known] = {}
        self._sizes: dict[str, Size] = {}  # of tables that are no job's

    async def collect(self, now: float) -> int:
        """Sweeps the blob store. Returns the bytes freed. When it raises, it has deleted no blob that a job needs.

        Args:
            now: seconds since the epoch. What two looks find unneeded is deleted when they are long enough apart.

        Raises:
            NotBound: the blobs do not belong to this state store.
            StateContradicts: the needs of a job are unknown.
            TooMuchToGo: more is unneeded than may go at a time.
            StateUnavailable, OSError: the state store or the blob store does not answer.
        """
        await fill_in(self._store, self._binding)
        await self._check_state(await self._looked_before())
        discarded = await self._removal.discarded()
        # Checked last: a Redis that was emptied since the first line has lost its id, too.
        await self._binding.check()
        known, needed = list(self._jobs.values()), self.needed
        spent = frozenset[str]().union(*(job.spent for job in known))
        # A job in preparation may put the files of the same base model, and names them only at its end.
        if not any(job.prepares for job in known):
            spent |= discarded
        held = await asyncio.to_thread(self._blobs.held, needed)
        saves = {job_id: job.saves for job_id, job in self._jobs.items()}
        # Read again, as below: a person may have accepted the state meanwhile.
        looks = (await self._looked_before()).then(held.unneeded, needed, saves, self._sizes, now)
        ripe = looks.ripe(spent, now)
        await asyncio.to_thread(self._blobs.note_looks, looks.to_json())
        await self._binding.grow_older()
        self._check_amount(held, looks.unexplained(ripe, spent))
        freed = await asyncio.to_thread(self._blobs.sweep, needed, spent, now, ripe)
        left = await asyncio.to_thread(self._blobs.present, spent)
        for remembered in known:
            remembered.spent &= left
        await self._removal.forget_discarded(discarded & (needed | (spent - left)))
        return freed

    @property
    def needed(self) -> frozenset[str]:
        """Hashes of the blobs that jobs needed at the last look at the state."""
        return frozenset[str]().union(*(job.needed for job in self._jobs.values()))

    async def contradictions(self, looks: Looks) -> set[str]:
        """What of the state does not fit together, or does not fit these earlier looks, in words."""
        census = await take_census(self._store.connection)
        held = {job_id: keys for job_id, keys in census.jobs.items() if keys.has_record}
        changed = [job_id for job_id in held if self._known(job_id).saves != held[job_id].saves]
        jobs = await self._store.load_many(changed)
        self._jobs = {job_id: known for job_id, known in self._jobs.items() if job_id in held}
        for job in jobs:
            await self._look_at(job, held[job.id].saves)
        unread = set(changed) - {job.id for job in jobs}
        if newer := sorted(unread & self._store.too_new):
            raise StateUnavailable(
                f"no blob is deleted by this coordinator: a newer version has written job {newer[0]}; a replica "
                "that is upgraded cleans up"
            )
        found = {f"the record of job {job_id} cannot be read" for job_id in unread}
        for job_id, keys in census.jobs.items():
            found |= {*of_job(job_id, keys, self._known(job_id).expected), *self._known(job_id).problems}
        found |= await self._unheard_of(held)
        found |= {*with_before(census.jobs, looks.saves, census.deleted), *shrunk(looks.sizes, census.sizes)}
        self._sizes = census.sizes
        await self._removal.forget_deleted(census.deleted - looks.saves.keys() - census.jobs.keys())
        return found

    async def _unheard_of(self, held: Mapping[str, JobKeys]) -> set[str]:
        """Jobs that wait for clients who would not hear of it."""
        waiting = []
        for job_id, known in self._jobs.items():
            if known.expected is not None and known.expected.saves == held[job_id].saves:
                waiting += [("tasks", client, job_id) for client in known.expected.at_work]
                waiting += [("checks", client, job_id) for client in known.expected.asked]
        lacking = await unlisted(self._store.connection, waiting)
        return {f"job {job_id} is missing in the {kind} of client {client}" for kind, client, job_id in lacking}

    async def _looked_before(self) -> Looks:
        try:
            return Looks.read(await asyncio.to_thread(self._blobs.looks))
        except ValueError:
            raise StateContradicts([f"the file looks.json of {self._blobs.setting} is damaged"]) from None

    async def _check_state(self, looks: Looks) -> None:
        """Raises `StateContradicts` for what two looks in a row find."""
        found = await self.contradictions(looks) - looks.accepted
        if found:
            await asyncio.sleep(AGAIN_S)
            found &= await self.contradictions(looks)
        if found:
            self._jobs = {}  # what was read of a job that lacks something is read anew
            await self._binding.check()  # of the wrong Redis, everything contradicts
            refused = (await self._looked_before()).refused()
            await asyncio.to_thread(self._blobs.note_looks, refused.to_json())
            raise StateContradicts(sorted(found))

    def _check_amount(self, held: Held, unexplained: Collection[str]) -> None:
        n_bytes = sum(held.unneeded[sha256] for sha256 in unexplained)
        most = self._most_to_go
        if len(unexplained) > most.blobs or n_bytes > most.share * held.all_bytes:
            raise TooMuchToGo(
                f"no blob is deleted: no job names any more {len(unexplained)} blobs with {n_bytes} of "
                f"{held.all_bytes} bytes, which is more than may go at a time (sweep_share {most.share:g}, sweep_blobs "
                f"{most.blobs}). Look whether jobs are missing, and restore Redis from a backup; if not, {ACCEPT}"
            )

    def _known(self, job_id: str) -> _Known:
        return self._jobs.get(job_id, _Known())

    async def _look_at(self, job: Job, saves: int) -> None:
        known = self._jobs.setdefault(job.id, _Known())
        for closed in await self._closed_since(job, known.closed):
            known.closed = closed.number
            known.spent |= {blob.sha256 for blob in _updates(closed)}
            if closed.result is not None:
                known.versions[closed.result.version] = closed.result
        known.versions |= {back.model.version: back.model for back in job.rollbacks}
        named = {**known.versions, **({job.best_model.version: job.best_model} if job.best_model else {})}
        known.problems = tuple(unnamed(job, named))
        for number, version in list(known.versions.items()):
            if job.model is not None and number < job.model.version:
                known.spent |= {blob.sha256 for blob in _of_its_round(version)}
            if not is_kept(job, number):
                known.spent |= {blob.sha256 for blob in _to_go_on_from(version)}
                del known.versions[number]
        known.prepares = job.prepared is None and not job.status.is_final
        blobs = [*_needed(job, known.versions.values()), *await self._start_of(job)]
        needed = frozenset(blob.sha256 for blob in blobs)
        if job.status.is_final:  # of a job that goes on, an older record would look the same
            known.spent |= known.needed - needed
        known.needed = needed
        known.saves = saves
        known.expected = Expected.of(job, saves)

    async def _start_of(self, job: Job) -> list[BlobRef]:
        """What another job's version is made of from which this job is about to be prepared; none of a deleted job."""
        start = job_version(job.parsed.model.source)
        if start is None or job.prepared is not None or job.status.is_final:
            return []
        old = await self._store.load(start.job_id)
        if old is None:
            return []
        results = [each.result for each in await self._store.closed_rounds(start.job_id)]
        version = versions(old.job, results).get(start.version)
        return list(version.made_of) if version is not None else []

    async def _closed_since(self, job: Job, number: int) -> list[Round]:
        """Closed rounds after round `number`, in order. Of a job that was never read, only the newest that matter."""
        rounds: list[Round] = []
        policy = job.parsed.rounds.keep_versions
        versions = 0
        for candidate in range(job.rounds_opened, number, -1):
            closed = await self._store.closed_round(job.id, candidate)
            if closed is None:  # in flight
                continue
            rounds.append(closed)
            versions += closed.result is not None
            if number == 0 and versions > policy.last and policy.every is None:
                break
        return rounds[::-1]


def named_by(job: Job, rounds: Iterable[Round] = ()) -> set[BlobRef]:
    """Every blob that a job names, or these of its rounds; some may be deleted already."""
    versions = [job.model, job.best_model, *(back.model for back in job.rollbacks), *(each.result for each in rounds)]
    blobs = {blob for each in rounds for blob in _updates(each)} | set(job.whole.values())
    blobs |= {cut.blob for cut in job.earlier.cuts} if job.earlier else set()
    if job.prepared is not None:
        versions.append(job.prepared.model)
        blobs |= {blob for _, blob in (*job.prepared.export, *job.prepared.base_model)}
    for version in versions:
        if version is not None:
            blobs |= {*version.chain.blobs, *_to_go_on_from(version), *_of_its_round(version)}
    return blobs


def _needed(job: Job, versions: Iterable[ModelVersion]) -> Iterator[BlobRef]:
    """The blobs that a job needs. `versions`: the results of its closed rounds whose weights are kept."""
    if job.prepared is None:
        return
    yield from (blob for _, blob in job.prepared.export)
    yield from (blob for _, blob in job.prepared.base_model)  # an adapter of an ended job is the difference to it
    for version in (job.prepared.model, *versions, job.best_model, job.model):
        if version is not None and is_kept(job, version.version):
            version = with_weights(job, version)
            yield from _to_go_on_from(version) if job.status.can_go_on else version.made_of
    if job.status.is_final:
        return
    if job.model is not None:
        yield from _of_its_round(job.model)
        yield from job.trail.blobs
    if job.round is not None:
        yield from _updates(job.round)


def _updates(round: Round) -> Iterator[BlobRef]:
    for participant in round.participants.values():
        if participant.receipt is not None:
            yield participant.receipt.blob


def _to_go_on_from(model: ModelVersion) -> Iterator[BlobRef]:
    """What a version needs to be made current again."""
    yield from (part for part in (*model.made_of, *model.chain.blobs, model.state) if part is not None)


def _of_its_round(model: ModelVersion) -> Iterator[BlobRef]:
    """What only the round after a version needs beside that."""
    yield from (part for part in (model.aggregate, model.residue) if part is not None)
