"""What is known of a job: plain values. What can happen to it: `coordinator.state.job_events`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from coordinator.state import formats
from coordinator.state.errors import NotReady
from coordinator.state.labels import Labels
from coordinator.state.round_state import ModelVersion, Phase, Policy, Round
from coordinator.state.setbacks import Setback
from coordinator.state.sites import SiteCheck
from fedgalore.best import Best
from fedgalore.chain import Earlier, Trail
from fedgalore.process.blob_ref import BlobRef
from fedgalore.sizing import SiteMemory
from fedgalore.spec.job import JobSpec


class Status(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

    @property
    def can_go_on(self) -> bool:
        """Whether training may go on, if only after a rollback."""
        return self is not Status.CANCELLED


@dataclass(frozen=True)
class Prepared:
    """What the aggregator made of `model.source`."""

    plan: dict[str, Any]  # TrainingPlan.to_dict()
    base_model: tuple[tuple[str, BlobRef], ...]  # files of the source folder: what agents fetch
    export: tuple[tuple[str, BlobRef], ...]  # files of the full initialised model: the template of downloads
    model: ModelVersion  # version 0
    chat_template: bool = False  # whether the model's tokenizer has one
    notes: tuple[str, ...] = ()  # for people: what of the model the job does not say
    memory: SiteMemory = field(default_factory=SiteMemory)  # what it takes at a site

    def __post_init__(self) -> None:
        # Plain JSON types, so that what is read back equals what was written.
        object.__setattr__(self, "plan", json.loads(json.dumps(self.plan)))


@dataclass(frozen=True)
class Rollback:
    """A version that was made current again: `model`, a new version, has weights and state of version `of`."""

    model: ModelVersion
    of: int


@dataclass(frozen=True)
class Preparing:
    """A job without a model: `model.source` has not been read, or cannot be."""


@dataclass(frozen=True)
class Ready:
    """A job with a model, and its newest version."""

    prepared: Prepared
    model: ModelVersion


@dataclass(frozen=True)
class Job:
    """Everything the coordinator knows of a job but its closed rounds. Times are seconds since the epoch."""

    id: str
    spec: dict[str, Any]  # JobSpec.model_dump(mode="json")
    status: Status
    reason: str
    created_at: float
    updated_at: float
    prepared: Prepared | None = None
    model: ModelVersion | None = None
    earlier: Earlier | None = None  # the cuts that led to the checkpoint of its chain; None before there was another
    whole: dict[int, BlobRef] = field(default_factory=dict)  # weights that were made whole afterwards, by version
    wishes: dict[int, str] = field(default_factory=dict)  # versions to be made whole; why one cannot be
    round: Round | None = None  # the round in flight
    rounds_opened: int = 0
    abandoned_in_a_row: int = 0
    next_try_at: float = 0.0  # no round opens earlier
    setbacks: dict[str, Setback] = field(default_factory=dict)  # by client, of those that failed last
    contributions: dict[str, int] = field(default_factory=dict)  # client -> last version that its update is in
    closing: str | None = None  # what its last round came to; its model is being loaded back
    best: Best | None = None  # of the versions evaluated so far, by evaluation.keep
    best_model: ModelVersion | None = None  # that version
    rollbacks: tuple[Rollback, ...] = ()  # oldest first
    was_completed: bool = False  # before it was rolled back
    sites: dict[str, SiteCheck] = field(default_factory=dict)  # by client: whether its data fit the job
    missing: str = ""  # why no present agent could be asked, in words
    idempotency_key: str | None = None
    secret: str | None = None  # of the noise of a job with privacy; shown to nobody
    posted_by: str = ""  # whose API key it was posted with; empty: nobody was asked for one
    team: str = ""  # whose people see it and act on it, and whose sites it asks; empty: nobody's
    labels: Labels = field(default_factory=Labels)
    format: int = 1  # in which it is stored: `coordinator.state.formats`

    @property
    def stage(self) -> Preparing | Ready:
        """Whether the job has a model, and which."""
        if self.prepared is None or self.model is None:
            return Preparing()
        return Ready(self.prepared, self.model)

    def ready(self) -> Ready:
        """The job's model.

        Raises:
            NotReady: it has none, or none yet.
        """
        match self.stage:
            case Ready() as ready:
                return ready
            case Preparing():
                yet, way_on = " yet", "ask again once it runs"
                if self.status.is_final:
                    yet, way_on = "", f"post a mended copy (`fedgalore jobs clone {self.id} --from-base`)"
                raise NotReady(f"job {self.id} is {self.status}: it has no model{yet}; {way_on}")

    @property
    def trail(self) -> Trail:
        """The newest version as clients are told of it.

        Raises:
            NotReady: there is none.
        """
        chain = self.ready().model.chain
        return Trail(self.earlier or Earlier(chain.checkpoint.id), chain)

    @property
    def wanted(self) -> frozenset[int]:
        """Versions whose whole weights somebody waits for."""
        return frozenset(version for version, problem in self.wishes.items() if not problem)

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody has anything to do for it."""
        return self.status.is_final and not self.wanted

    @cached_property
    def parsed(self) -> JobSpec:
        """The spec, validated."""
        return _parsed(json.dumps(self.spec))

    def policy(self, kind: Literal["train", "evaluate"]) -> Policy:
        """How the job's rounds of this kind wait and choose. Evaluations take whom they can get."""
        spec = self.parsed
        return Policy(
            min_clients=spec.rounds.min_clients if kind == "train" else 1,
            goal=spec.rounds.goal,
            cohort_size=spec.rounds.cohort_size,
            deadline_s=spec.rounds.deadline_s,
            selection_wait_s=spec.rounds.selection_wait_s,
            seed=spec.seed,
        )

    @property
    def open_clients(self) -> frozenset[str]:
        """Clients with a task of this job still to do."""
        return self.round.open_clients if self.round else frozenset()

    def rounds_behind(self, version: int) -> int:
        """Rounds of training that a version's weights come from: its number, where none was made current again."""
        behind = 0
        for back in reversed(self.rollbacks):
            if back.model.version <= version:
                behind, version = behind + version - back.model.version, back.of
        return behind + version

    @property
    def unanswered(self) -> frozenset[str]:
        """Clients that were asked whether their data fit, and have not said so yet."""
        if self.status.is_final:
            return frozenset()
        return frozenset(client for client, check in self.sites.items() if check.answered_at is None)

    @property
    def waits_for_sites(self) -> bool:
        """Whether the job cannot go on without enough sites whose data fit."""
        between_rounds = self.round is None or (self.round.phase is Phase.SELECTION and self.round.kind == "train")
        return self.status in (Status.PENDING, Status.RUNNING) and between_rounds and self.closing is None

    @property
    def looks_for_sites(self) -> bool:
        """Whether agents that are present now are to be asked whether their data fit."""
        if self.round is not None:
            return self.round.phase is Phase.SELECTION
        return self.status is Status.PENDING

    @property
    def goes_on(self) -> bool:
        """Whether a tick may open a round or fill a free seat now."""
        return self.round.free_seats() > 0 if self.round else self.status is Status.RUNNING

    @property
    def waits_for_reports(self) -> bool:
        """Whether nothing but its clients and the deadline moves it."""
        return self.round is not None and self.round.phase.takes_reports and not self.round.free_seats()

    def to_json(self) -> str:
        return _JOB.dump_json(replace(self, format=formats.needed(self))).decode()

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` wrote.

        Raises:
            NewerFormat: a newer release wrote it, and this one would lose part of it.
            ValueError: it is something else.
        """
        try:
            job = _JOB.validate_json(text)
        except ValidationError:
            formats.check(_format_of(text))
            raise
        formats.check(job.format)
        _ = job.parsed  # whoever has a job can rely on its spec
        return job


@lru_cache(maxsize=64)
def _parsed(spec: str) -> JobSpec:
    """Every step of a job makes a new object with the same spec."""
    return JobSpec.model_validate(json.loads(spec))


def _format_of(text: str) -> object:
    """The format that a document names, whatever else is in it."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document.get("format") if isinstance(document, dict) else None


_JOB = TypeAdapter(Job)
