"""Routes by which jobs are posted, found, described, steered and deleted. Handlers translate; the engine decides."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AwareDatetime, Field
from starlette.responses import JSONResponse

from coordinator.doors.caller import Caller
from coordinator.doors.rest import schemas, views
from coordinator.doors.rest.audit import CALLER
from coordinator.doors.rest.jobs_door import JobsDoor
from coordinator.doors.rest.posting import JOB_BODY, Post
from coordinator.doors.rest.teams import team_of_new, teams_of
from coordinator.state.job_filter import JobFilter
from coordinator.state.job_state import Status
from coordinator.state.labels import MAX_DESCRIPTION, MAX_TAGS, Description, Labels, Tag, Tags
from coordinator.state.limits import MAX_JOBS_LISTED, MAX_TEXT
from coordinator.store.credentials import Role
from coordinator.store.partials import discard_partials
from fedgalore.spec.strict import Identifier, Strict

_POSTED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.JobView | schemas.JobTrial,
        "description": "The job that was posted with this key before; with dry_run, what the job would be",
    }
}
IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=MAX_TEXT, pattern=r"^[!-~]+$", examples=["nightly-2026-01-31"])
]
Team = Annotated[
    Identifier | None,
    Query(description="Whose job it is; by default the team of the key or group, where that is one, else nobody's"),
]
log = structlog.get_logger(__name__)


class NewLabels(Strict):
    """What is left out, or null, stays as it is."""

    tags: Tags | None = Field(default=None, description=f"All tags of the job from now on; at most {MAX_TAGS}")
    description: Description | None = Field(
        default=None, description=f"For people; at most {MAX_DESCRIPTION} characters"
    )


def router(door: JobsDoor) -> APIRouter:
    routes = APIRouter(prefix="/api/v1", tags=["jobs"])
    people, reader = door.people, door.people.reader
    post = Post(people, door.sees_models, door.held_out, door.version_of)

    @routes.post("/jobs", status_code=201, response_model=schemas.JobView, openapi_extra=JOB_BODY, responses=_POSTED)
    async def create_job(
        request: Request,
        response: Response,
        idempotency_key: IdempotencyKey = None,
        dry_run: Annotated[
            bool, Query(description="Makes no job; answers what it would be, or refuses it alike")
        ] = False,
        tag: Annotated[
            list[Tag], Query(max_length=MAX_TAGS, description="A tag of the new job; may be given several times")
        ] = [],  # noqa: B006  # FastAPI reads it and changes nothing
        description: Annotated[Description, Query(description="Of the new job, for people")] = "",
        team: Team = None,
    ) -> schemas.JobView | JSONResponse:
        """Posts a job, as JSON or YAML. With an Idempotency-Key it can be repeated without making a second job."""
        caller: Caller = request.scope[CALLER]
        owner, seen = team_of_new(teams_of(request), team), caller.teams(Role.VIEWER)
        spec, unsure = await post.read(await request.body(), request.headers.get("content-type", ""), seen)
        if dry_run:
            return JSONResponse((await post.trial(spec, unsure, idempotency_key, owner)).model_dump(mode="json"))
        labels = Labels(tuple(tag), description)
        job, created = await people.create(spec, idempotency_key, str(caller), labels, owner)
        response.status_code = 201 if created else 200
        response.headers["Location"] = f"/api/v1/jobs/{job.id}"
        return await door.view(job)

    @routes.post("/jobs:validate", openapi_extra=JOB_BODY)
    async def validate_job(
        request: Request, idempotency_key: IdempotencyKey = None, team: Team = None
    ) -> schemas.JobReview:
        """Looks at a document as a post would, and makes no job. A key of role viewer will do.

        A viewer does not hear which folders and models lie on the coordinator's machine: that warns, and a post tells.
        Answers 200 for a document with faults, too: `valid` is false then, and `errors` has a row for each.
        """
        body, kind = await request.body(), request.headers.get("content-type", "")
        caller: Caller = request.scope[CALLER]
        changes_jobs, seen = caller.role is Role.OPERATOR, caller.teams(Role.VIEWER)
        # Whoever could post is told of the team that a post would take.
        owner = team_of_new(seen if team is not None else caller.teams(caller.role), team)
        return await post.review(body, kind, idempotency_key, owner, seen, looks_here=changes_jobs)

    @routes.get("/jobs")
    async def list_jobs(
        request: Request,
        status: Annotated[list[Status], Query(description="May be given several times: jobs in any of them")] = [],  # noqa: B006
        name: Annotated[str, Query(max_length=MAX_TEXT, description="A part of the name, in whatever case")] = "",
        method: Annotated[
            list[str], Query(description="Of `method.kind`; may be given several times: jobs of any of them")
        ] = [],  # noqa: B006
        tag: Annotated[list[str], Query(description="May be given several times: jobs that have all of them")] = [],  # noqa: B006
        created_after: Annotated[
            AwareDatetime | None, Query(description="ISO 8601 with an offset", examples=["2026-01-31T08:00:00Z"])
        ] = None,
        created_before: Annotated[
            AwareDatetime | None, Query(description="ISO 8601 with an offset", examples=["2026-01-31T08:00:00Z"])
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_JOBS_LISTED)] = 50,
        after: Annotated[str | None, Query(description="The `next` of the page before")] = None,
    ) -> schemas.JobList:
        """Jobs that fit all that is given, newest first."""
        wanted = JobFilter(
            frozenset(status),
            name,
            frozenset(method),
            frozenset(tag),
            _seconds(created_after),
            _seconds(created_before),
            teams_of(request),
        )
        page = await reader.jobs(wanted, limit, after)
        return schemas.JobList(
            jobs=[views.job_summary(job) for job in page], next=page[-1].id if len(page) == limit else None
        )

    @routes.get("/jobs/{job_id}")
    async def get_job(job_id: str) -> schemas.JobView:
        return await door.view(await reader.job(job_id))

    @routes.patch("/jobs/{job_id}")
    async def update_job(request: Request, job_id: str, labels: NewLabels) -> schemas.JobView:
        """Sets tags and description of a job, whatever its status. Its document never changes."""
        tags = None if labels.tags is None else tuple(labels.tags)
        return await door.view(await people.describe(job_id, tags, labels.description, str(request.scope[CALLER])))

    @routes.post("/jobs/{job_id}/pause")
    async def pause_job(request: Request, job_id: str) -> schemas.JobView:
        """The round in flight goes on to its end; no new round opens."""
        return await door.view(await people.pause(job_id, str(request.scope[CALLER])))

    @routes.post("/jobs/{job_id}/resume")
    async def resume_job(request: Request, job_id: str) -> schemas.JobView:
        return await door.view(await people.resume(job_id, str(request.scope[CALLER])))

    @routes.post("/jobs/{job_id}/rollback")
    async def roll_back_job(request: Request, job_id: str, wanted: schemas.RollbackRequest) -> schemas.JobView:
        """Makes an earlier version current again: as a new version, from whose weights and state training goes on.

        A running job abandons its round in flight and goes on at once; one that is paused, completed, or failed behind
        its last round is PAUSED until it is resumed. The version has to be kept still: `rounds.keep_versions`.
        """
        job, version, _ = await door.version_of(job_id, str(wanted.version))
        return await door.view(await people.roll_back(job.id, version, str(request.scope[CALLER])))

    @routes.post("/jobs/{job_id}/cancel")
    async def cancel_job(request: Request, job_id: str) -> schemas.JobView:
        """Ends the job and abandons its round in flight; its newest versions can still be downloaded."""
        return await door.view(await people.cancel(job_id, str(request.scope[CALLER])))

    @routes.delete("/jobs/{job_id}")
    async def delete_job(
        job_id: str,
        cancel: Annotated[bool, Query(description="Cancels the job first if it has not ended")] = False,
    ) -> schemas.DeletedJob:
        """Deletes a job that has ended: its rounds, events and versions, which cannot be downloaded any more.

        Blobs that other jobs name stay. A second call answers 404.
        """
        freed = await people.delete(job_id, cancel=cancel, stored_bytes=door.blobs.stored_bytes)
        freed += await asyncio.to_thread(discard_partials, door.blobs, job_id)
        log.info("job_deleted", job=job_id, freed_bytes=freed)
        return schemas.DeletedJob(id=job_id, freed_bytes=freed)

    return routes


def _seconds(moment: datetime | None) -> float | None:
    """Since the epoch."""
    return moment.timestamp() if moment is not None else None
