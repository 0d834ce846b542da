"""Jobs, rounds and models."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fedgalore.client.shapes.shape import Shape

FINAL = ("COMPLETED", "FAILED", "CANCELLED")  # statuses of a job, from which it moves only if a person rolls it back
CLOSED = ("COMMITTED", "ABANDONED")  # phases of a round that changes no more
ENDED = (*FINAL, "PAUSED")  # nothing more happens unless a person acts


class Warned(Shape):
    """What is wrong with a field, or what the coordinator warns of."""

    field: str
    problem: str


class Evaluation(Shape):
    """What one client measured on its own examples. `examples`: how many; None where that is not recorded."""

    model_version: int
    examples: int | None
    metrics: dict[str, float]


class PooledEvaluation(Evaluation):
    """How a version does on one test set: the examples of all clients together, or what the coordinator holds out."""

    per_class: dict[str, dict[str, float | None]]
    confusion_matrix: list[list[int]] | None
    undefined: dict[str, str]


class ModelEvaluation(PooledEvaluation):
    """As pooled, and by client."""

    clients: dict[str, Evaluation]


class Best(Shape):
    """The best version that was evaluated, by the job's `evaluation.keep`. `by`: sites or central."""

    model_version: int
    metric: str
    value: float
    by: str
    since: int


class Site(Shape):
    """Whether a site's data fit a job; `fits` is None before it has answered."""

    fits: bool | None
    problem: str | None
    code: str | None
    examples: int | None
    test_examples: int | None
    classes: int | None
    longest_text: int | None
    answered: datetime | None


class LiveParticipant(Shape):
    """A client in the round in flight."""

    stage: str | None
    step: int | None
    train_loss: float | None
    reported: bool
    failure: str | None
    failure_code: str | None
    evaluation: Evaluation | None


class CurrentRound(Shape):
    """The round in flight. `kind`: train or evaluate."""

    number: int
    kind: str
    phase: str
    reason: str
    model_version: int
    opened_at: datetime
    deadline_at: datetime | None
    participants: dict[str, LiveParticipant]


class JobSummary(Shape):
    """A job as lists have it. `status`: PENDING, RUNNING, PAUSED, COMPLETED, FAILED or CANCELLED."""

    id: str
    name: str
    status: str
    reason: str
    created: datetime
    updated: datetime
    model_version: int | None
    rounds_done: int | None
    rounds_total: int
    method: str
    posted_by: str
    team: str | None = None
    tags: list[str]

    @property
    def is_final(self) -> bool:
        """Whether it goes on no more."""
        return self.status in FINAL

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens unless a person acts: it is final, or paused."""
        return self.status in ENDED


class Census(Shape):
    """Counts of parameters by kind of layer."""

    trained: dict[str, int]
    parameters: dict[str, int]
    ranks_lowered: dict[str, int]


class Job(JobSummary):
    """A job with its round in flight, its newest evaluation, and `spec`, its document with all defaults."""

    round: CurrentRound | None
    evaluation: ModelEvaluation | None
    held_out: PooledEvaluation | None
    held_out_failure: str | None
    best: Best | None
    no_best: str | None
    sites: dict[str, Site]
    trains: Census | None
    notes: list[str]
    rounds_opened: int
    description: str
    up_bytes: int
    down_bytes: int
    warnings: list[Warned]
    spec: dict[str, Any]


class Review(Shape):
    """What a post would say of a document. `spec`: with all defaults; None where it is not `valid`."""

    valid: bool
    errors: list[Warned]
    job: str | None
    warnings: list[Warned]
    spec: dict[str, Any] | None


class DeletedJob(Shape):
    id: str
    freed_bytes: int


class LogLine(Shape):
    """Something that happened to a job, in words. `level`: debug, info, warning or error."""

    id: str
    at: datetime
    level: str
    event: str
    round: int | None
    client: str | None
    text: str


class ModelVersion(Shape):
    """A version that can be downloaded, and what was measured of it."""

    version: int
    id: str
    sha256: str | None
    size_bytes: int
    metrics: dict[str, float]
    held_out: dict[str, float]
    newest: bool
    best: bool


class Model(Shape):
    """A job's model. `kept`: versions that can be downloaded; `versions`: the newest of them first."""

    job: str
    name: str
    status: str
    method: str
    source: str
    task: str
    tags: list[str]
    kept: int
    versions: list[ModelVersion]


class Participant(Shape):
    """A client's part in a round; bytes are None where they are recorded of the whole round alone."""

    reported: bool
    failure: str | None
    failure_code: str | None
    dropped: str | None
    lost: str | None
    num_examples: int | None
    metrics: dict[str, float]
    evaluation: Evaluation | None
    update_bytes: int | None
    up_bytes: int | None
    down_bytes: int | None


class Alignment(Shape):
    """Directions that the second moments of all clients share, and by client the share of its own in them."""

    joint_rank: float
    explained: dict[str, float]


class Round(Shape):
    """One round, with what the version that it starts from scores. `kind`: train or evaluate."""

    number: int
    kind: str
    phase: str
    reason: str
    model_version: int
    result_version: int | None
    phase_at: dict[str, datetime]
    phase_s: dict[str, float]
    participants: dict[str, Participant]
    evaluation: PooledEvaluation | None
    held_out: PooledEvaluation | None
    held_out_failure: str | None
    up_bytes: int
    down_bytes: int
    dense_bytes: int
    statistics: dict[str, float]
    alignment: dict[str, Alignment]
    timings: dict[str, float]

    @property
    def is_closed(self) -> bool:
        """Whether it changes no more."""
        return self.phase in CLOSED
