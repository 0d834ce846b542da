"""Routes of what happened to a job: as it happens, and as a log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from coordinator.doors.rest import event_schemas, events
from coordinator.doors.rest.head import is_head
from coordinator.doors.rest.jobs_door import JobsDoor
from coordinator.doors.rest.views import moment
from coordinator.state.history import LEVELS, Level, line
from coordinator.state.limits import MAX_EVENTS_READ
from coordinator.state.stream_events import StreamRow

EVENT_ID = r"^\d{1,18}(-\d{1,18})?$"
EVENTS_ANSWER: dict[int | str, dict[str, Any]] = {200: event_schemas.answer()}


class LogLine(BaseModel):
    """Something that happened to a job, to a round of it, or to a client in it."""

    id: str = Field(examples=["1700000000000-0"])
    at: datetime
    level: Level
    event: str = Field(description="The type of the job's event", examples=["client.failure"])
    round: int | None
    client: str | None
    text: str = Field(description="In words for people", examples=["failed: this site ran out of memory"])


class LogPage(BaseModel):
    lines: list[LogLine]
    next: str | None = Field(
        description="Pass it as `after` for the page that follows; null: nothing has happened since"
    )


def router(door: JobsDoor) -> APIRouter:
    routes = APIRouter(prefix="/api/v1", tags=["jobs"])
    reader = door.people.reader

    @routes.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=EVENTS_ANSWER)
    async def stream_events(
        request: Request,
        job_id: str,
        last_event_id: Annotated[str | None, Header(pattern=EVENT_ID, examples=["1700000000000-0"])] = None,
    ) -> Response:
        """Server-sent events from the job's start, or after Last-Event-ID; ends with `end` when the job is final."""
        job = await reader.job(job_id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if is_head(request.scope):
            return Response(media_type="text/event-stream", headers=headers)
        rows = events.stream(reader, job, last_event_id or events.FROM_THE_START, door.stopping)
        return StreamingResponse(rows, media_type="text/event-stream", headers=headers)

    @routes.get("/jobs/{job_id}/logs")
    async def list_logs(
        job_id: str,
        level: Annotated[Level, Query(description="The least; below it, each phase and each task is told")] = "info",
        limit: Annotated[
            int,
            Query(ge=1, le=MAX_EVENTS_READ, description="Events that are looked at, those below the level included"),
        ] = MAX_EVENTS_READ,
        after: Annotated[
            str | None,
            Query(pattern=EVENT_ID, examples=["1700000000000-0"], description="The `next` of the page before"),
        ] = None,
        tail: Annotated[bool, Query(description="The newest of them, instead of the oldest")] = False,
    ) -> LogPage:
        """What happened to the job, in order: who posted it, rounds, clients that were late, failed or were left out.

        Of a job that goes on, ask again with the `id` of the last line to hear more. The newest hundred thousand events
        are kept.
        """
        rows = await reader.history(await reader.job(job_id), after, limit, last=tail)
        least = LEVELS.index(level)
        lines = [each for each in map(_line, rows) if LEVELS.index(each.level) >= least]
        return LogPage(lines=lines, next=rows[-1][0] if len(rows) == limit and not tail else None)

    return routes


def _line(row: StreamRow) -> LogLine:
    event_id, kind, data = row
    told = line(kind, data)
    return LogLine(
        id=event_id,
        at=moment(int(event_id.partition("-")[0]) / 1000),
        level=told.level,
        event=kind,
        round=data.get("round"),
        client=data.get("client"),
        text=told.text,
    )
