"""The events of a job as the API's document tells of them: the data of each type, with an example.

What they mean, and when they come: `coordinator.state.stream_events`.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from coordinator.state.job_state import Status
from coordinator.state.round_state import Phase

REF = "#/components/schemas/{model}"


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=False)


class JobStatusEvent(_Event):
    """The job was posted, or has another status."""

    status: Status
    was: Status | None = Field(default=None, description="Not there: the job was posted")
    reason: str
    by: str | None = Field(default=None, description="The person who wanted it; not there: nobody did, or was asked")


class JobRollbackEvent(_Event):
    """An earlier version is current again."""

    model_version: int = Field(description="The version that it is now")
    of: int = Field(description="The version that it was")
    by: str | None = None


class JobLabelsEvent(_Event):
    """Somebody changed tags or description."""

    tags: list[str]
    description: str
    by: str | None = None


class SiteCheckEvent(_Event):
    """A site has looked whether the job fits its policy, its data and its memory."""

    client: str
    fits: bool
    problem: str | None
    code: str | None


class RoundPhaseEvent(_Event):
    """A round is in another phase."""

    round: int
    kind: Literal["train", "evaluate"]
    phase: Phase
    at: float = Field(description="Seconds since the epoch")
    reason: str | None = None
    model_version: int | None = Field(default=None, description="On COMMITTED: the newest version from now on")
    timings: dict[str, float] | None = Field(default=None, description="On COMMITTED: seconds of the aggregator's work")
    statistics: dict[str, float] | None = Field(default=None, description="On COMMITTED: means over trained matrices")
    held_out_failure: str | None = None


class _ClientEvent(_Event):
    round: int
    client: str


class ClientTaskEvent(_ClientEvent):
    """A client took its task."""


class ClientReportEvent(_ClientEvent):
    """A client's update is on disk."""

    num_examples: int
    size_bytes: int
    metrics: dict[str, float] = Field(description="What it measured while it trained")


class ClientEvaluationEvent(_ClientEvent):
    """A client evaluated the version that it received."""

    model_version: int
    examples: int
    metrics: dict[str, float]


class ClientFailureEvent(_ClientEvent):
    """A client could not do its task, or would not."""

    reason: str
    code: str | None


class ClientLateEvent(_ClientEvent):
    """The round ended without what the client was asked for."""

    reason: str


class ClientDroppedEvent(_ClientEvent):
    """A client's update is not in the round's result."""

    reason: str


class ClientLostEvent(_ClientEvent):
    """A client's update is damaged on disk and asked for again."""

    reason: str


class EndEvent(_Event):
    """The job has ended, and all that happened to it was sent. Without an id; the stream ends."""


_HEAD = {"round": 3, "client": "north"}
EVENTS: dict[str, tuple[type[_Event], dict[str, Any]]] = {
    "job.status": (
        JobStatusEvent,
        {
            "status": "PAUSED",
            "reason": "paused by ada; resume it to open the next round",
            "was": "RUNNING",
            "by": "ada",
        },
    ),
    "job.rollback": (JobRollbackEvent, {"model_version": 8, "of": 5, "by": "ada"}),
    "job.labels": (JobLabelsEvent, {"tags": ["nightly"], "description": "all wards", "by": "ada"}),
    "site.check": (
        SiteCheckEvent,
        {"client": "north", "fits": False, "problem": "3 examples have no label", "code": "data.label_missing"},
    ),
    "round.phase": (
        RoundPhaseEvent,
        {
            "round": 3,
            "kind": "train",
            "phase": "COMMITTED",
            "at": 1769846400.5,
            "reason": "version 3 from 4 updates",
            "model_version": 3,
            "timings": {"compute_s": 0.4},
            "statistics": {"joint_rank": 5.5},
        },
    ),
    "client.task": (ClientTaskEvent, _HEAD),
    "client.report": (
        ClientReportEvent,
        {**_HEAD, "num_examples": 320, "size_bytes": 1048576, "metrics": {"train_loss": 0.4}},
    ),
    "client.evaluation": (
        ClientEvaluationEvent,
        {**_HEAD, "model_version": 2, "examples": 80, "metrics": {"loss": 0.5, "accuracy": 0.8}},
    ),
    "client.failure": (
        ClientFailureEvent,
        {**_HEAD, "reason": "this site ran out of memory while training", "code": None},
    ),
    "client.late": (ClientLateEvent, {**_HEAD, "reason": "the deadline passed"}),
    "client.dropped": (ClientDroppedEvent, {**_HEAD, "reason": "its norm is 40 times the median"}),
    "client.lost": (ClientLostEvent, {**_HEAD, "reason": "its blob has another hash than it had"}),
    "end": (EndEvent, {}),
}


def answer() -> dict[str, Any]:
    """The answer of the stream of events, for the route."""
    examples = {
        kind: {"summary": (model.__doc__ or "").strip(), "value": _sent(kind, data)}
        for kind, (model, data) in EVENTS.items()
    }
    rows = "\n".join(f"- `{kind}`: `{model.__name__}`. {model.__doc__}" for kind, (model, _) in EVENTS.items())
    return {
        "description": f"Events by type, and the schema of their data:\n\n{rows}",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "examples": examples}},
        "x-event-schemas": {kind: {"$ref": REF.format(model=model.__name__)} for kind, (model, _) in EVENTS.items()},
    }


def schemas() -> dict[str, Any]:
    """By name, for the components of the document."""
    found: dict[str, Any] = {}
    for model, data in EVENTS.values():
        described = model.model_json_schema(ref_template=REF)
        found |= {**described.pop("$defs", {}), model.__name__: {**described, "examples": [data]}}
    return found


def _sent(kind: str, data: dict[str, Any]) -> str:
    head = "" if kind == "end" else "id: 1769846400500-0\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
