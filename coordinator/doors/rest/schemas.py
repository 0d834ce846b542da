"""The shapes of what REST answers: jobs, rounds and agents as response models.

Times are ISO 8601 in UTC, durations end in `_s`, sizes in `_bytes`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from coordinator.doors.rest.problems import FieldProblem
from coordinator.state.job_state import Status
from coordinator.state.round_state import Phase
from fedgalore.spec.job import JobSpec
from fedgalore.spec.strict import Strict


class RollbackRequest(Strict):
    """Which version of a job's model becomes current again."""

    version: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | Literal["best"] = Field(
        description="Its number, or `best` by the job's evaluation.keep"
    )


class EvaluationView(BaseModel):
    """What a client measured on its data."""

    model_version: int
    examples: int
    metrics: dict[str, float]


class PooledEvaluation(BaseModel):
    """How a model version does on one test set: all examples of its clients, or what the coordinator holds out."""

    model_version: int
    examples: int
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]] = Field(
        description="By metric and class; null: it has no value, such as the recall of a class without examples"
    )
    confusion_matrix: list[list[int]] | None = Field(
        description="A row for each true class, a column for each predicted one; null: the job does not ask for it"
    )
    undefined: dict[str, str] = Field(description="Why a metric has no value")


class ModelEvaluation(PooledEvaluation):
    clients: dict[str, EvaluationView] = Field(description="What each client measured on its own examples")


class BestVersion(BaseModel):
    """The best of the versions that were evaluated, by the job's `evaluation.keep`."""

    model_version: int
    metric: str
    value: float
    by: Literal["sites", "central"] = Field(description="Who measured it: clients, or the coordinator")
    since: int = Field(description="Evaluations since the last improvement; at evaluation.keep.patience the job ends")


class SiteView(BaseModel):
    """Whether a site's data fit the job, by its own look at them before any model was sent.

    `examples` to `longest_text` are null before it has answered, and where it could not look.
    """

    fits: bool | None = Field(description="null: it was asked and has not answered yet")
    problem: str | None = Field(
        description="Why its data do not fit, and how many examples; or what its policy forbids"
    )
    code: str | None = Field(description="Of the problem, such as policy.least_examples; null where it has none")
    examples: int | None
    test_examples: int | None
    classes: int | None = Field(description="Different labels in its data")
    longest_text: int | None = Field(description="In characters")
    answered: datetime | None


class LiveParticipant(BaseModel):
    """A client in the round in flight. `stage`, `step` and `train_loss` are what it reported last, null before that."""

    stage: str | None
    step: int | None
    train_loss: float | None
    reported: bool
    failure: str | None
    failure_code: str | None
    evaluation: EvaluationView | None


class CurrentRound(BaseModel):
    number: int
    kind: Literal["train", "evaluate"]
    phase: Phase
    reason: str
    model_version: int
    opened_at: datetime
    deadline_at: datetime | None
    participants: dict[str, LiveParticipant]


class JobSummary(BaseModel):
    id: str
    name: str
    status: Status
    reason: str
    created: datetime
    updated: datetime
    model_version: int | None = Field(description="The newest version; null while the model is being prepared")
    rounds_done: int | None = Field(description="Committed rounds behind that version; fewer than it after a rollback")
    rounds_total: int
    method: str
    posted_by: str = Field(description="Whose API key it was posted with; empty: nobody was asked for one")
    team: str | None = Field(description="Whose people see it, and whose sites it asks; null: nobody's")
    tags: list[str]


class CensusView(BaseModel):
    """Counts of parameters by kind of layer."""

    trained: dict[str, int] = Field(description="Parameters that the job trains")
    parameters: dict[str, int] = Field(description="All parameters of the model")
    ranks_lowered: dict[str, int] = Field(
        description="By layer, the rank of matrices whose smaller side is below the job's rank"
    )


class JobView(JobSummary):
    round: CurrentRound | None = Field(description="The round in flight")
    evaluation: ModelEvaluation | None = Field(description="Of the newest version that clients have evaluated")
    held_out: PooledEvaluation | None = Field(description="Of the newest version, on the job's evaluation.central")
    held_out_failure: str | None = Field(description="Why the newest version could not be evaluated on that")
    best: BestVersion | None = Field(description="null: the job keeps none, or no version has a value yet")
    no_best: str | None = Field(
        description="Why no version is the best, although the job keeps one and has evaluations"
    )
    sites: dict[str, SiteView] = Field(
        description="The sites that were asked whether their data fit; only those are drawn"
    )
    trains: CensusView | None = Field(description="null: the model is not prepared yet")
    notes: list[str] = Field(
        description="Of its model: its learning rates where the job names none, that texts are cut, or how to get the "
        "answers that are judged"
    )
    rounds_opened: int = Field(description="Number of the newest round; 0 before the first")
    description: str = Field(description="By people, for people")
    up_bytes: int = Field(description="Received from clients so far")
    down_bytes: int = Field(description="Sent to clients so far")
    warnings: list[FieldProblem] = Field(description="What keeps its rounds waiting as the agents stand now")
    spec: JobSpec


