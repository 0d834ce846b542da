"""What is known of a round, and what can happen to it: plain values. How it changes: `coordinator.state.round`.

Times are seconds since the epoch, durations end in `_s`, sizes in `_bytes`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from typing import Literal

from coordinator.state.packed import Packed
from fedgalore.alignment import Alignment
from fedgalore.chain import Chain
from fedgalore.process.blob_ref import BlobRef


class Phase(StrEnum):
    SELECTION = "SELECTION"
    CONFIGURATION = "CONFIGURATION"
    REPORTING = "REPORTING"
    AGGREGATION = "AGGREGATION"
    COMMITTED = "COMMITTED"
    ABANDONED = "ABANDONED"

    @property
    def is_final(self) -> bool:
        return self in (Phase.COMMITTED, Phase.ABANDONED)

    @property
    def takes_candidates(self) -> bool:
        return self is Phase.SELECTION or self.takes_reports

    @property
    def takes_reports(self) -> bool:
        return self in (Phase.CONFIGURATION, Phase.REPORTING)


@dataclass(frozen=True)
class EvaluationResult:
    """`metrics` of the examples of one client, or of a held-out set; `counts` of each metric, which can be summed."""

    model_version: int
    examples: int
    metrics: dict[str, float]
    counts: dict[str, Packed] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """The model after `version` committed rounds. Version 0 has its weights alone."""

    version: int
    chain: Chain  # how its weights come about
    weights: BlobRef | None = None  # whole, where they were made
    aggregate: BlobRef | None = None  # the cut from version - 1 to version; none where there was no cut
    state: BlobRef | None = None  # bases and second moments that all clients start from
    residue: BlobRef | None = None  # error feedback of a truncated downlink; stays on the server
    held_out: EvaluationResult | None = None  # on the job's `evaluation.central`, where the version was evaluated
    held_out_failure: str | None = None  # why it could not be evaluated on that

    @classmethod
    def first(cls, weights: BlobRef) -> ModelVersion:
        """Version 0."""
        return cls(0, Chain.start(weights), weights)

    @property
    def made_of(self) -> tuple[BlobRef, ...]:
        """What its weights can be had from."""
        return (self.weights,) if self.weights is not None else self.chain.blobs


@dataclass(frozen=True)
class UpdateReceipt:
    """An update that was checked, hashed and synced to disk."""

    blob: BlobRef
    num_examples: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Participant:
    taken_at: float | None = None
    receipt: UpdateReceipt | None = None
    evaluation: EvaluationResult | None = None
    failure: str | None = None
    failure_code: str | None = None  # where the client gave one
    lost: str | None = None  # why an update that had been accepted is asked for again
    dropped: str | None = None  # why its update is not in the round's result


@dataclass(frozen=True)
class Policy:
    """How many clients a round wants and how long it waits; counts of clients, durations in seconds."""

    min_clients: int
    goal: int
    cohort_size: int
    deadline_s: float
    selection_wait_s: float
    seed: int


@dataclass(frozen=True)
class Round:
    """Times are seconds since the epoch. `model_version` is the version the round starts from."""

    number: int
    kind: Literal["train", "evaluate"]
    model_version: int
    phase: Phase
    reason: str
    opened_at: float
    evaluate: bool
    tries: int = 0  # rounds before it that were to make the same version, and were abandoned
    seats: int = 0  # clients that were chosen at first; others take the seats of those that fail
    deadline_at: float | None = None
    phase_at: dict[str, float] = field(default_factory=dict)
    participants: dict[str, Participant] = field(default_factory=dict)
    result: ModelVersion | None = None
    timings: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    alignment: dict[str, Alignment] = field(default_factory=dict)  # by layer

    def has_reported(self, client: str) -> bool:
        """Whether the round holds from this participant what it was opened for."""
        participant = self.participants[client]
        return (participant.receipt if self.kind == "train" else participant.evaluation) is not None

    @cached_property
    def reports(self) -> int:
        held = attrgetter("receipt" if self.kind == "train" else "evaluation")
        return len(self.participants) - list(map(held, self.participants.values())).count(None)

    @cached_property
    def failures(self) -> int:
        return sum(participant.failure is not None for participant in self.participants.values())

    def free_seats(self, silent: Collection[str] = ()) -> int:
        """Seats of participants that failed or, still at work, give no sign of life, and that nobody has taken yet."""
        gone = self.failures + len(self.open_clients.intersection(silent))
        return max(0, self.seats - (len(self.participants) - gone)) if self.phase.takes_reports else 0

    @property
    def everybody_began(self) -> bool:
        """Whether each participant has taken its task, or cannot do it."""
        return all(each.taken_at is not None or each.failure for each in self.participants.values())

    @property
    def receipts(self) -> dict[str, UpdateReceipt]:
        """The accepted updates by client, in the order of their names."""
        return {client: each.receipt for client, each in sorted(self.participants.items()) if each.receipt is not None}

    @cached_property
    def open_clients(self) -> frozenset[str]:
        """Participants with a task still to do."""
        if not self.phase.takes_reports:
            return frozenset()
        return frozenset(
            client
            for client, participant in self.participants.items()
            if participant.failure is None and not self.has_reported(client)
        )

    def holds_update(self, client: str) -> bool:
        """Whether an update of the client is in it, selected or not."""
        return client in self.participants and self.participants[client].receipt is not None

    def remaining_s(self, now: float) -> float:
        """Seconds until the deadline; 0 when it has passed or has not been set."""
        return max(0.0, self.deadline_at - now) if self.deadline_at is not None else 0.0


class Effect(StrEnum):
    """Who has something to do after a step: the topic that they wait on. The save of the step publishes it.

    A message that gets lost delays them until their next look, and does no other harm.
    """

    WAKE_AGENTS = "WAKE_AGENTS"
    WAKE_AGGREGATOR = "WAKE_AGGREGATOR"
    WAKE_DRIVER = "WAKE_DRIVER"  # a tick may do something
    WAKE_COLLECTOR = "WAKE_COLLECTOR"  # a job was deleted


@dataclass(frozen=True)
class Candidates:
    """Live agents that offer the data set and have no task to do, as seen at this tick; `busy` more have one.

    Some of them rest after a failure in this job. `checking` more have not said yet whether their data fit. `silent`
    participants of the round have given no sign of life lately.
    """

    names: tuple[str, ...]
    busy: int = 0
    checking: int = 0
    resting: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TaskTaken:
    client: str


@dataclass(frozen=True)
class Reported:
    client: str
    receipt: UpdateReceipt


@dataclass(frozen=True)
class Evaluated:
    client: str
    result: EvaluationResult


@dataclass(frozen=True)
class ClientFailed:
    client: str
    reason: str
    code: str | None = None  # for machines


@dataclass(frozen=True)
class UpdateLost:
    """The client's accepted update, this very blob, cannot be read any more."""

    client: str
    blob: BlobRef
    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Aggregated:
    result: ModelVersion
    timings: dict[str, float]
    statistics: dict[str, float]
    dropped: dict[str, str] = field(default_factory=dict)  # client -> why its update is not in the result
    alignment: dict[str, Alignment] = field(default_factory=dict)  # by layer


@dataclass(frozen=True)
class Abandon:
    """`dropped`: clients whose updates cannot be taken, each with the reason."""

    reason: str
    dropped: dict[str, str] = field(default_factory=dict)


ClientEvent = TaskTaken | Reported | Evaluated | ClientFailed
RoundEvent = Candidates | TaskTaken | Reported | Evaluated | ClientFailed | UpdateLost | Tick | Aggregated | Abandon
