"""Routes of jobs, rounds, events and models. Handlers translate; the engine decides."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi import Path as PathParameter
from starlette.responses import JSONResponse, StreamingResponse

from coordinator.doors.rest import events, schemas, views
from coordinator.doors.rest.audit import CALLER
from coordinator.doors.rest.downloads import Download, chunks_of
from coordinator.doors.rest.posting import JOB_BODY, check_allowed, check_central, check_source, read_job
from coordinator.engine.people_calls import PeopleCalls
from coordinator.models.adapter_archive import DEFAULT_RANK, AdapterArchive
from coordinator.models.choice import chosen
from coordinator.models.model_archive import ModelArchive
from coordinator.state.job_state import Job, Status
from coordinator.state.limits import MAX_JOBS_LISTED, MAX_ROUNDS_LISTED, MAX_TEXT
from coordinator.state.outlook import warnings
from coordinator.state.round_state import ModelVersion, Round
from coordinator.state.versions import versions
from coordinator.store.blob_store import BlobStore
from coordinator.store.partials import discard_partials

TAR_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}
}
VersionQuery = Annotated[
    str,
    Query(
        pattern=r"^(last|best|[0-9]{1,9})$",
        examples=["last", "best", "3"],
        description="A version's number, `last` for the newest, or `best` by the job's evaluation.keep",
    ),
]
EVENTS_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Jobs:
    """What these routes work with.

    `sees_models`: model folders lie on this machine, so they can be looked at. `held_out`: names of data sets that
    the aggregator evaluates models on; None where it runs elsewhere, with settings of its own.
    """

    people: PeopleCalls
    blobs: BlobStore
    stopping: asyncio.Event
    sees_models: bool
    held_out: Collection[str] | None


def router(door: Jobs) -> APIRouter:
    routes = APIRouter(prefix="/api/v1", tags=["jobs"])
    people, reader = door.people, door.people.reader
    turns = asyncio.Semaphore(1)  # a matrix is decomposed at a time, whoever asks: it takes all cores and much memory

    async def view(job: Job) -> schemas.JobView:
        rounds, live, totals = await asyncio.gather(
            reader.newest_evaluated(job), reader.live_progress(job.id), reader.totals(job.id)
        )
        outlook = [] if job.status.is_final else warnings(job.parsed, await reader.presence())
        return views.job_view(job, rounds, live, totals, outlook)

    async def round_views(job: Job, rounds: list[Round]) -> list[schemas.RoundView]:
        traffic, dense_bytes = await reader.traffic(job.id, rounds), views.dense_bytes(job)
        made = versions(job, [each.result for each in rounds])  # by one of them, for the next
        shown = []
        for each in rounds:
            start = made.get(each.model_version) or await reader.version(job, each.model_version)
            shown.append(views.round_view(job.parsed, each, traffic, dense_bytes, start))
        return shown

    async def version_of(job_id: str, version: str) -> tuple[Job, ModelVersion, dict[str, Any] | None]:
        """The job, the version that is asked for, and what clients measured of that version."""
        job = await reader.job(job_id)
        found = await chosen(job, version, reader.version)
        rounds = await reader.rounds_from(job, found.version)
        quality, central = views.evaluation(job.parsed, rounds, found.version), views.held_out(job.parsed, found)
        told = quality.model_dump(mode="json") if quality else {}
        return job, found, (told | {"held_out": central.model_dump(mode="json")} if central else told) or None

    async def whole_version_of(job_id: str, version: str) -> tuple[Job, ModelVersion, dict[str, Any] | None]:
        """As `version_of`, with the version's whole weights, which the aggregator may have to make first."""
        job, found, quality = await version_of(job_id, version)
        return job, await people.with_whole_weights(job, found), quality

    @routes.post(
        "/jobs",
        status_code=201,
        response_model=schemas.JobView,
        openapi_extra=JOB_BODY,
        responses={
            200: {
                "model": schemas.JobView | schemas.JobTrial,
                "description": "The job that was posted with this key before; with dry_run, what the job would be",
            }
        },
    )
    async def submit(
        request: Request,
        response: Response,
        idempotency_key: Annotated[
            str | None, Header(min_length=1, max_length=MAX_TEXT, pattern=r"^[!-~]+$", examples=["nightly-2026-01-31"])
        ] = None,
        dry_run: Annotated[
            bool, Query(description="Makes no job; answers what it would be, or refuses it alike")
        ] = False,
    ) -> schemas.JobView | JSONResponse:
        """Posts a job, as JSON or YAML. With an Idempotency-Key it can be repeated without making a second job."""
        spec = await asyncio.to_thread(read_job, await request.body(), request.headers.get("content-type", ""))
        check_allowed(spec)
        check_central(spec, door.held_out)
        unsure = await check_source(spec.model.source, door.sees_models, version_of)
        if dry_run:
            before = await people.would_create(spec, idempotency_key)
            rows = [*unsure, *warnings(spec, await reader.presence())]
            return JSONResponse(views.job_trial(spec, before, rows).model_dump(mode="json"))
        job, created = await people.create(spec, idempotency_key, str(request.scope[CALLER]))
        response.status_code = 201 if created else 200
        response.headers["Location"] = f"/api/v1/jobs/{job.id}"
        return await view(job)

    @routes.get("/jobs")
    async def jobs(
        status: Status | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_JOBS_LISTED)] = 50,
        after: str | None = None,
    ) -> schemas.JobList:
        """Jobs, newest first. `after`: the `next` of the page before."""
        page = await reader.jobs(status, limit, after)
        return schemas.JobList(
            jobs=[views.job_summary(job) for job in page], next=page[-1].id if len(page) == limit else None
        )

    @routes.get("/jobs/{job_id}")
    async def job(job_id: str) -> schemas.JobView:
        return await view(await reader.job(job_id))

    @routes.post("/jobs/{job_id}/pause")
    async def pause(job_id: str) -> schemas.JobView:
        """The round in flight goes on to its end; no new round opens."""
        return await view(await people.pause(job_id))

    @routes.post("/jobs/{job_id}/resume")
    async def resume(job_id: str) -> schemas.JobView:
        return await view(await people.resume(job_id))

    @routes.post("/jobs/{job_id}/rollback")
    async def rollback(job_id: str, wanted: schemas.RollbackRequest) -> schemas.JobView:
        """Makes an earlier version current again: as a new version, from whose weights and state training goes on.

        A running job abandons its round in flight and goes on at once; one that is paused, completed, or failed behind
        its last round is PAUSED until it is resumed. The version has to be kept still: `rounds.keep_versions`.
        """
        job, version, _ = await version_of(job_id, str(wanted.version))
        return await view(await people.roll_back(job.id, version))

    @routes.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> schemas.JobView:
        """Ends the job and abandons its round in flight; its newest versions can still be downloaded."""
        return await view(await people.cancel(job_id))

    @routes.delete("/jobs/{job_id}")
    async def delete(
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

    @routes.get("/jobs/{job_id}/rounds")
    async def rounds(
        job_id: str,
        limit: Annotated[int, Query(ge=1, le=MAX_ROUNDS_LISTED, description="How many at most")] = 50,
        after: Annotated[int, Query(ge=0, lt=2**31, description="Only rounds with a greater number")] = 0,
    ) -> schemas.RoundList:
        """Rounds in the order of their numbers, the one in flight last. `after`: the `next` of the page before."""
        job = await reader.job(job_id)
        page = await reader.page_of_rounds(job, after, limit)
        last = page[-1].number if page else after
        return schemas.RoundList(
            rounds=await round_views(job, page), next=last if page and last < job.rounds_opened else None
        )

    @routes.get("/jobs/{job_id}/rounds/{number}")
    async def round_(job_id: str, number: Annotated[int, PathParameter(ge=1, lt=2**31)]) -> schemas.RoundView:
        job = await reader.job(job_id)
        (shown,) = await round_views(job, [await reader.round(job, number)])
        return shown

    @routes.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=EVENTS_ANSWER)
    async def job_events(
        job_id: str,
        last_event_id: Annotated[
            str | None, Header(pattern=r"^\d{1,18}(-\d{1,18})?$", examples=["1700000000000-0"])
        ] = None,
    ) -> StreamingResponse:
        """Server-sent events from the job's start, or after Last-Event-ID; ends with `end` when the job is final."""
        job = await reader.job(job_id)
        return StreamingResponse(
            events.stream(reader, job, last_event_id or events.FROM_THE_START, door.stopping),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @routes.get("/jobs/{job_id}/model", response_class=StreamingResponse, responses=TAR_ANSWER)
    async def model(job_id: str, version: VersionQuery = "last") -> StreamingResponse:
        """A tar of a folder that `from_pretrained` loads: of this version of the model.

        The newest and the best are always there, others as the job's `rounds.keep_versions` says; version 0, too, until
        the job ends.
        """
        archive = await asyncio.to_thread(ModelArchive, *await whole_version_of(job_id, version), door.blobs)
        return Download(archive, chunks_of(archive), lambda: reader.job(job_id))

    @routes.get("/jobs/{job_id}/adapter", response_class=StreamingResponse, responses=TAR_ANSWER)
    async def adapter(
        job_id: str,
        rank: Annotated[
            int,
            Query(ge=1, lt=2**31, description="Of each matrix; a matrix whose smaller side is less goes along exactly"),
        ] = DEFAULT_RANK,
        version: VersionQuery = "last",
    ) -> StreamingResponse:
        """A tar of a folder that `peft.PeftModel.from_pretrained` loads on top of the base model.

        Holds the best approximation of this rank of every trained matrix's change since version 0, and the head whole,
        of any method's job. `fedgalore.json` in it says which share of the change is kept. Computed while it is sent.
        """
        job, found, quality = await whole_version_of(job_id, version)
        archive = await asyncio.to_thread(AdapterArchive, job, found, rank, quality, door.blobs)
        return Download(archive, chunks_of(archive, turns), lambda: reader.job(job_id))

    return routes