class JobTrial(BaseModel):
    """What a posted document would be as a job. Nothing was made."""

    job: str | None = Field(description="The job that was posted with this Idempotency-Key before; null: a new one")
    warnings: list[FieldProblem] = Field(description="What no dry run can tell, and what would keep rounds waiting")
    spec: JobSpec = Field(description="The document with all defaults filled in")


class JobReview(BaseModel):
    """What a post would say of a document. Nothing was made."""

    valid: bool
    errors: list[FieldProblem] = Field(description="What is wrong: a row for each field; empty where it is valid")
    job: str | None = Field(description="The job that was posted with this Idempotency-Key before; null: a new one")
    warnings: list[FieldProblem] = Field(description="What nobody can tell yet, and what would keep rounds waiting")
    spec: JobSpec | None = Field(description="The document with all defaults filled in; null where it has faults")


class DeletedJob(BaseModel):
    id: str
    freed_bytes: int = Field(
        description="Of blobs that only this job named, deleted within minutes, and of unfinished uploads, deleted "
        "already; 0 where the job's document could not be read"
    )


class JobList(BaseModel):
    jobs: list[JobSummary]
    next: str | None = Field(description="Pass it as `after` for the next page; null: this is the last page")


class ParticipantView(BaseModel):
    reported: bool
    failure: str | None = Field(description="Why it could not do its task, or would not")
    failure_code: str | None = Field(description="Of that, such as policy.learning_rate; null where it has none")
    dropped: str | None = Field(description="Why its update is not in the round's result")
    lost: str | None = Field(description="Why an update of it that had been accepted was asked for again")
    num_examples: int | None = Field(description="Training examples behind its update")
    metrics: dict[str, float] = Field(description="What it measured while it trained")
    evaluation: EvaluationView | None = Field(description="How the model that it received does on its data")
    update_bytes: int | None = Field(description="Size of the accepted update; what up_bytes exceeds it was sent again")
    up_bytes: int
    down_bytes: int


class AlignmentView(BaseModel):
    joint_rank: float = Field(description="Directions that the second moments of all clients share")
    explained: dict[str, float] = Field(description="By client, the share of its second moment in them, from 0 to 1")


class RoundView(BaseModel):
    number: int
    kind: Literal["train", "evaluate"] = Field(description="`evaluate`: the last round, which only measures the model")
    phase: Phase
    reason: str = Field(description="Where the round stands, or why it ended, for people")
    model_version: int = Field(description="Version that the round starts from")
    result_version: int | None = Field(description="Version that the round made")
    phase_at: dict[str, datetime]
    phase_s: dict[str, float] = Field(description="Time spent in each phase that has ended")
    participants: dict[str, ParticipantView]
    evaluation: PooledEvaluation | None = Field(description="How the version that it starts from does on clients' data")
    held_out: PooledEvaluation | None = Field(description="How that version does on the job's evaluation.central")
    held_out_failure: str | None = Field(description="Why that version could not be evaluated on it")
    up_bytes: int
    down_bytes: int
    dense_bytes: int = Field(description="What each client would have sent had it sent all trained weights whole")
    statistics: dict[str, float] = Field(description="Means over the trained matrices; the names depend on the method")
    alignment: dict[str, AlignmentView] = Field(
        description="By layer, what the clients' optimizer states share; means over its matrices. Of state_sync: ajive"
    )
    timings: dict[str, float] = Field(description="Seconds that the aggregator took for each part of its work")


class RoundList(BaseModel):
    rounds: list[RoundView]
    next: int | None = Field(description="Pass it as `after` for the next page; null: this is the last page")


class TaskView(BaseModel):
    job: str
    round: int


class AgentView(BaseModel):
    name: str
    present: bool
    datasets: dict[str, int] = Field(description="Training examples by data set")
    software_version: str
    registered: datetime
    last_seen: datetime | None = Field(description="null: expected, but never seen")
    task: TaskView | None
    teams: list[str] = Field(description="Those that it is given to, whose jobs ask it")


class AgentList(BaseModel):
    agents: list[AgentView]
