"""Routes of models: the versions that are kept, and their downloads."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from coordinator.doors.rest import views
from coordinator.doors.rest.downloads import answer
from coordinator.doors.rest.jobs_door import JobsDoor, VersionQuery
from coordinator.doors.rest.teams import teams_of
from coordinator.models.adapter_archive import DEFAULT_RANK, AdapterArchive
from coordinator.models.model_archive import ModelArchive
from coordinator.state.errors import JobUnreadable
from coordinator.state.job_filter import JobFilter
from coordinator.state.job_state import Job, Status
from coordinator.state.limits import MAX_TEXT
from coordinator.state.round_state import ModelVersion
from coordinator.state.versions import is_kept, with_weights

_log = structlog.get_logger(__name__)
MOST_VERSIONS = 20  # of a job, in the list
MAX_LISTED = 100
_TAR = {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}
TAR_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {**_TAR, "description": "The whole tar"},
    206: {**_TAR, "description": "The bytes that Range asks for"},
    304: {"description": "If-None-Match names the ETag of this tar"},
}


class VersionView(BaseModel):
    """A version of a model that can be downloaded."""

    version: int
    id: str = Field(description="Of its weights: versions with the same id are the same")
    sha256: str | None = Field(
        description="Of the file of its trained weights; null: it is made whole when somebody downloads it"
    )
    size_bytes: int = Field(description="Of that file; the download has the rest of the model beside")
    metrics: dict[str, float] = Field(description="What clients measured of it together; empty: nobody has yet")
    held_out: dict[str, float] = Field(description="On the job's evaluation.central")
    newest: bool
    best: bool = Field(description="By the job's evaluation.keep")


class ModelView(BaseModel):
    """The model of a job."""

    job: str
    name: str
    status: Status
    method: str
    source: str = Field(description="What it was trained from")
    task: str
    tags: list[str]
    kept: int = Field(description="Versions that can be downloaded")
    versions: list[VersionView] = Field(description=f"The newest of them first, {MOST_VERSIONS} at most")


class ModelList(BaseModel):
    models: list[ModelView]
    next: str | None = Field(description="Pass it as `after` for the next page; null: this is the last page")


def router(door: JobsDoor) -> APIRouter:
    routes = APIRouter(prefix="/api/v1")
    reader = door.people.reader
    turns = asyncio.Semaphore(1)  # a matrix is decomposed at a time, whoever asks: it takes all cores and much memory

    async def model_view(job: Job) -> ModelView:
        newest = job.ready().model.version
        kept = [version for version in range(newest, -1, -1) if is_kept(job, version)]
        best = job.best_model
        shown = []
        for number, (found, tried) in (await reader.tried(job, kept[:MOST_VERSIONS])).items():
            version = best if best is not None and best.version == number else found
            if version is not None:
                told = views.evaluation(job.parsed, tried, number)
                shown.append(_version_view(job, version, told.metrics if told else {}))
        spec = job.parsed
        return ModelView(
            job=job.id,
            name=spec.name,
            status=job.status,
            method=spec.method.kind,
            source=spec.model.source,
            task=spec.model.task,
            tags=list(job.labels.tags),
            kept=len(kept),
            versions=shown,
        )

    async def view_or_none(job: Job) -> ModelView | None:
        """None where the job's record is damaged, which must not hide the others."""
        try:
            return await model_view(job)
        except JobUnreadable as error:
            _log.error("model_unreadable", job=job.id, reason=str(error))
            return None

    @routes.get("/models", tags=["models"])
    async def list_models(
        request: Request,
        name: Annotated[str, Query(max_length=MAX_TEXT, description="A part of the name, in whatever case")] = "",
        tag: Annotated[
            list[str], Query(description="May be given several times: models of jobs that have all of them")
        ] = [],  # noqa: B006
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED, description="Jobs at most")] = 20,
        after: Annotated[str | None, Query(description="The `next` of the page before")] = None,
    ) -> ModelList:
        """Models of all jobs that have one, the newest job first. Jobs in preparation are passed over."""
        page = await reader.jobs(JobFilter(name=name, tags=frozenset(tag), teams=teams_of(request)), limit, after)
        found = await asyncio.gather(*(view_or_none(job) for job in page if job.model is not None))
        models = [view for view in found if view is not None]
        return ModelList(models=models, next=page[-1].id if len(page) == limit else None)

    @routes.get("/jobs/{job_id}/model", tags=["models"], response_class=Response, responses=TAR_ANSWER)
    async def download_model(request: Request, job_id: str, version: VersionQuery = "last") -> Response:
        """A tar of a folder that `from_pretrained` loads: of this version of the model.

        The newest and the best are always there, others as the job's `rounds.keep_versions` says; version 0, too, until
        the job ends. A download that broke goes on with Range, and If-Range with the ETag that it came with.
        """
        archive = await asyncio.to_thread(ModelArchive, *await door.whole_version_of(job_id, version), door.blobs)
        return answer(request, archive, lambda: reader.job(job_id))

    @routes.get("/jobs/{job_id}/adapter", tags=["models"], response_class=Response, responses=TAR_ANSWER)
    async def download_adapter(
        request: Request,
        job_id: str,
        rank: Annotated[
            int,
            Query(ge=1, lt=2**31, description="Of each matrix; a matrix whose smaller side is less goes along exactly"),
        ] = DEFAULT_RANK,
        version: VersionQuery = "last",
    ) -> Response:
        """A tar of a folder that `peft.PeftModel.from_pretrained` loads on top of the base model.

        Holds the best approximation of this rank of every trained matrix's change since version 0, and the head whole,
        of any method's job. `fedgalore.json` in it says which share of the change is kept. Computed while it is sent,
        also for a Range; its ETag holds as long as this coordinator runs.
        """
        job, found, quality = await door.whole_version_of(job_id, version)
        archive = await asyncio.to_thread(AdapterArchive, job, found, rank, quality, door.blobs)
        return answer(request, archive, lambda: reader.job(job_id), turns)

    return routes


def _version_view(job: Job, version: ModelVersion, metrics: dict[str, float]) -> VersionView:
    version = with_weights(job, version)
    held_out = views.held_out(job.parsed, version)
    return VersionView(
        version=version.version,
        id=version.chain.id,
        sha256=version.weights.sha256 if version.weights else None,
        size_bytes=(version.weights or version.chain.checkpoint.weights).size_bytes,  # weights are all of one size
        metrics=metrics,
        held_out=held_out.metrics if held_out else {},
        newest=version.version == job.ready().model.version,
        best=job.best_model is not None and version.version == job.best_model.version,
    )
